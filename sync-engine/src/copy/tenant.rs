//! Copy of a tenant: every timeline of it that is not deleted, under its own id, ancestors before their branches.
//!
//! A run that was killed is run again: what is whole by then is recognised, what is not is gone on with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use layer_archive::{LayerEntry, Seq, TenantId, TimelineId};
use storage_api::{ErrorKind, Operation};

use super::{CopyOptions, CopyReport, CopyTarget, copy_onto, refuse_damaged};
use crate::catalog::TimelineListing;
use crate::point::AsOf;
use crate::{At, Catalog, Error, Result, Store, TimelineState, TimelineView, ancestors_first};

/// What was found of a timeline of the tenant that is to be copied.
#[derive(Clone, Debug)]
pub enum Standing {
    /// There is a state to be copied.
    State {
        /// Its last record.
        seq: Seq,
        /// The timeline it was branched from.
        ancestor: Option<TimelineId>,
    },
    /// There is none.
    LeftOut(LeftOut),
    /// It could not be read.
    Unreadable(Arc<Error>),
}

/// Why a timeline is not to be copied with its tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// It had no state at the point that was asked for.
    NotThereYet,
    /// Nothing was committed to it: a backup or copy that was not finished.
    NothingCommitted,
    /// It has neither layers nor metadata.
    Empty,
}

/// What a copy of a tenant is about to do.
#[derive(Clone, Debug, Default)]
pub struct TenantCopyPlan {
    /// The timelines to be copied, each after its ancestor.
    pub copies: Vec<PlannedCopy>,
    /// Those that could not be read.
    pub unreadable: Vec<(TimelineId, Arc<Error>)>,
    /// Those that are not to be copied.
    pub left_out: Vec<(TimelineId, LeftOut)>,
}

/// A timeline that is to be copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedCopy {
    /// The timeline.
    pub timeline: TimelineId,
    /// The last record of its state.
    pub seq: Seq,
    /// The timeline it was branched from.
    pub ancestor: Option<TimelineId>,
}

/// What has become of a timeline.
#[derive(Clone, Debug)]
pub enum TimelineCopy {
    /// It was copied.
    Copied(CopyReport),
    /// An earlier run had copied it. Nothing was written.
    Present(CopyReport),
    /// There is something else of its id, which was left alone.
    Differs,
    /// It could not be copied.
    Failed(Arc<Error>),
    /// Its ancestor was not copied.
    Blocked {
        /// The ancestor.
        ancestor: TimelineId,
    },
    /// It was not to be copied.
    LeftOut(LeftOut),
}

/// Reads what there is of the timelines of a tenant as of `at`, but for those that are deleted by then. None where the
/// store has nothing of the tenant.
pub async fn read_tenant(
    store: &Store,
    tenant: &TenantId,
    at: At,
) -> Result<Option<Vec<(TimelineId, Standing)>>> {
    let timelines = Catalog::read(store, Some(tenant), None).await?.timelines;
    if timelines.is_empty() {
        return Ok(None);
    }
    let mut found = Vec::with_capacity(timelines.len());
    for entry in timelines {
        match standing(store, (tenant, &entry.timeline), at, entry.listing).await {
            Ok(None) => {}
            Ok(Some(standing)) => found.push((entry.timeline, standing)),
            Err(error) if is_of_the_store(&error) => return Err(error),
            Err(error) => found.push((entry.timeline, Standing::Unreadable(Arc::new(error)))),
        }
    }
    Ok(Some(found))
}

async fn standing(
    store: &Store,
    id: (&TenantId, &TimelineId),
    at: At,
    listing: Option<TimelineListing>,
) -> Result<Option<Standing>> {
    let state = match TimelineView::open_undeleted(store, id, at, listing).await {
        Err(Error::PointNotFound { is_before_first: true, .. }) => {
            return Ok(Some(Standing::LeftOut(LeftOut::NotThereYet)));
        }
        view => match view? {
            Some(view) => view.state,
            None => return Ok(None),
        },
    };
    Ok(Some(match (state.is_blank(), state.nothing_committed()) {
        (false, _) => {
            let ancestor = state.ancestor().map(|ancestor| ancestor.timeline.clone());
            Standing::State { seq: state.seq(), ancestor }
        }
        (true, true) if at == At::Newest => Standing::LeftOut(LeftOut::NothingCommitted),
        (true, true) => Standing::LeftOut(LeftOut::NotThereYet),
        (true, false) => Standing::LeftOut(LeftOut::Empty),
    }))
}

/// Plans the copy of a tenant of whose timelines this was found.
pub fn plan_tenant_copy(found: Vec<(TimelineId, Standing)>) -> TenantCopyPlan {
    let mut plan = TenantCopyPlan::default();
    let mut states = BTreeMap::new();
    for (timeline, standing) in found {
        match standing {
            Standing::State { seq, ancestor } => {
                states.insert(timeline.clone(), PlannedCopy { timeline, seq, ancestor });
            }
            Standing::LeftOut(why) => plan.left_out.push((timeline, why)),
            Standing::Unreadable(error) => plan.unreadable.push((timeline, error)),
        }
    }
    let timelines: Vec<TimelineId> = states.keys().cloned().collect();
    let ancestor = |copy: &PlannedCopy| Some((copy.timeline.clone(), copy.ancestor.clone()?));
    let order = ancestors_first(&timelines, &states.values().filter_map(ancestor).collect());
    plan.copies = order.iter().filter_map(|timeline| states.remove(timeline)).collect();
    plan
}

/// Copies the timelines of a tenant to `tenant` in `target`, under their ids. What fails keeps its branches from being
/// copied, and nothing else; after an error of a whole store the rest fails with it.
///
/// A branch is compared with its ancestors as the plan has them, so that it makes no difference how the source goes on.
pub async fn execute_tenant_copy(
    (source, from): (&Store, &TenantId),
    plan: TenantCopyPlan,
    (target, tenant): (&Store, &TenantId),
    options: CopyOptions,
) -> Vec<(TimelineId, TimelineCopy)> {
    let TenantCopyPlan { copies, unreadable, left_out } = plan;
    let records = copies.iter().map(|copy| (copy.timeline.clone(), copy.seq)).collect();
    let as_of = AsOf { records, ..AsOf::from(options.at) };
    let mut failed: BTreeSet<TimelineId> = unreadable.iter().map(|(timeline, _)| timeline.clone()).collect();
    let mut done = Vec::new();
    let mut out_of_reach: Option<Arc<Error>> = None;
    for PlannedCopy { timeline, seq, ancestor } in copies {
        let target = CopyTarget { store: target, tenant, timeline: &timeline };
        let copy = match (&out_of_reach, ancestor.filter(|ancestor| failed.contains(ancestor))) {
            (Some(error), _) => TimelineCopy::Failed(Arc::clone(error)),
            (None, Some(ancestor)) => TimelineCopy::Blocked { ancestor },
            (None, None) => match copy_planned(source, (from, seq), &as_of, target, options.clone()).await {
                Err(error) => {
                    let error = Arc::new(error);
                    out_of_reach = is_of_the_store(&error).then(|| Arc::clone(&error));
                    TimelineCopy::Failed(error)
                }
                Ok(copy) => copy,
            },
        };
        if !matches!(copy, TimelineCopy::Copied(_) | TimelineCopy::Present(_)) {
            failed.insert(timeline.clone());
        }
        done.push((timeline, copy));
    }
    done.extend(unreadable.into_iter().map(|(id, error)| (id, TimelineCopy::Failed(error))));
    done.extend(left_out.into_iter().map(|(id, why)| (id, TimelineCopy::LeftOut(why))));
    done
}

/// Copies one timeline, if an earlier run has not.
async fn copy_planned(
    source: &Store,
    (from, seq): (&TenantId, Seq),
    as_of: &AsOf,
    target: CopyTarget<'_>,
    options: CopyOptions,
) -> Result<TimelineCopy> {
    let id = (from, target.timeline);
    let from = match options.at {
        At::Newest => Some(TimelineView::open(source, id.0, id.1, None).await?),
        _ => None,
    };
    let from = match from.filter(|from| from.state.seq() == seq) {
        Some(from) => from,
        // It has gone on since it was planned.
        None => TimelineView::open_at(source, id, At::Seq(seq), None).await?,
    };
    let there = TimelineView::open(target.store, target.tenant, target.timeline, None).await?;
    let state = &there.state;
    if !state.is_free() && !state.is_deleted() {
        if !is_copy(state, &from.state) {
            return Ok(TimelineCopy::Differs);
        }
        // A copy that has lost something since is none.
        refuse_damaged(&there)?;
        return Ok(TimelineCopy::Present(CopyReport { seq: state.seq(), ..CopyReport::of(&from.state) }));
    }
    copy_onto(source, &from, as_of, target, there, options).await.map(TimelineCopy::Copied)
}

/// Whether a timeline is what a copy of `from` is.
fn is_copy(state: &TimelineState, from: &TimelineState) -> bool {
    let facts = |state: &TimelineState| {
        (state.metadata().cloned(), state.disk_consistent_lsn(), state.ancestor().cloned())
    };
    let layer = |layer: &LayerEntry| (layer.name.clone(), layer.raw);
    facts(state) == facts(from) && state.layers().values().map(layer).eq(from.layers().values().map(layer))
}

/// Whether an error is one of a whole store, so that every other timeline would meet it too.
fn is_of_the_store(error: &Error) -> bool {
    match error {
        Error::NoStore { .. }
        | Error::StoreTooNew { .. }
        | Error::StoreCannotFence { .. }
        | Error::UnknownOutcome { .. } => true,
        Error::Ancestor { source, .. } => is_of_the_store(source),
        Error::Storage(error) => match error.kind() {
            ErrorKind::NotFound
            | ErrorKind::Range
            | ErrorKind::AlreadyExists
            | ErrorKind::PreconditionFailed
            | ErrorKind::Cancelled => false,
            ErrorKind::Integrity => !matches!(error.operation(), Operation::Get | Operation::Head),
            _ => true,
        },
        _ => false,
    }
}
