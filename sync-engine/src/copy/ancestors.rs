//! What a branch needs of its ancestors, and whether they have it where the branch is copied to.
//!
//! The ancestors there did not know of the branch while it was elsewhere: they may have let go of what it needs.

use std::sync::Arc;

use layer_archive::{Ancestor, BranchPoint, BundleWriter, LayerEntry, LayerName, Lsn, Seq};

use super::{CopyOptions, CopyTarget};
use crate::branches::{AncestorView, Ancestry, BranchChange, change_branch_point};
use crate::point::AsOf;
use crate::{Draft, Error, Result, Store, TimelineState, TimelineView, TimelineWriter};

/// Tells the ancestor of a branch that is about to be copied to `target`, and checks that it has what the branch needs:
/// in this order, so that nothing of it can be collected in between. Where it lacks something it is told again that
/// there is no branch.
pub(super) async fn begin_branch(
    source: &Store,
    state: &TimelineState,
    as_of: &AsOf,
    target: CopyTarget<'_>,
    options: &CopyOptions,
) -> Result<()> {
    let Some(ancestor) = state.ancestor() else { return Ok(()) };
    let CopyTarget { store, tenant, timeline } = target;
    let branch = BranchPoint { tenant: tenant.clone(), timeline: timeline.clone(), lsn: ancestor.lsn };
    let told = add_branch_point(store, branch.clone(), ancestor, options).await?;
    let Err(error) = require_layers(source, state, as_of, target).await else { return Ok(()) };
    if told == Told::Now {
        let id = (tenant, &ancestor.timeline);
        let ended = change_branch_point(store, id, branch, BranchChange::Ends, options.writer.clone()).await;
        if let Err(error) = ended {
            tracing::warn!(%error, "the ancestor still counts a branch that was not copied: delete the branch");
        }
    }
    Err(error)
}

/// Since when an ancestor knows its branch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Now,
    Before,
}

/// Says in the ancestor, before the branch's first record, that there is a branch.
async fn add_branch_point(
    store: &Store,
    branch: BranchPoint,
    ancestor: &Ancestor,
    options: &CopyOptions,
) -> Result<Told> {
    let view = TimelineView::open(store, &branch.tenant, &ancestor.timeline, None).await?;
    if view.state.seq() == Seq(0) || view.state.is_deleted() {
        return Err(missing(store, &branch, ancestor));
    }
    if view.state.branch_points().any(|point| *point == branch) {
        return Ok(Told::Before);
    }
    options.take_over.require(&view)?;
    let mut writer = TimelineWriter::claim(store, view, options.writer.clone()).await?;
    let draft = Draft { branch_points_added: vec![branch], released: true, ..Draft::default() };
    writer.append(draft, BundleWriter::new()).await?;
    if let Err(error) = writer.detach().await {
        tracing::warn!(%error, "no manifest was written: the next writer tries again");
    }
    Ok(Told::Now)
}

fn missing(store: &Store, branch: &BranchPoint, ancestor: &Ancestor) -> Error {
    let BranchPoint { tenant, timeline, lsn: _ } = branch.clone();
    Error::AncestorMissing { url: store.url().to_owned(), tenant, timeline, ancestor: ancestor.clone() }
}

/// Checks that the ancestors at the target have every layer that the branch needs of those at the source: as these are
/// now, or as they were when the branch was as it is to be copied.
async fn require_layers(
    source: &Store,
    state: &TimelineState,
    as_of: &AsOf,
    target: CopyTarget<'_>,
) -> Result<()> {
    // The same timelines, which know their branches.
    if Arc::ptr_eq(source.objects(), target.store.objects()) && state.tenant() == target.tenant {
        return Ok(());
    }
    let Err(error) = find_lacking(source, state, as_of, target).await else { return Ok(()) };
    let now = AsOf::default();
    if *as_of != now && find_lacking(source, state, &now, target).await.is_ok() {
        return Ok(());
    }
    Err(error)
}

async fn find_lacking(
    source: &Store,
    state: &TimelineState,
    as_of: &AsOf,
    target: CopyTarget<'_>,
) -> Result<()> {
    let CopyTarget { store, tenant, timeline } = target;
    let mut ancestry = Ancestry::of(source, state).at_points(as_of.clone());
    // The way there begins where the branch does, and may lead elsewhere.
    let mut branch = BranchPoint { tenant: tenant.clone(), timeline: timeline.clone(), lsn: Lsn(u64::MAX) };
    let mut next = state.ancestor().cloned();
    while let Some(needed) = ancestry.next().await? {
        let at = needed.view.state.timeline();
        let lsn = next.as_ref().map_or(Lsn(0), |next| branch.lsn.min(next.lsn));
        let there = match next.filter(|next| next.timeline == *at && lsn >= needed.lsn) {
            Some(ancestor) => match TimelineView::open_existing(store, tenant, at, None).await {
                Ok(view) if reaches(&view.state, &needed) => Some(view.state),
                Ok(_) | Err(Error::TimelineNotFound { .. } | Error::TimelineDeleted { .. }) => {
                    return Err(missing(store, &branch, &ancestor));
                }
                Err(error) => return Err(error),
            },
            None => None,
        };
        let lacking = lacking(&needed, there.as_ref());
        if let Some(layer) = lacking.first() {
            return Err(Error::AncestorLacks {
                url: store.url().to_owned(),
                tenant: tenant.clone(),
                timeline: timeline.clone(),
                ancestor: at.clone(),
                layer: (*layer).clone(),
                missing: lacking.len(),
            });
        }
        branch = BranchPoint { timeline: at.clone(), lsn, ..branch };
        next = there.and_then(|state| state.ancestor().cloned());
    }
    Ok(())
}

/// Whether an ancestor is durable as far as its descendant needs it, or as far as it is itself at the source.
fn reaches(there: &TimelineState, needed: &AncestorView) -> bool {
    let source = needed.view.state.disk_consistent_lsn();
    let far = source.map_or(needed.lsn, |lsn| lsn.min(needed.lsn));
    there.disk_consistent_lsn().is_none_or(|lsn| lsn >= far)
}

/// The layers of an ancestor that its descendant needs, and that are not the same `there`.
fn lacking<'a>(needed: &'a AncestorView, there: Option<&TimelineState>) -> Vec<&'a LayerName> {
    let is_there = |layer: &LayerEntry| {
        let there = there.and_then(|there| there.layers().get(&layer.name));
        there.is_some_and(|there| there.raw == layer.raw)
    };
    let layers = needed.view.state.layers().keys().filter_map(|name| needed.layer(name));
    layers.filter(|layer| !is_there(layer)).map(|layer| &layer.name).collect()
}
