//! What was handed over and is not in the store yet, in order. Pure: no clock, no store.
//!
//! A change is *settled* when all of its layers are stored, and its removals and metadata are committed. Layers may be
//! stored ahead of their turn; removals and metadata never are: they apply up to a [cut](Queue::cut), which is a prefix
//! of the changes that needs no layer which is not stored (rule 8 of the protocol).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use layer_archive::{Ancestor, LayerEntry, LayerName, Lsn, PayloadRef, Removed, TimelineMetadata};

use super::Ticket;
use crate::{Error, FailedLayer, LocalLayer};

/// What the caller hands over in one piece.
///
/// Of a name that is both removed and in `layers`, the removed layer is the older one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Frozen layers, in files that stay where they are until they are stored or handed over as removed.
    pub layers: Vec<LocalLayer>,
    /// Layers that are no more. To be handed over before their files are deleted.
    pub removed: Vec<Removed>,
    /// New metadata, and up to which LSN the timeline is durable with it. It may need all layers up to here.
    pub metadata: Option<(TimelineMetadata, Option<Lsn>)>,
    /// Where the timeline was branched off.
    pub ancestor: Option<Ancestor>,
}

/// How far a layer has come.
#[derive(Clone, Debug)]
pub(super) enum LayerFate {
    /// Its upload has not begun.
    Waiting,
    /// It is being packed or sent.
    InFlight,
    /// It is in a payload object that no record names yet.
    Uploaded(Box<(PayloadRef, LayerEntry)>),
    /// It could not be read, or the store has another one of its name; it is tried again.
    Failed(Arc<Error>),
    /// It is in the store.
    Stored,
    /// It was removed before its upload began, by that change: what it held is in what came with that change or before.
    Cancelled(Ticket),
}

/// A layer that was handed over.
#[derive(Clone, Debug)]
pub(super) struct QueuedLayer {
    pub(super) layer: LocalLayer,
    pub(super) fate: LayerFate,
}

/// A change that waits.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) ticket: Ticket,
    pub(super) handed_over: SystemTime,
    pub(super) layers: BTreeMap<LayerName, QueuedLayer>,
    pub(super) removed: Vec<Removed>,
    pub(super) metadata: Option<(TimelineMetadata, Option<Lsn>)>,
    pub(super) ancestor: Option<Ancestor>,
}

/// Which layer of which change.
pub(super) type LayerKey = (Ticket, LayerName);

/// How much waits, and for how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Changes that were handed over and are not settled.
    pub changes: usize,
    /// Layers that are not stored.
    pub layers: usize,
    /// Their raw bytes.
    pub raw_bytes: u64,
    /// When the oldest change was handed over.
    pub oldest: Option<SystemTime>,
}

/// Layers for one record.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    pub(super) layers: Vec<(LayerKey, LocalLayer)>,
    /// Whether they take names that a removal has yet to free. They are uploaded and wait for it.
    pub(super) ahead_of_removal: bool,
}

/// What one timeline has to do.
#[derive(Debug, Default)]
pub(super) struct Queue {
    changes: VecDeque<Pending>,
    /// The last that was handed over.
    last: Ticket,
}

impl Queue {
    /// The last change that was handed over.
    pub(super) fn last(&self) -> Ticket {
        self.last
    }

    pub(super) fn changes(&self) -> impl Iterator<Item = &Pending> {
        self.changes.iter()
    }

    /// Takes a change in. A layer that it removes and whose upload has not begun is not uploaded.
    pub(super) fn push(&mut self, change: Change, now: SystemTime) -> Ticket {
        self.last = self.last.next();
        let Change { layers, removed, metadata, ancestor } = change;
        let queued =
            |layer: LocalLayer| (layer.name.clone(), QueuedLayer { layer, fate: LayerFate::Waiting });
        let layers = layers.into_iter().map(queued).collect();
        for Removed { name, reason: _ } in &removed {
            for earlier in &mut self.changes {
                if let Some(layer) = earlier.layers.get_mut(name) {
                    layer.fate.cancel(self.last);
                }
            }
        }
        let ticket = self.last;
        self.changes.push_back(Pending { ticket, handed_over: now, layers, removed, metadata, ancestor });
        ticket
    }

    /// Puts a change in front of all others: what was there before anything was handed over.
    pub(super) fn push_front(&mut self, change: Change, now: SystemTime) {
        let mut queue = Self::default();
        queue.push(change, now);
        let Some(mut first) = queue.changes.pop_front() else { return };
        first.ticket = Ticket::default();
        for later in &self.changes {
            for Removed { name, reason: _ } in &later.removed {
                if let Some(layer) = first.layers.get_mut(name) {
                    layer.fate.cancel(later.ticket);
                }
            }
        }
        self.changes.push_front(first);
    }

    pub(super) fn lag(&self) -> Lag {
        let mut lag = Lag {
            changes: self.changes.len(),
            oldest: self.changes.iter().map(|change| change.handed_over).min(),
            ..Lag::default()
        };
        for layer in self.changes.iter().flat_map(|change| change.layers.values()) {
            if layer.fate.is_open() {
                lag.layers += 1;
                lag.raw_bytes += layer.layer.raw_size;
            }
        }
        lag
    }

    pub(super) fn failed(&self) -> Vec<FailedLayer> {
        let layers = self.changes.iter().flat_map(|change| &change.layers);
        let failed = layers.filter_map(|(name, layer)| match &layer.fate {
            LayerFate::Failed(error) => Some(FailedLayer { name: name.clone(), error: Arc::clone(error) }),
            _ => None,
        });
        failed.collect()
    }

    /// Raw bytes whose upload has not begun.
    pub(super) fn waiting_bytes(&self) -> u64 {
        let layers = self.changes.iter().flat_map(|change| change.layers.values());
        layers
            .filter(|layer| matches!(layer.fate, LayerFate::Waiting))
            .map(|layer| layer.layer.raw_size)
            .sum()
    }

    /// Chooses what goes into the next record: in order, up to so many raw bytes and layers, and at least one.
    pub(super) fn choose(&self, raw_bytes_max: u64, layers_max: usize) -> Chosen {
        let plain = self.choose_where(raw_bytes_max, layers_max, false);
        if plain.layers.is_empty() { self.choose_where(raw_bytes_max, layers_max, true) } else { plain }
    }

    fn choose_where(&self, raw_bytes_max: u64, layers_max: usize, ahead_of_removal: bool) -> Chosen {
        let mut chosen = Chosen { layers: Vec::new(), ahead_of_removal };
        let (mut taken, mut removed) = (BTreeSet::new(), BTreeSet::new());
        let mut raw_bytes = 0_u64;
        for change in &self.changes {
            removed.extend(change.removed.iter().map(|removed| &removed.name));
            for (name, queued) in &change.layers {
                // Of one name after the other, the first that is not settled comes first.
                let is_first = !queued.fate.is_open() || taken.insert(name);
                if !matches!(queued.fate, LayerFate::Waiting) || !is_first {
                    continue;
                }
                if removed.contains(name) != ahead_of_removal {
                    continue;
                }
                raw_bytes = raw_bytes.saturating_add(queued.layer.raw_size);
                let full = raw_bytes > raw_bytes_max || chosen.layers.len() >= layers_max;
                if full && !chosen.layers.is_empty() {
                    return chosen;
                }
                chosen.layers.push(((change.ticket, name.clone()), queued.layer.clone()));
            }
        }
        chosen
    }

    /// Notes how far a layer has come. One that is not in the store, and that was removed meanwhile, never will be.
    pub(super) fn set(&mut self, (ticket, name): &LayerKey, fate: LayerFate) {
        let mut changes = self.changes.iter_mut().skip_while(|change| change.ticket < *ticket);
        let Some(layer) = changes.next().and_then(|change| change.layers.get_mut(name)) else { return };
        layer.fate = fate;
        let remover = changes.find(|later| later.removed.iter().any(|removed| removed.name == *name));
        if let Some(remover) = remover {
            layer.fate.cancel(remover.ticket);
        }
    }

    /// Whether a layer has failed, and is wanted.
    pub(super) fn has_failed(&self, (ticket, name): &LayerKey) -> bool {
        let change = self.changes.iter().find(|change| change.ticket == *ticket);
        let layer = change.and_then(|change| change.layers.get(name));
        layer.is_some_and(|layer| matches!(layer.fate, LayerFate::Failed(_)))
    }

    /// Nothing is being sent any more: what did not arrive waits again.
    pub(super) fn land(&mut self) {
        let layers = self.changes.iter().flat_map(|change| {
            let in_flight =
                change.layers.iter().filter(|(_, layer)| matches!(layer.fate, LayerFate::InFlight));
            in_flight.map(|(name, _)| (change.ticket, name.clone()))
        });
        for key in layers.collect::<Vec<_>>() {
            self.set(&key, LayerFate::Waiting);
        }
    }

    /// What was found to be stored already may not be any more.
    pub(super) fn compare_again(&mut self) {
        for layer in self.changes.iter_mut().flat_map(|change| change.layers.values_mut()) {
            if let LayerFate::Stored = layer.fate {
                layer.fate = LayerFate::Waiting;
            }
        }
    }

    /// Lets the layers that failed be tried again.
    pub(super) fn retry_failed(&mut self) {
        for layer in self.changes.iter_mut().flat_map(|change| change.layers.values_mut()) {
            if let LayerFate::Failed(_) = layer.fate {
                layer.fate = LayerFate::Waiting;
            }
        }
    }

    /// The layers in payload objects that no record names yet, but for those that take a name which a change after `cut`
    /// has yet to free.
    pub(super) fn uploaded(&self, cut: Option<Ticket>) -> Vec<(LayerKey, PayloadRef, LayerEntry)> {
        let (mut uploaded, mut removed) = (Vec::new(), BTreeSet::new());
        for change in &self.changes {
            if cut.is_none_or(|cut| change.ticket > cut) {
                removed.extend(change.removed.iter().map(|removed| &removed.name));
            }
            for (name, queued) in &change.layers {
                if let LayerFate::Uploaded(there) = &queued.fate
                    && !removed.contains(name)
                {
                    uploaded.push(((change.ticket, name.clone()), there.0, there.1.clone()));
                }
            }
        }
        uploaded
    }

    /// The last change, at most `until`, up to which removals and metadata may be committed once `packed` is stored.
    ///
    /// All layers up to there are stored, or cancelled by a change up to there; and the newest metadata up to there may
    /// take the place of what the store has, as `accepts` says.
    pub(super) fn cut(
        &self,
        until: Ticket,
        packed: &BTreeSet<LayerKey>,
        accepts: impl Fn(&(TimelineMetadata, Option<Lsn>)) -> bool,
    ) -> Option<Ticket> {
        let (mut cut, mut needed, mut accepted) = (None, Ticket::default(), true);
        for change in self.changes.iter().take_while(|change| change.ticket <= until) {
            for (name, queued) in &change.layers {
                match &queued.fate {
                    LayerFate::Stored | LayerFate::Uploaded(_) => {}
                    LayerFate::Cancelled(by) => needed = needed.max(*by),
                    LayerFate::InFlight if packed.contains(&(change.ticket, name.clone())) => {}
                    LayerFate::InFlight | LayerFate::Waiting | LayerFate::Failed(_) => return cut,
                }
            }
            accepted = change.metadata.as_ref().map_or(accepted, &accepts);
            if accepted && needed <= change.ticket {
                cut = Some(change.ticket);
            }
        }
        cut
    }

    /// The changes up to `cut` are settled.
    pub(super) fn settle(&mut self, cut: Ticket) {
        while self.changes.front().is_some_and(|change| change.ticket <= cut) {
            self.changes.pop_front();
        }
    }
}

impl LayerFate {
    /// Whether it is not settled.
    pub(super) fn is_open(&self) -> bool {
        match self {
            Self::Waiting | Self::InFlight | Self::Uploaded(_) | Self::Failed(_) => true,
            Self::Stored | Self::Cancelled(_) => false,
        }
    }

    /// Cancels the upload, if it has not begun or its result is not in the store.
    fn cancel(&mut self, by: Ticket) {
        match self {
            Self::Waiting | Self::Uploaded(_) | Self::Failed(_) => *self = Self::Cancelled(by),
            Self::InFlight | Self::Stored | Self::Cancelled(_) => {}
        }
    }
}
