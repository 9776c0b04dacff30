//! The way from a branch to its ancestors: each is there, and knows its branch.

use layer_archive::{BranchPoint, TenantId, TimelineId};

use super::Finding;
use crate::layout::TimelineKeys;
use crate::{
    Ancestry, BranchChange, Error, Result, Store, TakeOver, TimelineState, TimelineView, WriterOptions,
    change_branch_point,
};

/// What is wrong between a branch and its ancestor.
pub(crate) enum BrokenLink {
    /// The ancestor cannot be used. What is beyond it is not known.
    Lost { branch: TimelineId, error: Error },
    /// The ancestor does not know its branch, and may let go of what that needs.
    Forgotten { ancestor: TimelineId, point: BranchPoint },
}

impl BrokenLink {
    /// Says it of the branch.
    pub(super) fn finding(&self, tenant: &TenantId) -> Result<Finding> {
        let (branch, problem) = match self {
            Self::Lost { branch, error } => (branch, lost(error)),
            Self::Forgotten { ancestor, point } => {
                let BranchPoint { tenant, timeline, lsn } = point;
                let problem = format!(
                    "{tenant}/{ancestor} does not know that {tenant}/{timeline} left it at LSN {lsn}, and may let go of \
                     layers that the branch needs: `layerpack verify --repair` of the branch tells it again"
                );
                (timeline, problem)
            }
        };
        Ok(Finding::new(TimelineKeys::new(tenant, branch)?.prefix(), problem))
    }

    /// Tells an ancestor of its branch again. Returns the ancestor, where that was what was wrong.
    ///
    /// Unlike a backup of the branch this does not own the ancestor: one that is not released is refused.
    pub(crate) async fn mend(
        self,
        store: &Store,
        take_over: TakeOver,
        options: WriterOptions,
    ) -> Result<Option<TimelineId>> {
        let Self::Forgotten { ancestor, point } = self else { return Ok(None) };
        let tenant = point.tenant.clone();
        take_over.require(&TimelineView::open_existing(store, &tenant, &ancestor, None).await?)?;
        change_branch_point(store, (&tenant, &ancestor), point, BranchChange::Begins, options).await?;
        Ok(Some(ancestor))
    }
}

/// Follows a timeline to its ancestors and returns what is wrong on the way.
pub(crate) async fn broken_links(store: &Store, state: &TimelineState) -> Result<Vec<BrokenLink>> {
    let (tenant, mut branch) = (state.tenant().clone(), state.timeline().clone());
    let mut ancestry = Ancestry::of(store, state);
    let mut broken = Vec::new();
    while let Some(ancestor) = ancestry.peek().cloned() {
        let point = BranchPoint { tenant: tenant.clone(), timeline: branch.clone(), lsn: ancestor.lsn };
        let knows_it = match ancestry.next().await {
            Ok(Some(found)) => found.view.state.branch_points().any(|known| *known == point),
            Ok(None) => break,
            Err(error) if is_final(&error) => {
                broken.push(BrokenLink::Lost { branch, error });
                break;
            }
            Err(error) => return Err(error),
        };
        branch = ancestor.timeline.clone();
        if !knows_it {
            broken.push(BrokenLink::Forgotten { ancestor: ancestor.timeline, point });
        }
    }
    Ok(broken)
}

/// Whether an error says how the ancestor is, and not that the store did not answer.
fn is_final(error: &Error) -> bool {
    match error {
        Error::Ancestor { source, .. } => is_final(source),
        Error::AncestorCycle { .. }
        | Error::TooManyAncestors { .. }
        | Error::TimelineNotFound { .. }
        | Error::TimelineDeleted { .. } => true,
        error => error.is_damage(),
    }
}

/// The problem with an ancestor, and what to do.
fn lost(error: &Error) -> String {
    let Error::Ancestor { source, .. } = error else { return error.to_string() };
    let remedy = match &**source {
        Error::TimelineNotFound { .. } => {
            "back it up from its work directory, or restore its objects from another copy"
        }
        Error::TimelineDeleted { .. } => {
            "copy it as of a record before its deletion to a new timeline, and say so with `backup --ancestor`"
        }
        _ => "`layerpack verify --repair` of the ancestor first",
    };
    format!("{error} ({source}): {remedy}")
}
