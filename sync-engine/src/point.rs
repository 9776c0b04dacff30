//! Points in time: the states that a timeline can be restored to, and finding one of them.
//!
//! A point is the state after a record. Until gc has collected what it needs, it is the newest manifest at or before the
//! record, and the records between.

use std::collections::BTreeMap;
use std::fmt;

use futures::{StreamExt, TryStreamExt, stream};
use layer_archive::{BundleId, BundleIndex, Lsn, Seq, TenantId, TimelineId, UnixMillis};
use storage_api::ObjectStore;

use crate::catalog::TimelineListing;
use crate::gc::{Points, points_in_time};
use crate::layout::TimelineKeys;
use crate::object::read_record;
use crate::view::load_manifest;
use crate::{Error, Finding, ManifestUsed, Result, Store, TimelineState, TimelineView};

/// Records whose tails are read at the same time.
const TAILS_IN_FLIGHT: usize = 100;
/// How often a timeline is looked at anew, because it was collected meanwhile.
const ATTEMPTS_MAX: usize = 4;

/// Which state of a timeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum At {
    /// The newest.
    #[default]
    Newest,
    /// The state after this record.
    Seq(Seq),
    /// The newest state that is durable up to this LSN, or less far.
    Lsn(Lsn),
    /// The newest state of this time, by the commits' own, or before.
    Time(UnixMillis),
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => f.write_str("the newest record"),
            Self::Seq(seq) => write!(f, "record {seq}"),
            Self::Lsn(lsn) => write!(f, "LSN {lsn}"),
            Self::Time(time) => write!(f, "{}", crate::error::utc(*time)),
        }
    }
}

/// As of when the timelines of a tenant are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AsOf {
    /// Those of which a certain state is meant.
    pub(crate) records: BTreeMap<TimelineId, Seq>,
    /// The others.
    pub(crate) others: At,
}

impl AsOf {
    /// The point at which a timeline is read.
    pub(crate) fn of(&self, timeline: &TimelineId) -> At {
        self.records.get(timeline).map_or(self.others, |seq| At::Seq(*seq))
    }
}

impl From<At> for AsOf {
    fn from(at: At) -> Self {
        // A number is one timeline's.
        let others = if let At::Seq(_) = at { At::Newest } else { at };
        Self { records: BTreeMap::new(), others }
    }
}

/// A state that a timeline can be restored to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Its last record.
    pub seq: Seq,
    /// When that was committed, by its writer's clock.
    pub time: UnixMillis,
    /// Up to which LSN the timeline is durable there, where its metadata says.
    pub disk_consistent_lsn: Option<Lsn>,
}

impl Point {
    fn of(state: &TimelineState) -> Self {
        Self { seq: state.seq(), time: state.time(), disk_consistent_lsn: state.disk_consistent_lsn() }
    }

    /// Whether the point is at or before `at`; `None` where it does not say.
    fn is_within(&self, at: At) -> Option<bool> {
        match at {
            At::Newest => Some(true),
            At::Seq(seq) => Some(self.seq <= seq),
            At::Lsn(lsn) => self.disk_consistent_lsn.map(|own| own <= lsn),
            At::Time(time) => Some(self.time <= time),
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {} of {}", self.seq, crate::error::utc(self.time))?;
        match self.disk_consistent_lsn {
            Some(lsn) => write!(f, " at LSN {lsn}"),
            None => Ok(()),
        }
    }
}

impl TimelineView {
    /// Reads a timeline as it was at `at`; the newest state must not be deleted, an older one of a timeline that was
    /// deleted since is there until it is collected.
    ///
    /// A view of an older state is to be read, not to be written on. An older state needs only what is at or before it:
    /// it reads where the log is damaged behind it.
    pub async fn open_at(
        store: &Store,
        (tenant, timeline): (&TenantId, &TimelineId),
        at: At,
        listing: Option<TimelineListing>,
    ) -> Result<Self> {
        if at == At::Newest {
            return Self::open_existing(store, tenant, timeline, listing).await;
        }
        let mut missed = None;
        for _ in 0..ATTEMPTS_MAX {
            match Past::read(store, tenant, timeline).await?.find(at).await {
                // A list may miss what was written meanwhile.
                Err(Error::Gap { key, .. }) if missed.as_ref() != Some(&key) => missed = Some(key),
                // It was collected meanwhile; but what is missed again is lost.
                Err(Error::Storage(error))
                    if error.is_not_found() && missed != Some(error.key().to_owned()) =>
                {
                    missed = Some(error.key().to_owned());
                }
                found => return found,
            }
        }
        let (tenant, timeline) = (tenant.clone(), timeline.clone());
        Err(Error::Unstable { tenant, timeline, attempts: ATTEMPTS_MAX })
    }

    /// The points in time there are, oldest first. Reads the tail of every record among them.
    pub async fn points(&self, store: &Store) -> Result<Vec<Point>> {
        let (tenant, timeline) = (self.state.tenant(), self.state.timeline());
        let past = Past::read(store, tenant, timeline).await?;
        let Some(Points { oldest, newest }) = past.points else { return Ok(Vec::new()) };
        let (mut state, _) = past.base_at(oldest).await?;
        let mut points: Vec<Point> = (state.seq() == oldest).then(|| Point::of(&state)).into_iter().collect();
        let mut tails = past.tails(state.seq(), newest);
        while let Some(record) = tails.try_next().await? {
            past.apply(&mut state, &record)?;
            if !state.is_deleted() {
                points.push(Point::of(&state));
            }
        }
        Ok(points)
    }
}

/// What there is of a timeline's past.
struct Past<'a> {
    objects: &'a dyn ObjectStore,
    keys: TimelineKeys,
    listing: TimelineListing,
    empty: TimelineState,
    newest: Seq,
    points: Option<Points>,
}

impl<'a> Past<'a> {
    async fn read(store: &'a Store, tenant: &TenantId, timeline: &TimelineId) -> Result<Self> {
        let objects = &**store.objects();
        let keys = TimelineKeys::new(tenant, timeline)?;
        let listing = TimelineListing::read_whole(objects, &keys).await?;
        if listing.is_empty() {
            return Err(Error::TimelineNotFound { tenant: tenant.clone(), timeline: timeline.clone() });
        }
        let last = |numbers: Option<&Seq>| numbers.copied().unwrap_or_default();
        let newest = last(listing.records.keys().next_back()).max(last(listing.manifests.keys().next_back()));
        let points = points_in_time(&listing, newest);
        let empty = TimelineState::empty(tenant.clone(), timeline.clone());
        Ok(Self { objects, keys, listing, empty, newest, points })
    }

    /// The newest state that is at or before `at`.
    async fn find(&self, at: At) -> Result<TimelineView> {
        let mut damage = Vec::new();
        let (mut state, mut manifest) = self.base(at, &mut damage).await?;
        let base = Point::of(&state);
        // What was met last that is within, and the records up to it.
        let mut found = (base.seq > Seq(0) && base.is_within(at) == Some(true)).then_some(base.seq);
        let until = if let At::Seq(seq) = at { seq } else { self.newest };
        let mut tails = self.tails(base.seq, until);
        let mut records = Vec::new();
        let (mut walked, mut is_passed) = (state.clone(), false);
        while let Some(record) = tails.try_next().await? {
            self.apply(&mut walked, &record)?;
            match Point::of(&walked).is_within(at) {
                // A tombstone is no state to go back to.
                Some(true) if !walked.is_deleted() => found = Some(walked.seq()),
                Some(false) => {
                    is_passed = true;
                    break;
                }
                _ => {}
            }
            records.push(record);
        }
        if !is_passed && walked.seq() < until.min(self.newest) {
            self.require_given_up(walked.seq().next())?;
        }
        let found = match (found, at) {
            (Some(seq), At::Seq(wanted)) if seq != wanted => return Err(self.not_found(at).await?),
            // Claims stay when what is between them is collected: from nothing only a log that is whole is replayed.
            (Some(seq), _) if manifest.is_none() && self.points.is_some_and(|points| seq < points.oldest) => {
                return Err(self.not_found(at).await?);
            }
            (Some(seq), _) => seq,
            (None, _) => return Err(self.not_found(at).await?),
        };
        let replayed =
            records.iter().take_while(|record| record.commit().is_some_and(|commit| commit.seq <= found));
        let (mut count, mut index_bytes) = (0, 0);
        for record in replayed {
            self.apply(&mut state, record)?;
            (count, index_bytes) = (count + 1, index_bytes + record.tail_len());
        }
        manifest = manifest.filter(|manifest| manifest.seq <= found);
        Ok(TimelineView {
            keys: self.keys.clone(),
            claims: [state.claim()].into(),
            state,
            listing: self.listing.clone(),
            manifest,
            replayed: count,
            replayed_index_bytes: index_bytes,
            damage,
        })
    }

    /// A record that is not there was collected, if it is of before the oldest manifest that was there in time; else it is
    /// lost, and with it, it may be, the state that was asked for.
    fn require_given_up(&self, seq: Seq) -> Result<()> {
        if self.listing.oldest_in_time().is_none_or(|oldest| seq <= oldest) {
            return Ok(());
        }
        let (tenant, timeline) = (self.empty.tenant().clone(), self.empty.timeline().clone());
        Err(Error::Gap { tenant, timeline, seq, key: self.keys.record(seq)?.to_string() })
    }

    /// The newest manifest that reads and is at or before `at`, from which the log is whole; or nothing at all, where
    /// the log is whole from its beginning.
    async fn base(&self, at: At, damage: &mut Vec<Finding>) -> Result<(TimelineState, Option<ManifestUsed>)> {
        for (seq, info) in self.listing.manifests.iter().rev() {
            if matches!(at, At::Seq(wanted) if *seq > wanted) {
                continue;
            }
            match load_manifest(self.objects, &self.empty, *seq, info).await {
                Ok(loaded) if Point::of(&loaded.0).is_within(at) == Some(true) && !loaded.0.is_deleted() => {
                    return Ok(loaded);
                }
                Ok(_) => {}
                Err(Error::Damaged { object, range: _, source }) => {
                    let problem = format!("{source}; an older manifest and the log were used instead");
                    damage.push(Finding::new(object, problem));
                }
                Err(error) => return Err(error),
            }
        }
        if self.listing.records.contains_key(&Seq(1)) {
            return Ok((self.empty.clone(), None));
        }
        Err(self.not_found(at).await?)
    }

    /// The state at `oldest`, or the last one before it that can be replayed from.
    async fn base_at(&self, oldest: Seq) -> Result<(TimelineState, Option<ManifestUsed>)> {
        match self.listing.manifests.get(&oldest) {
            Some(info) => load_manifest(self.objects, &self.empty, oldest, info).await,
            None => Ok((self.empty.clone(), None)),
        }
    }

    /// The records after `after`, up to `until` or the first that is not there, by number.
    fn tails(&self, after: Seq, until: Seq) -> stream::BoxStream<'_, Result<BundleIndex>> {
        let there = (after.0..until.0)
            .map(|seq| Seq(seq + 1))
            .take_while(|seq| self.listing.records.contains_key(seq));
        let reads = there.map(move |seq| async move {
            read_record(self.objects, &self.keys.record(seq)?, BundleId::Record(seq)).await
        });
        stream::iter(reads).buffered(TAILS_IN_FLIGHT).boxed()
    }

    fn apply(&self, state: &mut TimelineState, record: &BundleIndex) -> Result<()> {
        let object = self.keys.record(state.seq().next())?;
        state.apply(record).map_err(|error| Error::damaged(object, error))
    }

    /// Says which points there are instead.
    async fn not_found(&self, at: At) -> Result<Error> {
        let (tenant, timeline) = (self.empty.tenant().clone(), self.empty.timeline().clone());
        let Some(Points { oldest, newest }) = self.points else {
            return Ok(Error::TimelineNotFound { tenant, timeline });
        };
        let (mut state, _) = self.base_at(oldest).await?;
        let mut tails = self.tails(state.seq(), newest);
        let mut first = (state.seq() > Seq(0)).then(|| Point::of(&state));
        let mut last = first;
        while let Some(record) = tails.try_next().await? {
            self.apply(&mut state, &record)?;
            first = first.or_else(|| Some(Point::of(&state)));
            last = if state.is_deleted() { last } else { Some(Point::of(&state)) };
        }
        let points = first.zip(last).map(|(first, last)| format!("{first} to {last}"));
        let points = points.unwrap_or_else(|| "none".into());
        Ok(Error::PointNotFound { tenant, timeline, at: at.to_string(), points })
    }
}
