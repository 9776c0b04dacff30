//! The past: that every point in time that retention promises can be restored.
//!
//! The log is walked from the oldest manifest to the newest record. Every state on the way is compared with the manifest of
//! that record, where there is one, and the layers that come and go are noted with the points that have them: their bundles
//! must be there too.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, stream};
use layer_archive::{BundleEntry, BundleId, BundleIndex, FormatError, LayerEntry, LayerName, Seq};
use storage_api::{Key, ObjectInfo};

use super::{Finding, NeededBundle, NeededBundles, NeededLayer, Verify, problem};
use crate::gc::Points;
use crate::object::{read_manifest, read_record};
use crate::{Result, TimelineState};

/// Records whose tails are read at the same time.
const TAILS_IN_FLIGHT: usize = 100;

/// A walk along the log.
struct Walk {
    /// The oldest point that is promised.
    oldest: Seq,
    /// What points before the state need, and the state does not.
    past: NeededBundles,
    /// How far the records were looked at. Before the first manifest they are not.
    at: Option<Seq>,
    /// The last state that is known...
    state: Option<TimelineState>,
    /// ...and whether something between it and `at` does not read.
    is_broken: bool,
    /// Since when layers of the state are in it; the others are since it was begun.
    since: BTreeMap<LayerName, Seq>,
    begun: Seq,
    /// What does not read, and the first point that cannot be restored because of it. The last one is not known yet.
    open: Vec<(Finding, Seq)>,
}

impl Verify<'_> {
    /// Walks along the log. What does not read is found with the points it costs. Returns the bundles that hold layers that
    /// older points have and the newest state has not.
    pub(super) async fn history(&mut self) -> Result<NeededBundles> {
        let newest = self.view.state.seq();
        let listing = self.listing;
        let manifests: Vec<(Seq, &ObjectInfo)> =
            listing.manifests.range(..=newest).map(|(seq, info)| (*seq, info)).collect();
        let mut walk = Walk::new(listing.oldest_in_time().unwrap_or_default());
        if manifests.is_empty() {
            walk.take(self.empty());
        }
        for (seq, info) in &manifests {
            self.report.manifests += 1;
            self.report.checked_bytes += info.size;
            let read = self.manifest(*seq, info).await?;
            // Where the first does not read, the log before it may be whole.
            if read.is_err() && walk.at.is_none() && listing.first_gap(Seq(0), *seq).is_none() {
                walk.take(self.empty());
            }
            self.replay(&mut walk, *seq).await?;
            match read {
                Ok(state) => {
                    if walk.is_known() && walk.state.as_ref() != Some(&state) {
                        let why = "it is not what the manifest before it becomes by the log";
                        self.find(Finding::new(&info.key, why));
                    }
                    self.close(&mut walk, *seq);
                    walk.take(state);
                }
                Err(problem) if !walk.is_known() && *seq >= walk.oldest => {
                    walk.open.push((Finding::new(&info.key, problem), *seq));
                }
                // The newest is what every opening begins with.
                Err(problem) if Some(*seq) == manifests.last().map(|(seq, _)| *seq) => {
                    self.find(Finding::new(&info.key, problem));
                }
                Err(problem) => self.note(&info.key, problem),
            }
            walk.at = Some(*seq);
        }
        self.replay(&mut walk, newest).await?;
        self.close(&mut walk, newest.next());
        walk.take(self.view.state.clone());
        Ok(walk.past)
    }

    fn empty(&self) -> TimelineState {
        let state = &self.view.state;
        TimelineState::empty(state.tenant().clone(), state.timeline().clone())
    }

    async fn manifest(&self, seq: Seq, info: &ObjectInfo) -> Result<Result<TimelineState, String>> {
        let manifest = match read_manifest(self.objects, &info.key).await {
            Ok((manifest, _)) => manifest,
            Err(error) => return problem(error).map(Err),
        };
        let state = &self.view.state;
        if (&manifest.tenant, &manifest.timeline, manifest.seq) != (state.tenant(), state.timeline(), seq) {
            return Ok(Err("it is of another timeline or record".into()));
        }
        Ok(TimelineState::from_manifest(manifest).map_err(|error| error.to_string()))
    }

    /// Replays the records up to `until`, as far as they are there.
    async fn replay(&self, walk: &mut Walk, until: Seq) -> Result<()> {
        let Some(after) = walk.at.filter(|at| *at < until) else { return Ok(()) };
        let listed = self.listing.records.range(after.next()..=until);
        let reads = listed.map(|(seq, info)| async move {
            (*seq, &info.key, read_record(self.objects, &info.key, BundleId::Record(*seq)).await)
        });
        let mut reads = stream::iter(reads).buffered(TAILS_IN_FLIGHT);
        let mut next = after.next();
        while let Some((seq, key, read)) = reads.next().await {
            if next < seq {
                walk.miss(&self.view.keys.record(next)?, next, Seq(seq.0 - 1));
            }
            match read {
                Ok(record) => {
                    if let Err(error) = walk.apply(&record) {
                        walk.stop(key, error, seq);
                    }
                }
                Err(error) => walk.stop(key, problem(error)?, seq),
            }
            next = seq.next();
        }
        if next <= until {
            walk.miss(&self.view.keys.record(next)?, next, until);
        }
        walk.at = Some(until);
        Ok(())
    }

    /// Takes in what does not read, now that the state at `known` is known again.
    fn close(&mut self, walk: &mut Walk, known: Seq) {
        for (finding, oldest) in std::mem::take(&mut walk.open) {
            let points = (oldest < known).then(|| Points { oldest, newest: Seq(known.0 - 1) });
            self.find(Finding { points, ..finding });
        }
    }
}

impl Walk {
    fn new(oldest: Seq) -> Self {
        Self {
            oldest,
            past: BTreeMap::new(),
            at: None,
            state: None,
            is_broken: false,
            since: BTreeMap::new(),
            begun: Seq(0),
            open: Vec::new(),
        }
    }

    /// Whether the state is that after the last record that was looked at.
    fn is_known(&self) -> bool {
        self.state.is_some() && !self.is_broken
    }

    /// The records from `first` to `last` are not there.
    fn miss(&mut self, key: &Key, first: Seq, last: Seq) {
        let more = last.0 - first.0;
        let problem = match more {
            0 => "it is missing".to_owned(),
            _ => format!("it is missing, and {more} more, up to record {last}"),
        };
        self.stop(key, problem, first);
    }

    /// From `seq` on the state is not known. What lies at or below the oldest point may have been collected.
    fn stop(&mut self, key: &Key, problem: impl ToString, seq: Seq) {
        self.is_broken = true;
        if seq > self.oldest {
            self.open.push((Finding::new(key, problem), seq));
        }
    }

    /// Goes on from a state that a manifest tells.
    fn take(&mut self, state: TimelineState) {
        match self.state.take() {
            None => self.begun = state.seq(),
            Some(before) => {
                for layer in live(&before).filter(|layer| !has(&state, layer)) {
                    self.end(layer, before.bundle(layer.place.bundle), before.seq());
                }
                for layer in live(&state).filter(|layer| !has(&before, layer)) {
                    self.since.insert(layer.name.clone(), state.seq());
                }
            }
        }
        (self.at, self.is_broken) = (Some(state.seq()), false);
        self.state = Some(state);
    }

    fn apply(&mut self, record: &BundleIndex) -> Result<(), FormatError> {
        if self.is_broken {
            return Ok(());
        }
        let Some(mut state) = self.state.take() else { return Ok(()) };
        let last = state.seq();
        // A tombstone ends them all.
        let names = match record.commit().is_some_and(|commit| commit.flags.deleted) {
            true => state.layers().keys().cloned().collect(),
            false => touched(record),
        };
        let before: BTreeMap<&LayerName, (LayerEntry, Option<BundleEntry>)> = names
            .iter()
            .filter_map(|name| state.layers().get(name).map(|layer| (name, layer)))
            .map(|(name, layer)| (name, (layer.clone(), state.bundle(layer.place.bundle))))
            .collect();
        let applied = state.apply(record);
        for name in &names {
            match before.get(name) {
                Some((layer, _)) if has(&state, layer) => continue,
                Some((layer, bundle)) => self.end(layer, *bundle, last),
                None => {}
            }
            if state.layers().contains_key(name) {
                self.since.insert(name.clone(), state.seq());
            }
        }
        self.state = Some(state);
        applied
    }

    /// A layer is in no state after `last`, at this place.
    fn end(&mut self, layer: &LayerEntry, bundle: Option<BundleEntry>, last: Seq) {
        let first = self.since.remove(&layer.name).unwrap_or(self.begun).max(self.oldest);
        let Some(bundle) = bundle.filter(|_| first <= last) else { return };
        let entry = self.past.entry(bundle.id);
        let layers = &mut entry.or_insert(NeededBundle { bundle, layers: Vec::new() }).layers;
        let past = Some(Points { oldest: first, newest: last });
        layers.push(NeededLayer { layer: layer.clone(), past });
    }
}

/// The layers that a state needs.
fn live(state: &TimelineState) -> impl Iterator<Item = &LayerEntry> {
    state.layers().values().filter(|_| !state.is_deleted())
}

/// Whether a state needs a layer at its place.
fn has(state: &TimelineState, layer: &LayerEntry) -> bool {
    let there = state.layers().get(&layer.name).filter(|there| there.place == layer.place);
    there.is_some() && !state.is_deleted()
}

/// The names of the layers that a record says something of.
fn touched(record: &BundleIndex) -> BTreeSet<LayerName> {
    let mut names: BTreeSet<LayerName> = record.layers().iter().map(|layer| layer.name.clone()).collect();
    if let Some(commit) = record.commit() {
        names.extend(commit.removed.iter().map(|removed| removed.name.clone()));
        names.extend(commit.moved.iter().map(|moved| moved.name.clone()));
        names.extend(commit.added.iter().map(|added| added.name.clone()));
    }
    names
}
