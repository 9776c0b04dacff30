//! The ancestors of what a restore is to bring: a branch is no use without its past.

use std::collections::{BTreeMap, BTreeSet};

use layer_archive::{TenantId, TimelineId};
use pageserver_glue::Past;
use sync_engine::{Ancestry, At, CatalogEntry, Error, Store, TimelineView};

use crate::exit::{Exit, exit_of};

/// What one restore is to bring, and what became of it, so that no timeline is restored twice.
#[derive(Debug)]
pub(crate) struct Wanted {
    at: At,
    selected: BTreeSet<(TenantId, TimelineId)>,
    done: BTreeMap<(TenantId, TimelineId), Past>,
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

impl Wanted {
    pub(crate) fn new(at: At, selected: &[CatalogEntry]) -> Self {
        let selected = selected.iter().map(|entry| (entry.tenant.clone(), entry.timeline.clone())).collect();
        Self { at, selected, done: BTreeMap::new() }
    }

    /// Whether a timeline was asked for, and does not come only because another needs it.
    pub(crate) fn selects(&self, id: &(TenantId, TimelineId)) -> bool {
        self.selected.contains(id)
    }

    pub(crate) fn is_done(&self, tenant: &TenantId, timeline: &TimelineId) -> bool {
        self.done.contains_key(&(tenant.clone(), timeline.clone()))
    }

    /// Takes in a timeline. `past` says whether it and its ancestors are there now.
    pub(crate) fn add(&mut self, id: (TenantId, TimelineId), past: Past) {
        self.done.insert(id, past);
    }

    /// Opens the ancestors of the timeline that `view` shows, as far as they are not done: those that were asked for too
    /// as of the same point, others as the timeline needs them. An error of the whole store is passed on; one of an
    /// ancestor is no reason to leave the branch's own layers in the store.
    pub(crate) async fn ancestors(&self, store: &Store, view: &TimelineView) -> Result<Ancestors, Error> {
        let mut ancestors = Ancestors { views: Vec::new(), past: Past::Whole, error: None };
        let mut ancestry = Ancestry::of(store, &view.state);
        while let Some(next) = ancestry.peek() {
            let id = (view.state.tenant().clone(), next.timeline.clone());
            if let Some(past) = self.done.get(&id) {
                ancestors.past = *past;
                break;
            }
            let next = match self.at {
                At::Newest => ancestry.next().await,
                at if self.selects(&id) => ancestry.next_at(at).await,
                _ => ancestry.next_sparing().await,
            };
            match next {
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
