//! A timeline as it is now, read without writing anything.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use layer_archive::{BundleEntry, BundleId, BundleIndex, FormatError, LayerName, Seq, TenantId, TimelineId};
use storage_api::{ErrorKind, Key, ObjectInfo, ObjectStore};

use crate::catalog::TimelineListing;
use crate::layout::TimelineKeys;
use crate::object::{read_manifest, read_record};
use crate::{At, Error, Finding, Result, Store, TimelineState, rules};

/// Records whose tails are read at the same time.
const TAILS_IN_FLIGHT: usize = 100;
/// How often a timeline is read anew because it changed meanwhile.
const ATTEMPTS_MAX: usize = 8;

/// A timeline's state, and what was seen on the way to it.
#[derive(Clone, Debug)]
pub struct TimelineView {
    /// The keys of the timeline's objects.
    pub keys: TimelineKeys,
    /// The state after the newest record.
    pub state: TimelineState,
    /// The objects that were listed.
    pub listing: TimelineListing,
    /// The manifest that the state was read from.
    pub manifest: Option<ManifestUsed>,
    /// The records that were replayed after it.
    pub replayed: u64,
    /// The bytes of those records' indexes.
    pub replayed_index_bytes: u64,
    /// The claims among those records, and the one that the manifest knows of.
    pub claims: BTreeSet<Seq>,
    /// Damage that did not keep the state from being read.
    pub damage: Vec<Finding>,
}

/// The manifest that a state was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestUsed {
    /// Its last record.
    pub seq: Seq,
    /// Its length.
    pub stored_bytes: u64,
}

/// What came of one reading.
enum Reading {
    Done(Box<TimelineView>),
    /// Something that was listed has gone, or there is a newer manifest.
    Changed,
    /// This record was not listed, though later ones were, or a manifest was.
    Gap(Seq),
}

impl TimelineView {
    /// Reads a timeline. `listing` is what is already known of its objects.
    ///
    /// A timeline without records is not an error: its state is empty.
    pub async fn open(
        store: &Store,
        tenant: &TenantId,
        timeline: &TimelineId,
        listing: Option<TimelineListing>,
    ) -> Result<Self> {
        let keys = TimelineKeys::new(tenant, timeline)?;
        let objects = &**store.objects();
        let (tenant, timeline) = (tenant.clone(), timeline.clone());
        let mut known = listing;
        let mut missed = None;
        for _ in 0..ATTEMPTS_MAX {
            let listing = match (known.take(), missed) {
                (Some(listing), _) => listing,
                (None, None) => TimelineListing::read(objects, &keys).await?,
                // A short list begins behind the newest manifest, which may not be the one that can be read.
                (None, Some(_)) => TimelineListing::read_whole(objects, &keys).await?,
            };
            let empty = TimelineState::empty(tenant.clone(), timeline.clone());
            match Self::read(objects, keys.clone(), listing, empty).await? {
                Reading::Done(view) => return Ok(*view),
                Reading::Changed => {}
                // Only what two lists miss is missing: the first may have been made while records were written.
                Reading::Gap(seq) if missed == Some(seq) => {
                    let key = keys.record(seq)?.to_string();
                    return Err(Error::Gap { tenant, timeline, seq, key });
                }
                Reading::Gap(seq) => missed = Some(seq),
            }
        }
        Err(Error::Unstable { tenant, timeline, attempts: ATTEMPTS_MAX })
    }

    /// Reads a timeline that must exist and not be deleted.
    pub async fn open_existing(
        store: &Store,
        tenant: &TenantId,
        timeline: &TimelineId,
        listing: Option<TimelineListing>,
    ) -> Result<Self> {
        let view = Self::open(store, tenant, timeline, listing).await?;
        let (tenant, timeline) = (tenant.clone(), timeline.clone());
        if view.state.is_deleted() {
            return Err(Error::TimelineDeleted { tenant, timeline });
        }
        if view.state.seq() == Seq(0) {
            return Err(Error::TimelineNotFound { tenant, timeline });
        }
        Ok(view)
    }

    /// Refuses a state by which nothing was committed: to read it as an empty timeline would call an unfinished backup
    /// whole.
    pub fn require_commits(self) -> Result<Self> {
        self.check_commits().map(|()| self)
    }

    pub(crate) fn check_commits(&self) -> Result<()> {
        if !self.state.nothing_committed() {
            return Ok(());
        }
        let (tenant, timeline) = (self.state.tenant().clone(), self.state.timeline().clone());
        if self.is_newest() {
            return Err(Error::NothingCommitted { tenant, timeline });
        }
        let (at, points) = (At::Seq(self.state.seq()).to_string(), "what was committed later".into());
        Err(Error::PointNotFound { tenant, timeline, at, points, is_before_first: true })
    }

    async fn read(
        objects: &dyn ObjectStore,
        keys: TimelineKeys,
        listing: TimelineListing,
        empty: TimelineState,
    ) -> Result<Reading> {
        let mut damage = Vec::new();
        let mut base = (empty, None);
        // The newest manifest, or the one before where it does not read.
        for (seq, info) in listing.manifests.iter().rev() {
            match load_manifest(objects, &base.0, *seq, info).await {
                Ok(loaded) => {
                    base = loaded;
                    break;
                }
                Err(Error::Storage(error)) if error.is_not_found() => return Ok(Reading::Changed),
                Err(Error::Damaged { object, range: _, source }) => {
                    tracing::debug!(%object, error = %source, "a manifest is damaged: an older one and the log are used");
                    let problem = format!("{source}; an older manifest and the log were used instead");
                    damage.push(Finding::new(object, problem));
                }
                Err(error) => return Err(error),
            }
        }
        let (state, manifest) = base;
        let (replayed, replayed_index_bytes) = (0, 0);
        let claims = manifest.iter().map(|_| state.claim()).collect();
        let mut view =
            Self { keys, state, listing, manifest, replayed, replayed_index_bytes, claims, damage };
        match view.replay(objects).await {
            Ok(None) => {}
            // It may only mean that the log was collected while it was read.
            Ok(Some(gap)) if !view.moved_on(objects).await? => return Ok(Reading::Gap(gap)),
            Ok(Some(_)) => return Ok(Reading::Changed),
            Err(Error::Storage(error)) if error.is_not_found() => return Ok(Reading::Changed),
            // So may a record of another history: a delayed claim before a record that still stands.
            Err(Error::Damaged { .. }) if view.moved_on(objects).await? => return Ok(Reading::Changed),
            Err(error) => return Err(error),
        }
        // A claim that was delayed until gc had freed its slot looks like history to whoever reads only it.
        if view.replayed > 0 && view.moved_on(objects).await? {
            return Ok(Reading::Changed);
        }
        view.find_lost_bundles(objects).await?;
        Ok(Reading::Done(Box::new(view)))
    }

    /// Whether the state is the newest that the objects that were listed tell of.
    pub fn is_newest(&self) -> bool {
        let TimelineListing { records, manifests, .. } = &self.listing;
        records.keys().chain(manifests.keys()).all(|seq| *seq <= self.state.seq())
    }

    /// Whether there is a newer manifest now than any that was listed.
    async fn moved_on(&self, objects: &dyn ObjectStore) -> Result<bool> {
        let newest = |manifests: &BTreeMap<Seq, ObjectInfo>| manifests.keys().next_back().copied();
        let now = TimelineListing::read_manifests(objects, &self.keys).await?;
        Ok(newest(&now) > newest(&self.listing.manifests))
    }

    /// Applies the listed records after the state. Returns the first one that was not listed although it must exist.
    async fn replay(&mut self, objects: &dyn ObjectStore) -> Result<Option<Seq>> {
        let newest_manifest = self.listing.manifests.keys().next_back().copied();
        let wanted =
            match rules::to_replay(self.state.seq(), self.listing.records.keys().copied(), newest_manifest) {
                Ok(wanted) => wanted,
                Err(gap) => return Ok(Some(gap)),
            };
        let keys = self.keys.clone();
        let reads = wanted.into_iter().map(|seq| {
            let key = keys.record(seq);
            async move { Ok::<_, Error>((seq, read_record(objects, &key?, BundleId::Record(seq)).await?)) }
        });
        let mut tails = stream::iter(reads).buffered(TAILS_IN_FLIGHT);
        while let Some((seq, record)) = tails.try_next().await? {
            let object = keys.record(seq)?;
            self.take(&record, object)?;
        }
        Ok(None)
    }

    /// Compares the bundles that hold layers with the list, where that is whole, and reports those that are lost.
    async fn find_lost_bundles(&mut self, objects: &dyn ObjectStore) -> Result<()> {
        // What a deleted timeline held is collected.
        if !self.listing.whole || self.state.is_deleted() {
            return Ok(());
        }
        let mut by_bundle: BTreeMap<BundleId, Vec<LayerName>> = BTreeMap::new();
        for layer in self.state.layers().values() {
            by_bundle.entry(layer.place.bundle).or_default().push(layer.name.clone());
        }
        for (id, layers) in by_bundle {
            let Some(bundle) = self.state.bundle(id) else { continue };
            if let Some((object, problem)) = lost(objects, &self.keys, &self.listing, &bundle).await? {
                self.damage.push(Finding { layers, ..Finding::new(object, problem) });
            }
        }
        Ok(())
    }

    /// Takes the next record, which is known to exist, into the view.
    pub(crate) fn apply(&mut self, record: &BundleIndex) -> Result<()> {
        self.take(record, self.keys.record(self.state.seq().next())?)
    }

    fn take(&mut self, record: &BundleIndex, object: Key) -> Result<()> {
        self.state.apply(record).map_err(|error| Error::damaged(object, error))?;
        if self.state.claim() == self.state.seq() {
            self.claims.insert(self.state.seq());
        }
        self.replayed += 1;
        self.replayed_index_bytes += record.tail_len();
        Ok(())
    }
}

pub(crate) async fn load_manifest(
    objects: &dyn ObjectStore,
    expected: &TimelineState,
    seq: Seq,
    info: &ObjectInfo,
) -> Result<(TimelineState, Option<ManifestUsed>)> {
    let (manifest, stored_bytes) = match read_manifest(objects, &info.key).await {
        // A body that breaks its own checksum on the way is as good as damaged.
        Err(Error::Storage(error)) if error.kind() == ErrorKind::Integrity => {
            let why = error.to_string();
            return Err(Error::damaged(&info.key, FormatError::Malformed { what: "manifest", why }));
        }
        read => read?,
    };
    if (&manifest.tenant, &manifest.timeline, manifest.seq) != (expected.tenant(), expected.timeline(), seq) {
        let why = "it is of another timeline or record".into();
        return Err(Error::damaged(&info.key, FormatError::Malformed { what: "manifest", why }));
    }
    let state = TimelineState::from_manifest(manifest).map_err(|error| Error::damaged(&info.key, error))?;
    Ok((state, Some(ManifestUsed { seq, stored_bytes })))
}

/// What is wrong with a bundle that is not as the list says; nothing where it is.
///
/// A list made while a writer goes on may miss what was written since: what it does not show is looked up.
pub(crate) async fn lost(
    objects: &dyn ObjectStore,
    keys: &TimelineKeys,
    listing: &TimelineListing,
    bundle: &BundleEntry,
) -> Result<Option<(String, String)>> {
    let listed = match bundle.id {
        BundleId::Record(seq) => listing.records.get(&seq),
        BundleId::Payload(id) => listing.payloads.get(&id),
    };
    if listed.is_some_and(|info| info.size == bundle.stored_bytes) {
        return Ok(None);
    }
    let key = keys.bundle(bundle.id)?;
    let problem = match objects.head(&key).await {
        Ok(info) if info.size == bundle.stored_bytes => return Ok(None),
        Ok(info) => format!("it has {} bytes instead of {}", info.size, bundle.stored_bytes),
        Err(error) if error.is_not_found() => "it is missing".into(),
        Err(error) => return Err(error.into()),
    };
    Ok(Some((key.to_string(), problem)))
}
