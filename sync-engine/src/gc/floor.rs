//! By which manifest a collection judges, and which points in time there are.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use layer_archive::Seq;
use storage_api::ObjectInfo;

use crate::{TimelineListing, TimelineState};

/// The floor: the newest manifest that is older than `retention` and is not the newest of all.
///
/// `now` is what the store's clock says. What was written later counts as written no earlier than all that came before
/// it, so a clock that goes backwards makes nothing older than it is. Of a deleted timeline nothing newer than the
/// tombstone's manifest can come: that is its floor.
pub fn choose_floor(
    state: &TimelineState,
    listing: &TimelineListing,
    retention: Duration,
    now: SystemTime,
) -> Option<Seq> {
    floors(state, listing, retention, now).next()
}

/// The manifests that may be the floor, the newest first. An older one condemns less than a newer one, so it stands in for
/// one that does not read.
pub(super) fn floors(
    state: &TimelineState,
    listing: &TimelineListing,
    retention: Duration,
    now: SystemTime,
) -> impl Iterator<Item = Seq> {
    let newest = listing.manifests.keys().next_back().copied();
    let is_tombstone = state.is_deleted() && newest == Some(state.seq());
    let may_be_floor = move |seq: &Seq| Some(*seq) != newest || is_tombstone;
    let is_old = move |seq: &Seq| is_zero_or_over(written(listing, *seq), retention, now);
    listing.manifests.keys().rev().copied().filter(may_be_floor).filter(is_old)
}

/// The time of the manifest `seq`: the latest at which it, or anything that was there before it, was stored.
fn written(listing: &TimelineListing, seq: Seq) -> Option<SystemTime> {
    let latest = |objects: &BTreeMap<Seq, ObjectInfo>| {
        objects.range(..=seq).map(|(_, object)| object.last_modified).max()
    };
    latest(&listing.manifests).max(latest(&listing.records))
}

fn is_zero_or_over(written: Option<SystemTime>, retention: Duration, now: SystemTime) -> bool {
    let age = written.and_then(|written| now.duration_since(written).ok()).unwrap_or_default();
    age >= retention
}

/// The states that a timeline can be restored to: those after the records `oldest` to `newest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Points {
    /// The first.
    pub oldest: Seq,
    /// The last.
    pub newest: Seq,
}

impl Points {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.newest.0.saturating_add(1).saturating_sub(self.oldest.0)
    }
}

/// Which points in time there are of a timeline whose newest record is `newest`, as far as a whole list tells.
///
/// A point is a record from which every later one is there, or a manifest below such records.
pub fn points_in_time(listing: &TimelineListing, newest: Seq) -> Option<Points> {
    let mut first = newest.next();
    for seq in listing.records.range(..=newest).rev().map(|(seq, _)| *seq) {
        if seq.next() != first {
            break;
        }
        first = seq;
    }
    // Records from the first can be replayed, on a manifest: or from nothing, where it is record 1.
    let base = listing.manifests.range(Seq(first.0.saturating_sub(1))..=newest).next().map(|(seq, _)| *seq);
    let oldest = if first == Seq(1) && newest >= Seq(1) { Some(Seq(1)) } else { base };
    oldest.map(|oldest| Points { oldest, newest })
}
