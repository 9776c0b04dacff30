//! What a record says, of what waits.

use std::collections::BTreeMap;

use layer_archive::{LayerName, Lsn, PayloadRef, Removed, TimelineMetadata};

use super::Ticket;
use super::queue::{LayerKey, Queue};
use crate::{Draft, TimelineState};

/// The commit that stores the payload objects which wait to be named, and everything up to `cut` besides layers; and
/// the layers in those objects.
pub(super) fn draft(queue: &Queue, state: &TimelineState, cut: Option<Ticket>) -> (Draft, Vec<LayerKey>) {
    let mut draft = Draft::default();
    let (mut payloads, mut keys) = (BTreeMap::<u32, PayloadRef>::new(), Vec::new());
    for (key, payload, layer) in queue.uploaded(cut) {
        payloads.insert(payload.id.number, payload);
        draft.added.push(layer);
        keys.push(key);
    }
    draft.payloads = payloads.into_values().collect();
    let mut removed = BTreeMap::<&LayerName, &Removed>::new();
    let mut metadata: Option<&(TimelineMetadata, Option<Lsn>)> = None;
    for change in queue.changes().take_while(|change| cut.is_some_and(|cut| change.ticket <= cut)) {
        let in_store = change.removed.iter().filter(|removed| state.layers().contains_key(&removed.name));
        removed.extend(in_store.map(|removed| (&removed.name, removed)));
        metadata = change.metadata.as_ref().or(metadata);
        if change.ancestor.is_some() && change.ancestor.as_ref() != state.ancestor() {
            draft.ancestor.clone_from(&change.ancestor);
        }
    }
    draft.removed = removed.into_values().cloned().collect();
    if let Some((metadata, lsn)) = metadata
        && (state.metadata(), state.disk_consistent_lsn()) != (Some(metadata), *lsn)
    {
        draft.metadata = Some(metadata.clone());
        draft.disk_consistent_lsn = *lsn;
    }
    (draft, keys)
}

/// Whether a record of `draft` and no layers would say nothing.
pub(super) fn is_empty(draft: &Draft) -> bool {
    let Draft {
        metadata,
        disk_consistent_lsn,
        ancestor,
        branch_points_added,
        branch_points_removed,
        payloads,
        added,
        moved,
        removed,
        released,
        deleted,
    } = draft;
    let ends = *released || *deleted;
    let facts = metadata.is_some() || disk_consistent_lsn.is_some() || ancestor.is_some() || ends;
    let branches = !branch_points_added.is_empty() || !branch_points_removed.is_empty();
    let layers = !payloads.is_empty() || !added.is_empty() || !moved.is_empty() || !removed.is_empty();
    !facts && !branches && !layers
}
