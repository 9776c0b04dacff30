//! Rebuild: the state of a timeline whose log is damaged, from what is left of its records and payload objects.
//!
//! With a manifest that reads and every record after it, or the whole log, that is the state exactly. Where records are
//! lost behind a manifest it is the state before the first of them, and all layers of the records that follow: their
//! removals and metadata are held back, because what they rely on may be lost. Where no manifest is left, gc may have
//! collected the missing records: it is a superset of the layers then, removed ones among them, and the branches of the
//! timeline are those that say so themselves.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, stream};
use layer_archive::{
    BranchPoint, BundleId, BundleIndex, FormatError, LayerName, PayloadId, Seq, TenantId, TimelineId,
};
use storage_api::ObjectStore;

use crate::catalog::{Catalog, CatalogEntry, TimelineListing};
use crate::layout::TimelineKeys;
use crate::object::{read_index, read_record};
use crate::state::GapIs;
use crate::verify::problem;
use crate::view::load_manifest;
use crate::{Error, Finding, Result, Store, TimelineState, TimelineView};

/// Indexes that are read at the same time.
const TAILS_IN_FLIGHT: usize = 100;

/// More records in a row are not lost or collected: one a second for four months.
const LACKING_MAX: u64 = 10_000_000;

/// A timeline as far as it is known.
#[derive(Clone, Debug)]
pub struct Rebuild {
    /// Its state, which a writer can go on with, and what was found damaged on the way.
    pub view: TimelineView,
    /// The records that are lost or do not read; with none the state is exact. Where no manifest is left, gc may have
    /// collected some of them.
    pub missing: Vec<Seq>,
    /// Layers that records name in payload objects that are not there any more: collected, or lost.
    pub dropped: Vec<LayerName>,
    /// Branch points in the state that only the branches themselves tell of: the records that carried them may be
    /// collected.
    pub branch_points: Vec<BranchPoint>,
}

impl Rebuild {
    /// Whether the state is what it was.
    pub fn is_exact(&self) -> bool {
        self.missing.is_empty() && self.dropped.is_empty()
    }
}

/// Rebuilds the state of a timeline. Writes nothing.
pub async fn rebuild_timeline(store: &Store, tenant: &TenantId, timeline: &TimelineId) -> Result<Rebuild> {
    let keys = TimelineKeys::new(tenant, timeline)?;
    let objects = &**store.objects();
    let listing = TimelineListing::read_whole(objects, &keys).await?;
    if listing.is_empty() {
        return Err(Error::TimelineNotFound { tenant: tenant.clone(), timeline: timeline.clone() });
    }
    let newest = listing.newest();
    let mut damage = Vec::new();
    let empty = TimelineState::empty(tenant.clone(), timeline.clone());
    let (mut state, manifest) = newest_manifest(objects, &listing, empty, &mut damage).await?;
    let base = state.seq();
    require_plausible(&keys, &listing, base)?;
    let records = read_records(objects, &keys, &listing, base, &mut damage).await?;
    if manifest.is_none() && !is_whole(&records, newest) {
        take_payloads(objects, &keys, &listing, &records, &mut state, &mut damage).await?;
    }
    let gap = if manifest.is_some() { GapIs::Lost } else { GapIs::PerhapsCollected };
    let mut missing = Vec::new();
    for seq in (base.0..newest.0).map(|seq| Seq(seq + 1)) {
        let Some(record) = records.get(&seq) else {
            missing.push(seq);
            continue;
        };
        let mut next = state.clone();
        let applied = if missing.is_empty() { next.apply(record) } else { next.apply_after_gap(record, gap) };
        match applied {
            Ok(()) => {
                state = next;
                if !missing.is_empty() {
                    follow_moves(objects, &keys, record, &mut state, &mut damage).await?;
                }
            }
            Err(error) => {
                let object = keys.record(seq)?.to_string();
                damage.push(Finding::new(object, error));
                missing.push(seq);
            }
        }
    }
    let dropped = if missing.is_empty() { Vec::new() } else { without_object(&state, &listing) };
    state.end_rebuild(newest, &dropped);
    let branch_points = match manifest {
        None if !missing.is_empty() => branches(store, &state, &mut damage).await?,
        _ => Vec::new(),
    };
    branch_points.iter().cloned().for_each(|point| state.take_branch_point(point));
    let (claims, replayed, replayed_index_bytes) = ([state.claim()].into(), newest.0 - base.0, 0);
    let view =
        TimelineView { keys, state, listing, manifest, replayed, replayed_index_bytes, claims, damage };
    Ok(Rebuild { view, missing, dropped, branch_points })
}

/// Refuses a timeline in which an object is numbered far beyond what is there: it is a stray, and to take all numbers up to
/// it for lost would take for ever, and end the log behind it.
fn require_plausible(keys: &TimelineKeys, listing: &TimelineListing, base: Seq) -> Result<()> {
    let mut before = base;
    for seq in listing
        .records
        .keys()
        .chain(listing.manifests.keys())
        .filter(|seq| **seq > base)
        .collect::<BTreeSet<_>>()
    {
        let lacking = seq.0 - before.0 - 1;
        if lacking > LACKING_MAX {
            let stray = match listing.records.contains_key(seq) {
                true => keys.record(*seq)?,
                false => keys.manifest(*seq)?,
            };
            let why = format!(
                "the {lacking} records before it are missing: if it does not belong here, move it away and try again"
            );
            return Err(Error::damaged(stray, FormatError::Malformed { what: "number", why }));
        }
        before = *seq;
    }
    Ok(())
}

fn is_whole(records: &BTreeMap<Seq, BundleIndex>, newest: Seq) -> bool {
    records.len() as u64 == newest.0
}

/// The newest manifest that reads, or the empty state.
async fn newest_manifest(
    objects: &dyn ObjectStore,
    listing: &TimelineListing,
    empty: TimelineState,
    damage: &mut Vec<Finding>,
) -> Result<(TimelineState, Option<crate::ManifestUsed>)> {
    for (seq, info) in listing.manifests.iter().rev() {
        match load_manifest(objects, &empty, *seq, info).await {
            Ok(loaded) => return Ok(loaded),
            Err(error) => {
                let (object, problem) = (info.key.to_string(), problem(error)?);
                damage.push(Finding::new(object, problem));
            }
        }
    }
    Ok((empty, None))
}

/// The records after `base` that read.
async fn read_records(
    objects: &dyn ObjectStore,
    keys: &TimelineKeys,
    listing: &TimelineListing,
    base: Seq,
    damage: &mut Vec<Finding>,
) -> Result<BTreeMap<Seq, BundleIndex>> {
    let wanted: Vec<Seq> = listing.records.range(base.next()..).map(|(seq, _)| *seq).collect();
    let reads = wanted.into_iter().map(|seq| async move {
        let key = keys.record(seq)?;
        let read = read_record(objects, &key, BundleId::Record(seq)).await;
        Ok::<_, Error>((seq, key, read))
    });
    let mut reads = stream::iter(reads).buffer_unordered(TAILS_IN_FLIGHT);
    let mut records = BTreeMap::new();
    while let Some(read) = reads.next().await {
        let (seq, key, read) = read?;
        match read {
            Ok(record) => drop(records.insert(seq, record)),
            Err(error) => {
                let (object, problem) = (key.to_string(), problem(error)?);
                damage.push(Finding::new(object, problem));
            }
        }
    }
    Ok(records)
}

/// Takes in the layers that `record`, which was applied to `state`, moves and no record that is left adds: the payload object
/// that they are moved to says what they are.
async fn follow_moves(
    objects: &dyn ObjectStore,
    keys: &TimelineKeys,
    record: &BundleIndex,
    state: &mut TimelineState,
    damage: &mut Vec<Finding>,
) -> Result<()> {
    let Some(commit) = record.commit() else { return Ok(()) };
    let mut read: BTreeMap<PayloadId, Option<BundleIndex>> = BTreeMap::new();
    for moved in &commit.moved {
        let BundleId::Payload(id) = moved.to.bundle else { continue };
        if state.layers().contains_key(&moved.name) {
            continue;
        }
        let index = match read.entry(id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let key = keys.bundle(moved.to.bundle)?;
                let tail_len = layer_archive::limits::TAIL_READ_BYTES;
                let index = match read_index(objects, &key, tail_len).await {
                    Ok(index) => Some(index),
                    Err(error) => {
                        damage.push(Finding::new(&key, problem(error)?));
                        None
                    }
                };
                unknown.insert(index)
            }
        };
        if let Some(index) = index
            && let Err(error) = state.take_moved(index, moved)
        {
            damage.push(Finding::new(keys.bundle(moved.to.bundle)?, error));
        }
    }
    Ok(())
}

/// Takes in the payload objects that no record names any more: what names them may be collected or lost.
async fn take_payloads(
    objects: &dyn ObjectStore,
    keys: &TimelineKeys,
    listing: &TimelineListing,
    records: &BTreeMap<Seq, BundleIndex>,
    state: &mut TimelineState,
    damage: &mut Vec<Finding>,
) -> Result<()> {
    let commits = records.values().filter_map(BundleIndex::commit);
    let named: BTreeSet<_> = commits.flat_map(|commit| &commit.payloads).map(|payload| payload.id).collect();
    for (id, info) in listing.payloads.iter().filter(|(id, _)| !named.contains(*id)) {
        let key = keys.bundle(BundleId::Payload(*id))?;
        let taken = match read_index(objects, &key, layer_archive::limits::TAIL_READ_BYTES).await {
            Ok(index) => state.take_payload(&index, *id).map_err(|error| Error::damaged(&info.key, error)),
            Err(error) => Err(error),
        };
        if let Err(error) = taken {
            let (object, problem) = (key.to_string(), problem(error)?);
            damage.push(Finding::new(object, problem));
        }
    }
    Ok(())
}

/// The branch points that other timelines of the tenant tell of and the state has not. One that does not open is passed by,
/// with a finding: when it is repaired it tells its ancestor itself.
async fn branches(
    store: &Store,
    state: &TimelineState,
    damage: &mut Vec<Finding>,
) -> Result<Vec<BranchPoint>> {
    let mut points = Vec::new();
    for CatalogEntry { tenant, timeline, listing } in
        Catalog::read(store, Some(state.tenant()), None).await?.timelines
    {
        if timeline == *state.timeline() {
            continue;
        }
        let branch = match TimelineView::open(store, &tenant, &timeline, listing).await {
            Ok(view) => view.state,
            Err(error) if error.is_damage() => {
                let prefix = TimelineKeys::new(&tenant, &timeline)?;
                let problem = format!("it may be a branch of {tenant}/{}, but {error}", state.timeline());
                damage.push(Finding::new(prefix.prefix(), problem));
                continue;
            }
            Err(error) => return Err(error),
        };
        let leaves_here = branch.ancestor().filter(|ancestor| ancestor.timeline == *state.timeline());
        if let Some(point) = leaves_here.filter(|_| !branch.is_deleted()).map(|from| branch.leaving(from))
            && state.branch_points().all(|known| *known != point)
        {
            points.push(point);
        }
    }
    Ok(points)
}

/// The layers in objects that are not there.
fn without_object(state: &TimelineState, listing: &TimelineListing) -> Vec<LayerName> {
    let is_there = |id: BundleId| match id {
        BundleId::Record(seq) => listing.records.contains_key(&seq),
        BundleId::Payload(id) => listing.payloads.contains_key(&id),
    };
    let gone = state.layers().values().filter(|layer| !is_there(layer.place.bundle));
    gone.map(|layer| layer.name.clone()).collect()
}
