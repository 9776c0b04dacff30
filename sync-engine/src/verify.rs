//! Verify: whether a timeline in the store is whole.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use layer_archive::{
    BundleChecker, BundleEntry, BundleId, BundleIndex, IndexedFrame, LayerEntry, LayerName, Seq,
};
use storage_api::{Crc32c, Key, ObjectInfo, ObjectStore};

use crate::catalog::TimelineListing;
use crate::object::{read_index, read_manifest, read_range, read_record, twice};
use crate::payload::abandoned_uploads;
use crate::view::{TimelineView, lost};
use crate::{Error, Result, Store, TimelineState};

/// Stored bytes of a bundle that are read at once.
const CHUNK_BYTES: u64 = 16 << 20;

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyDepth {
    /// Manifests, and whether every bundle is there and as long as it should be.
    Listing,
    /// Also the checksum that the store keeps of every bundle that holds a live layer, and of every record: their
    /// indexes are read, their frames are not.
    Stored,
    /// Also every byte of every bundle that holds a live layer, and every record.
    Deep,
}

/// Damage: which object, what is wrong, and which layers it costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The object's key.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
    /// The layers that cannot be restored because of it.
    pub layers: Vec<LayerName>,
}

/// What a verification has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Layers of the timeline.
    pub layers: usize,
    /// Bundles that hold them.
    pub bundles: usize,
    /// Manifests that were read.
    pub manifests: usize,
    /// Stored bytes that were read and checked, and bytes whose checksum in the store was.
    pub checked_bytes: u64,
    /// Objects whose checksum was to be compared and of which the store keeps none.
    pub without_checksum: usize,
    /// Uploads in parts that killed writers have left. They are no damage: the next upload in parts aborts them.
    pub abandoned_uploads: usize,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// How often a timeline is verified anew because gc deleted what it had.
const ATTEMPTS_MAX: usize = 4;

/// Verifies the timeline that `view` shows.
///
/// Objects that are missing because the timeline has moved on and gc has deleted them are no damage: it is then
/// verified as it is by that time.
pub async fn verify_timeline(store: &Store, view: &TimelineView, depth: VerifyDepth) -> Result<VerifyReport> {
    let mut newer: Option<TimelineView> = None;
    for _ in 1..ATTEMPTS_MAX {
        let seen = newer.as_ref().unwrap_or(view);
        let report = verify_view(store, seen, depth).await?;
        if report.findings.is_empty() || !seen.may_be_collected(&**store.objects()).await? {
            return Ok(report);
        }
        let (tenant, timeline) = (view.state.tenant(), view.state.timeline());
        newer = Some(TimelineView::open(store, tenant, timeline, None).await?);
    }
    verify_view(store, newer.as_ref().unwrap_or(view), depth).await
}

async fn verify_view(store: &Store, view: &TimelineView, depth: VerifyDepth) -> Result<VerifyReport> {
    let objects = &**store.objects();
    let mut report = VerifyReport { layers: view.state.layers().len(), ..VerifyReport::default() };
    let listing = match view.listing.whole {
        true => view.listing.clone(),
        false => TimelineListing::read_whole(objects, &view.keys).await?,
    };
    report.abandoned_uploads = abandoned_uploads(objects, &view.keys, view.state.claim()).await?.len();
    let mut verify = Verify { objects, view, listing: &listing, report: &mut report };
    verify.manifests().await?;
    verify.claim().await?;
    let mut by_bundle: BTreeMap<BundleId, Vec<&LayerEntry>> = BTreeMap::new();
    // What a deleted timeline held is collected.
    let layers = if view.state.is_deleted() { None } else { Some(view.state.layers().values()) };
    for layer in layers.into_iter().flatten() {
        by_bundle.entry(layer.place.bundle).or_default().push(layer);
    }
    for (id, layers) in by_bundle {
        let Some(bundle) = view.state.bundle(id) else { continue };
        verify.bundle(bundle, &layers, depth).await?;
    }
    if depth != VerifyDepth::Listing {
        verify.records(depth).await?;
    }
    Ok(report)
}

struct Verify<'a> {
    objects: &'a dyn ObjectStore,
    view: &'a TimelineView,
    listing: &'a TimelineListing,
    report: &'a mut VerifyReport,
}

impl Verify<'_> {
    fn find(&mut self, object: &str, problem: impl ToString, layers: Vec<LayerName>) {
        self.report.findings.push(Finding {
            object: object.to_owned(),
            problem: problem.to_string(),
            layers,
        });
    }

    /// The newest claim is there: without it a writer that slept through it would not be fenced.
    async fn claim(&mut self) -> Result<()> {
        let seq = self.view.state.claim();
        let key = self.view.keys.record(seq)?;
        if seq == Seq(0) || self.listing.records.contains_key(&seq) {
            return Ok(());
        }
        match self.objects.head(&key).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {
                self.find(key.as_str(), "the writer's claim is missing", Vec::new())
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Every manifest decodes, and the newest is what the ones before it become by the records between.
    async fn manifests(&mut self) -> Result<()> {
        let mut before: Option<TimelineState> = None;
        for (seq, info) in &self.listing.manifests {
            self.report.manifests += 1;
            self.report.checked_bytes += info.size;
            let state = match self.manifest(*seq, info).await? {
                Ok(state) => state,
                Err(problem) => {
                    self.find(info.key.as_str(), problem, Vec::new());
                    continue;
                }
            };
            if let Some(before) = before.take() {
                self.succession(before, &state, info).await?;
            }
            before = Some(state);
        }
        Ok(())
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

    /// Replays the records between two manifests, as far as they are all there still.
    async fn succession(
        &mut self,
        mut state: TimelineState,
        newer: &TimelineState,
        info: &ObjectInfo,
    ) -> Result<()> {
        while state.seq() < newer.seq() {
            let seq = state.seq().next();
            // Records that hold nothing live are collected; then there is nothing to compare with.
            if !self.listing.records.contains_key(&seq) {
                return Ok(());
            }
            let key = self.view.keys.record(seq)?;
            match read_record(self.objects, &key, BundleId::Record(seq)).await {
                Ok(record) => {
                    if let Err(error) = state.apply(&record) {
                        self.find(key.as_str(), error, Vec::new());
                        return Ok(());
                    }
                }
                Err(error) => {
                    let problem = problem(error)?;
                    self.find(key.as_str(), problem, Vec::new());
                    return Ok(());
                }
            }
        }
        if state != *newer {
            self.find(
                info.key.as_str(),
                "it is not what the manifest before it becomes by the log",
                Vec::new(),
            );
        }
        Ok(())
    }

    /// One bundle with live layers: it is there, it is as long as it should be, and its bytes are right.
    async fn bundle(
        &mut self,
        bundle: BundleEntry,
        layers: &[&LayerEntry],
        depth: VerifyDepth,
    ) -> Result<()> {
        self.report.bundles += 1;
        let key = self.view.keys.bundle(bundle.id)?;
        match lost(self.objects, &self.view.keys, self.listing, &bundle).await? {
            Some((object, problem)) => self.find(&object, problem, names(layers)),
            None if depth == VerifyDepth::Listing => {}
            None => self.contents(bundle, &key, layers, depth).await?,
        }
        Ok(())
    }

    /// Reads the index of a bundle and checks its frames: every byte of them, or what the store says of them.
    async fn contents(
        &mut self,
        bundle: BundleEntry,
        key: &Key,
        layers: &[&LayerEntry],
        depth: VerifyDepth,
    ) -> Result<()> {
        let index = match read_index(self.objects, key, u64::from(bundle.tail_len)).await {
            Ok(index) => index,
            Err(error) => {
                let problem = problem(error)?;
                self.find(key.as_str(), problem, Vec::new());
                return Ok(());
            }
        };
        let indexed: BTreeSet<_> =
            index.entries(bundle.id).into_iter().map(|entry| (entry.raw, entry.place)).collect();
        let strangers: Vec<_> =
            layers.iter().filter(|layer| !indexed.contains(&(layer.raw, layer.place))).copied().collect();
        if !strangers.is_empty() {
            self.find(key.as_str(), "its index contradicts the timeline's state", names(&strangers));
        }
        match depth {
            VerifyDepth::Deep => self.frames(&index, key, layers).await,
            VerifyDepth::Stored | VerifyDepth::Listing => self.stored_checksum(&index, key, layers).await,
        }
    }

    /// Compares the checksum that the store keeps of a bundle with what its index says.
    async fn stored_checksum(
        &mut self,
        index: &BundleIndex,
        key: &Key,
        layers: &[&LayerEntry],
    ) -> Result<()> {
        let expected = Crc32c(index.object_crc32c().0);
        match self.objects.head(key).await {
            Ok(ObjectInfo { crc32c: None, .. }) => self.report.without_checksum += 1,
            Ok(ObjectInfo { crc32c: Some(stored), .. }) if stored == expected => {
                self.report.checked_bytes += index.object_len();
            }
            Ok(ObjectInfo { crc32c: Some(stored), .. }) => {
                let problem = format!("the store keeps the checksum {stored} of it, {expected} is right");
                self.find(key.as_str(), problem, names(layers));
            }
            Err(error) => {
                let problem = problem(error.into())?;
                self.find(key.as_str(), problem, names(layers));
            }
        }
        Ok(())
    }

    /// Reads all frames of a bundle and checks the tar stream in them against its index.
    async fn frames(&mut self, index: &BundleIndex, key: &Key, layers: &[&LayerEntry]) -> Result<()> {
        let mut checker = BundleChecker::new(index).map_err(|error| Error::damaged(key, error))?;
        let mut broken = Vec::new();
        for group in groups(index) {
            let frames = &index.frames()[group];
            let (Some(first), Some(last)) = (frames.first(), frames.last()) else { continue };
            let range = first.start..last.stored_range().end;
            let stored = match self.read_frames(key, frames, range.clone()).await {
                Ok(stored) => stored,
                Err(error) => {
                    let problem = problem(error)?;
                    self.find(key.as_str(), problem, names(layers));
                    return Ok(());
                }
            };
            self.report.checked_bytes += stored.len() as u64;
            for frame in frames {
                let at = |offset: u64| usize::try_from(offset - range.start).unwrap_or(usize::MAX);
                let bytes = stored.get(at(frame.start)..at(frame.stored_range().end)).unwrap_or_default();
                if let Err(error) = checker.push_frame(bytes) {
                    broken.push((frame.stored_range(), error));
                }
            }
        }
        for (range, error) in &broken {
            let hit: Vec<_> = layers.iter().filter(|layer| touches(layer, range)).copied().collect();
            self.find(key.as_str(), error, names(&hit));
        }
        if broken.is_empty() {
            match checker.finish() {
                Ok(wrong) => {
                    for (name, error) in wrong {
                        self.find(key.as_str(), error, vec![name]);
                    }
                }
                Err(error) => self.find(key.as_str(), error, Vec::new()),
            }
        }
        Ok(())
    }

    /// The stored bytes of `frames`. What does not have their checksums is read once more before it is called damaged.
    async fn read_frames(
        &self,
        key: &Key,
        frames: &[IndexedFrame],
        range: std::ops::Range<u64>,
    ) -> Result<Bytes> {
        let stored = twice(|| read_range(self.objects, key, range.clone())).await?;
        let at = |offset: u64| usize::try_from(offset - range.start).unwrap_or(usize::MAX);
        let is_right = |frame: &IndexedFrame| {
            let stored = stored.get(at(frame.start)..at(frame.stored_range().end)).unwrap_or_default();
            layer_archive::Crc32c::of(stored) == frame.crc32c
        };
        if frames.iter().all(is_right) { Ok(stored) } else { read_range(self.objects, key, range).await }
    }

    /// Records that hold nothing live, claims for one, are still what the log is made of.
    async fn records(&mut self, depth: VerifyDepth) -> Result<()> {
        for (seq, info) in &self.listing.records {
            let id = BundleId::Record(*seq);
            if self.view.state.bundle(id).is_some() {
                continue;
            }
            match read_record(self.objects, &info.key, id).await {
                Ok(index) => {
                    self.report.checked_bytes += index.tail_len();
                    match depth {
                        VerifyDepth::Stored => self.stored_checksum(&index, &info.key, &[]).await?,
                        // Dead layers are not worth reading.
                        _ if index.layers().is_empty() => self.frames(&index, &info.key, &[]).await?,
                        _ => {}
                    }
                }
                Err(error) => {
                    let problem = problem(error)?;
                    self.find(info.key.as_str(), problem, Vec::new());
                }
            }
        }
        Ok(())
    }
}

fn names(layers: &[&LayerEntry]) -> Vec<LayerName> {
    layers.iter().map(|layer| layer.name.clone()).collect()
}

fn touches(layer: &LayerEntry, range: &std::ops::Range<u64>) -> bool {
    let location = &layer.place.location;
    location.start < range.end && range.start < location.end()
}

/// Runs of frames that are read with one request each.
fn groups(index: &BundleIndex) -> Vec<std::ops::Range<usize>> {
    let mut groups: Vec<std::ops::Range<usize>> = Vec::new();
    for (number, frame) in index.frames().iter().enumerate() {
        let fits = |group: &&mut std::ops::Range<usize>| {
            frame.stored_range().end - index.frames()[group.start].start <= CHUNK_BYTES
        };
        match groups.last_mut().filter(fits) {
            Some(group) => group.end = number + 1,
            None => groups.push(number..number + 1),
        }
    }
    groups
}

/// What is wrong with an object, where that is what the error says; other errors end the verification.
pub(crate) fn problem(error: Error) -> Result<String> {
    match error {
        Error::Damaged { object: _, range: _, source } => Ok(source.to_string()),
        Error::Storage(error) if error.is_not_found() => Ok("it is missing".into()),
        Error::Storage(error) if error.kind() == storage_api::ErrorKind::Integrity => Ok(error.to_string()),
        other => Err(other),
    }
}
