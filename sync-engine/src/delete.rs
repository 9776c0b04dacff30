//! Deleting a timeline: a tombstone, for ever, and the rest of it for gc to collect after retention.

use std::collections::BTreeSet;

use layer_archive::{Ancestor, BranchPoint, BundleWriter, Seq, TenantId, TimelineId};

use crate::catalog::TimelineListing;
use crate::{
    Catalog, Draft, Error, Rebuild, Result, Store, TakeOver, TimelineState, TimelineView, TimelineWriter,
    WriterOptions, rebuild_timeline,
};

/// What a deletion is about to do.
#[derive(Clone, Debug)]
pub struct DeletePlan {
    view: TimelineView,
    /// Layers of the timeline.
    pub layers: usize,
    /// Their raw bytes.
    pub raw_bytes: u64,
    /// Objects of the timeline, which gc deletes after retention but for the claims.
    pub objects: usize,
    /// Their bytes.
    pub stored_bytes: u64,
    /// Whether the tombstone is there already, so that at most its manifest is missing.
    pub is_deleted: bool,
    /// Where its branch point is, which is ended afterwards: the ancestor that it names, or those that know it as a
    /// branch although it has not come so far as to name one.
    pub ancestors: Vec<Ancestor>,
}

impl DeletePlan {
    /// Whether there is nothing of the timeline but a branch point: the tombstone keeps it from ever beginning.
    pub fn never_began(&self) -> bool {
        self.view.state.seq() == Seq(0)
    }
}

/// What a deletion has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// The tombstone.
    pub seq: Seq,
    /// Why the ancestor still counts the branch, where it does: it keeps layers for it until the deletion is run again. It
    /// is no hindrance to deleting the ancestor.
    pub branch_point_left: Option<String>,
}

/// Plans the deletion of the timeline that `view` shows. One that has branches is refused: their layers are in it.
///
/// Branches are looked for among the branch points of the timeline and in every other timeline of its tenant. One that is
/// damaged so far that it is not known whether it is a branch is an error that names it. A timeline without records can be
/// deleted if it is known as a branch.
pub async fn plan_delete(store: &Store, view: TimelineView) -> Result<DeletePlan> {
    let state = &view.state;
    let (tenant, timeline) = (state.tenant().clone(), state.timeline().clone());
    let ancestors = ancestors(store, state).await?;
    if state.seq() == Seq(0) && ancestors.is_empty() {
        return Err(Error::TimelineNotFound { tenant, timeline });
    }
    if !state.is_deleted() {
        let branches = branches(store, &view).await?;
        if !branches.is_empty() {
            let branches = branches.into_iter().collect::<Vec<_>>().join(", ");
            return Err(Error::HasBranches { tenant, timeline, branches });
        }
    }
    let listing = match view.listing.whole {
        true => view.listing.clone(),
        false => TimelineListing::read_whole(&**store.objects(), &view.keys).await?,
    };
    let state = &view.state;
    Ok(DeletePlan {
        layers: state.layers().len(),
        raw_bytes: state.layers().values().map(|layer| layer.raw.size).sum(),
        objects: listing.records.len() + listing.manifests.len() + listing.payloads.len(),
        stored_bytes: listing.stored_bytes(),
        is_deleted: state.is_deleted(),
        ancestors,
        view,
    })
}

/// The ancestor that a timeline names. Where it has nothing, and so names none, every timeline of its tenant is asked
/// whether it knows it as a branch: it may have begun no further than that.
async fn ancestors(store: &Store, state: &TimelineState) -> Result<Vec<Ancestor>> {
    let has_nothing = state.layers().is_empty() && state.metadata().is_none();
    if state.ancestor().is_some() || !has_nothing {
        return Ok(state.ancestor().cloned().into_iter().collect());
    }
    let mut ancestors = Vec::new();
    for other in Catalog::read(store, Some(state.tenant()), None).await?.timelines {
        let id = (&other.tenant, &other.timeline);
        let other = sibling(store, state.timeline(), id, other.listing).await?;
        if other.is_deleted() {
            continue;
        }
        let is_it =
            |point: &&BranchPoint| (&point.tenant, &point.timeline) == (state.tenant(), state.timeline());
        let lsns = other.branch_points().filter(is_it).map(|point| point.lsn);
        ancestors.extend(lsns.map(|lsn| Ancestor { timeline: other.timeline().clone(), lsn }));
    }
    Ok(ancestors)
}

/// The branches of a timeline that are not deleted, as people read them.
async fn branches(store: &Store, view: &TimelineView) -> Result<BTreeSet<String>> {
    let (tenant, own) = (view.state.tenant(), view.state.timeline());
    let mut branches = BTreeSet::new();
    for BranchPoint { tenant, timeline, lsn } in view.state.branch_points() {
        // A branch without records yet is one that is being made.
        if !sibling(store, own, (tenant, timeline), None).await?.is_deleted() {
            branches.insert(format!("{tenant}/{timeline} at {lsn}"));
        }
    }
    for other in Catalog::read(store, Some(tenant), None).await?.timelines {
        if other.timeline == *own {
            continue;
        }
        let state = sibling(store, own, (&other.tenant, &other.timeline), other.listing).await?;
        if let Some(ancestor) = state.ancestor().filter(|ancestor| ancestor.timeline == *own)
            && !state.is_deleted()
        {
            branches.insert(format!("{}/{} at {}", other.tenant, other.timeline, ancestor.lsn));
        }
    }
    Ok(branches)
}

/// Another timeline, which may be a branch of `own`. One that is damaged is rebuilt as far as it is there, for its ancestor:
/// that is in its first records, and in every manifest.
async fn sibling(
    store: &Store,
    own: &TimelineId,
    (tenant, timeline): (&TenantId, &TimelineId),
    listing: Option<TimelineListing>,
) -> Result<TimelineState> {
    let damaged = match TimelineView::open(store, tenant, timeline, listing).await {
        Err(error) if error.is_damage() => error,
        opened => return Ok(opened?.state),
    };
    let unknown = |source| Error::SiblingDamaged {
        tenant: tenant.clone(),
        timeline: own.clone(),
        sibling: timeline.clone(),
        source: Box::new(source),
    };
    match rebuild_timeline(store, tenant, timeline).await {
        Ok(rebuild) => {
            let Rebuild { view: TimelineView { state, manifest, .. }, .. } = &rebuild;
            // With no manifest, what names its ancestor may be what is lost. A tombstone needs none.
            let is_known =
                state.is_deleted() || state.ancestor().is_some() || manifest.is_some() || rebuild.is_exact();
            if is_known { Ok(rebuild.view.state) } else { Err(unknown(damaged)) }
        }
        Err(error) if error.is_damage() => Err(unknown(error)),
        Err(error) => Err(error),
    }
}

/// Writes the tombstone and the manifest that says so. Whoever wrote the timeline, or was about to begin it, is fenced;
/// what it still sends finds no claim to belong to, and is collected with the rest.
///
/// A deletion that was killed is ended by the next. On a timeline that is not released it refuses, unless it takes over.
pub async fn execute_delete(
    store: &Store,
    plan: DeletePlan,
    take_over: TakeOver,
    options: WriterOptions,
) -> Result<Deletion> {
    let ancestors: BTreeSet<TimelineId> =
        plan.ancestors.iter().map(|ancestor| ancestor.timeline.clone()).collect();
    let branch = (plan.view.state.tenant().clone(), plan.view.state.timeline().clone());
    let seq = if plan.is_deleted {
        put_tombstone_manifest(store, &plan.view).await?;
        plan.view.state.seq()
    } else {
        take_over.require(&plan.view)?;
        let mut writer = TimelineWriter::claim(store, plan.view, options.clone()).await?;
        // A branch may have been made between the plan and the claim.
        let branches = branches(store, writer.view()).await?;
        if !branches.is_empty() {
            let (tenant, timeline) = branch;
            let branches = branches.into_iter().collect::<Vec<_>>().join(", ");
            return Err(writer.release_after(Error::HasBranches { tenant, timeline, branches }).await);
        }
        writer
            .append(Draft { deleted: true, released: true, ..Draft::default() }, BundleWriter::new())
            .await?;
        writer.put_manifest().await?;
        writer.view().state.seq()
    };
    let mut branch_point_left = None;
    for ancestor in ancestors {
        if let Err(error) = end_branch(store, &branch, &ancestor, take_over, options.clone()).await {
            branch_point_left = Some(error.to_string());
        }
    }
    Ok(Deletion { seq, branch_point_left })
}

async fn put_tombstone_manifest(store: &Store, view: &TimelineView) -> Result<()> {
    let key = view.keys.manifest(view.state.seq())?;
    let unpackable = |source| Error::Unpackable { what: key.to_string(), source };
    let bytes = view.state.to_manifest().encode().map_err(unpackable)?;
    let put = store.objects().put(&key, storage_api::Body::new(bytes), storage_api::PutMode::Create).await;
    match put {
        // The state at a record is what it is, whoever writes it down.
        Err(error) if !error.is_already_exists() => Err(error.into()),
        _ => Ok(()),
    }
}

/// Says in the ancestor that the branch is no more.
async fn end_branch(
    store: &Store,
    (tenant, timeline): &(TenantId, TimelineId),
    ancestor: &TimelineId,
    take_over: TakeOver,
    options: WriterOptions,
) -> Result<()> {
    let view = TimelineView::open(store, tenant, ancestor, None).await?;
    let is_it = |point: &&BranchPoint| (&point.tenant, &point.timeline) == (tenant, timeline);
    let ended: Vec<BranchPoint> = view.state.branch_points().filter(is_it).cloned().collect();
    if ended.is_empty() || view.state.is_deleted() {
        return Ok(());
    }
    take_over.require(&view)?;
    let mut writer = TimelineWriter::claim(store, view, options).await?;
    let draft = Draft { branch_points_removed: ended, released: true, ..Draft::default() };
    writer.append(draft, BundleWriter::new()).await?;
    writer.detach().await?;
    Ok(())
}
