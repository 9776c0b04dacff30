//! A timeline as it is now, read without writing anything.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use layer_archive::{BundleId, BundleIndex, FormatError, Seq, TenantId, TimelineId};
use storage_api::{ErrorKind, ObjectInfo, ObjectStore};

use crate::catalog::TimelineListing;
use crate::layout::TimelineKeys;
use crate::object::{read_manifest, read_record};
use crate::{Error, Result, Store, TimelineState};

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
    /// Damage that did not keep the state from being read: the object, and what is wrong with it.
    pub damage: Vec<(String, FormatError)>,
}

/// The manifest that a state was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestUsed {
    /// Its last record.
    pub seq: Seq,
    /// Its length.
    pub stored_bytes: u64,
}

/// Why a reading has to start over: something went that was listed.
struct Changed;

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
        let mut known = listing;
        for _ in 0..ATTEMPTS_MAX {
            let listing = match known.take() {
                Some(listing) => listing,
                None => TimelineListing::read(objects, &keys).await?,
            };
            let empty = TimelineState::empty(tenant.clone(), timeline.clone());
            if let Ok(view) = Self::read(objects, keys.clone(), listing, empty).await? {
                return Ok(view);
            }
        }
        Err(Error::Unstable { tenant: tenant.clone(), timeline: timeline.clone(), attempts: ATTEMPTS_MAX })
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

    async fn read(
        objects: &dyn ObjectStore,
        keys: TimelineKeys,
        listing: TimelineListing,
        empty: TimelineState,
    ) -> Result<Result<Self, Changed>> {
        let mut damage = Vec::new();
        let mut base = (empty, None);
        // The newest manifest, or the one before where it does not read.
        for (seq, info) in listing.manifests.iter().rev() {
            match load_manifest(objects, &base.0, *seq, info).await {
                Ok(loaded) => {
                    base = loaded;
                    break;
                }
                Err(Error::Storage(error)) if error.is_not_found() => return Ok(Err(Changed)),
                Err(Error::Damaged { object, source }) => {
                    tracing::warn!(%object, error = %source, "a manifest is damaged: an older one and the log are used");
                    damage.push((object, source));
                }
                Err(error) => return Err(error),
            }
        }
        let (state, manifest) = base;
        let (replayed, replayed_index_bytes) = (0, 0);
        let mut view = Self { keys, state, listing, manifest, replayed, replayed_index_bytes, damage };
        let from = view.state.seq();
        match view.replay(objects).await {
            Ok(()) if view.replayed == 0 => return Ok(Ok(view)),
            Ok(()) => {}
            // Both may only mean that the log was collected while it was read.
            Err(Error::Gap { .. }) if view.moved_on(objects).await? => return Ok(Err(Changed)),
            Err(Error::Storage(error)) if error.is_not_found() => return Ok(Err(Changed)),
            Err(error) => return Err(error),
        }
        // A claim that was delayed until gc had freed its slot looks like history to whoever reads only it.
        if view.moved_on(objects).await? {
            return Ok(Err(Changed));
        }
        debug_assert_eq!(view.state.seq().0, from.0 + view.replayed);
        Ok(Ok(view))
    }

    /// Whether there is a newer manifest now than any that was listed.
    async fn moved_on(&self, objects: &dyn ObjectStore) -> Result<bool> {
        let newest = |manifests: &BTreeMap<Seq, ObjectInfo>| manifests.keys().next_back().copied();
        let now = TimelineListing::read_manifests(objects, &self.keys).await?;
        Ok(newest(&now) > newest(&self.listing.manifests))
    }

    /// Applies the listed records after the state.
    async fn replay(&mut self, objects: &dyn ObjectStore) -> Result<()> {
        let newest_manifest = self.listing.manifests.keys().next_back().copied().unwrap_or_default();
        let last = self.listing.records.keys().next_back().copied().unwrap_or_default().max(newest_manifest);
        let mut wanted = Vec::new();
        let mut seq = self.state.seq().next();
        while seq <= last {
            if !self.listing.records.contains_key(&seq) {
                let (tenant, timeline) = (self.state.tenant().clone(), self.state.timeline().clone());
                let key = self.keys.record(seq)?.to_string();
                return Err(Error::Gap { tenant, timeline, seq, key });
            }
            wanted.push(seq);
            seq = seq.next();
        }
        let keys = self.keys.clone();
        let reads = wanted.into_iter().map(|seq| {
            let key = keys.record(seq);
            async move { Ok::<_, Error>((seq, read_record(objects, &key?, BundleId::Record(seq)).await?)) }
        });
        let mut tails = stream::iter(reads).buffered(TAILS_IN_FLIGHT);
        while let Some((seq, record)) = tails.try_next().await? {
            let object = keys.record(seq)?;
            self.state.apply(&record).map_err(|error| Error::damaged(object, error))?;
            self.replayed += 1;
            self.replayed_index_bytes += record.tail_len();
        }
        Ok(())
    }

    /// Takes the next record, which is known to exist, into the view.
    pub(crate) fn apply(&mut self, record: &BundleIndex) -> Result<()> {
        let object = self.keys.record(self.state.seq().next())?;
        self.state.apply(record).map_err(|error| Error::damaged(object, error))?;
        self.replayed += 1;
        self.replayed_index_bytes += record.tail_len();
        Ok(())
    }
}

async fn load_manifest(
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
