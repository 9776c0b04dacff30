//! What a branch needs of its ancestors, and whether they have it where the branch is copied to.
//!
//! The ancestors there did not know of the branch while it was elsewhere: they may have let go of what it needs.

use std::sync::Arc;

use layer_archive::{Ancestor, BranchPoint, LayerEntry, LayerName, Lsn, Seq};

use super::{CopyOptions, CopyTarget};
use crate::branches::{AncestorView, Ancestry, BranchChange, change_branch_point, is_at_or_below};
use crate::point::AsOf;
use crate::{Error, Result, Store, TimelineState, TimelineView};

/// Tells the ancestor of a branch that is about to be copied to `target`, after it was checked that it has what the branch
/// needs, and checks that once more: nothing of it can be collected any more then. What went in between is an error, and
/// the branch point stays, because somebody else who copies or begins the branch may rely on it.
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
    let view = TimelineView::open(store, tenant, &ancestor.timeline, None).await?;
    if view.state.seq() == Seq(0) || view.state.is_deleted() || view.state.nothing_committed() {
        return Err(missing(store, &branch, ancestor));
    }
    require_layers(source, state, as_of, target).await?;
    if view.state.branch_points().all(|point| *point != branch) {
        options.take_over.require(&view)?;
        let id = (tenant, &ancestor.timeline);
        change_branch_point(store, id, branch, BranchChange::Begins, options.writer.clone()).await?;
    }
    require_layers(source, state, as_of, target).await
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
    // The same timelines.
    if Arc::ptr_eq(source.objects(), target.store.objects()) && state.tenant() == target.tenant {
        return require_spared(source, state, target).await;
    }
    if knows_branch(source, state).await {
        // They have spared what the branch needs.
        if find_lacking(source, state, &AsOf::default(), target).await.is_ok() {
            return Ok(());
        }
    }
    find_lacking(source, state, as_of, target).await
}

/// Checks that the ancestors of a branch still have what it needs, whether they count it or not.
async fn require_spared(source: &Store, state: &TimelineState, target: CopyTarget<'_>) -> Result<()> {
    let mut ancestry = Ancestry::of(source, state);
    while let Some(AncestorView { view, lsn }) = ancestry.next_sparing().await? {
        if view.is_newest() {
            continue;
        }
        let CopyTarget { store, tenant, timeline } = target;
        let now = TimelineView::open(store, tenant, view.state.timeline(), None).await?;
        let now = (!now.state.is_deleted()).then_some(now.state);
        let lacking = lacking(&view.state, lsn, now.as_ref());
        let Some(layer) = lacking.first() else { continue };
        return Err(Error::AncestorLacks {
            url: store.url().to_owned(),
            tenant: tenant.clone(),
            timeline: timeline.clone(),
            ancestor: view.state.timeline().clone(),
            layer: (*layer).clone(),
            missing: lacking.len(),
        });
    }
    Ok(())
}

/// Whether the ancestor at the source counts the branch now. One whose branch has ended may have collected since.
async fn knows_branch(source: &Store, state: &TimelineState) -> bool {
    let Some(ancestor) = state.ancestor() else { return false };
    let view = TimelineView::open_existing(source, state.tenant(), &ancestor.timeline, None).await;
    view.is_ok_and(|view| view.state.branch_points().any(|point| *point == state.leaving(ancestor)))
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
        let lacking = lacking(&needed.view.state, needed.lsn, there.as_ref());
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

/// The layers of an ancestor at or below `lsn` that are not the same `there`.
fn lacking<'a>(needed: &'a TimelineState, lsn: Lsn, there: Option<&TimelineState>) -> Vec<&'a LayerName> {
    let is_there = |layer: &LayerEntry| {
        let there = there.and_then(|there| there.layers().get(&layer.name));
        there.is_some_and(|there| there.raw == layer.raw)
    };
    let layers = needed.layers().values().filter(|layer| is_at_or_below(layer, lsn));
    layers.filter(|layer| !is_there(layer)).map(|layer| &layer.name).collect()
}
