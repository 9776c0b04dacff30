//! The ancestors of what a restore is to bring: a branch is no use without its past.

use std::collections::BTreeMap;

use layer_archive::{TenantId, TimelineId};
use pageserver_glue::Past;
use sync_engine::{Ancestry, Error, Store, TimelineView};

use crate::exit::{Exit, exit_of};

/// What became of the timelines of one restore, so that none is restored twice.
#[derive(Debug, Default)]
pub(crate) struct Done {
    timelines: BTreeMap<(TenantId, TimelineId), Past>,
}

/// The ancestors of a timeline that are to be restored before it.
pub(crate) struct Ancestors {
    /// The farthest first.
    pub(crate) views: Vec<TimelineView>,
    /// What there is of those before them.
    pub(crate) past: Past,
    /// Why there are no more, where there should be.
    pub(crate) error: Option<Error>,
}

impl Done {
    pub(crate) fn contains(&self, tenant: &TenantId, timeline: &TimelineId) -> bool {
        self.timelines.contains_key(&(tenant.clone(), timeline.clone()))
    }

    /// Takes in a timeline. `past` says whether it and its ancestors are there now.
    pub(crate) fn add(&mut self, view: &TimelineView, past: Past) {
        let id = (view.state.tenant().clone(), view.state.timeline().clone());
        self.timelines.insert(id, past);
    }

    /// Opens the ancestors of the timeline that `view` shows, as far as they are not done. An error of the whole store is
    /// passed on; one of an ancestor is no reason to leave the branch's own layers in the store.
    pub(crate) async fn ancestors(&self, store: &Store, view: &TimelineView) -> Result<Ancestors, Error> {
        let mut ancestors = Ancestors { views: Vec::new(), past: Past::Whole, error: None };
        let mut ancestry = Ancestry::of(store, &view.state);
        while let Some(next) = ancestry.peek() {
            if let Some(past) = self.timelines.get(&(view.state.tenant().clone(), next.timeline.clone())) {
                ancestors.past = *past;
                break;
            }
            match ancestry.next().await {
                Ok(Some(ancestor)) => ancestors.views.push(ancestor.view),
                Ok(None) => break,
                Err(error) if exit_of(&error) == Exit::Unreachable => return Err(error),
                Err(error) => {
                    ancestors.past = Past::Missing;
                    ancestors.error = Some(error);
                    break;
                }
            }
        }
        ancestors.views.reverse();
        Ok(ancestors)
    }
}
