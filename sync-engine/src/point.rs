//! Points in time: the states that a timeline can be restored to, and finding one of them.
//!
//! A point is the state after a record. Until gc has collected what it needs, it is the newest manifest at or before the
//! record, and the records between.

use std::collections::BTreeMap;
use std::fmt;

use futures::{StreamExt, TryStreamExt, stream};
use layer_archive::{
    BranchPoint, BundleId, BundleIndex, Lsn, RemovalReason, Removed, Seq, TenantId, TimelineId, UnixMillis,
};
use storage_api::ObjectStore;

use crate::branches::is_at_or_below;
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

    /// The point of a state, if there is one to go back to: neither a tombstone nor claims alone.
    fn to_go_back_to(state: &TimelineState) -> Option<Self> {
        (state.seq() > Seq(0) && !state.is_deleted() && !state.nothing_committed()).then(|| Self::of(state))
    }
}

/// The state that is looked for: the newest that is within.
#[derive(Clone, Debug)]
enum Wanted {
    At(At),
    /// A state that counts this branch: it has everything that the branch needs, which later ones may have collected.
    Counting(BranchPoint),
}

impl Wanted {
    /// Whether a state is within; `None` where it does not say, so that a later one may be.
    fn admits(&self, state: &TimelineState) -> Option<bool> {
        match self {
            Self::At(At::Newest) => Some(true),
            Self::At(At::Seq(seq)) => Some(state.seq() <= *seq),
            Self::At(At::Lsn(lsn)) => state.disk_consistent_lsn().map(|own| own <= *lsn),
            Self::At(At::Time(time)) => Some(state.time() <= *time),
            Self::Counting(branch) => state.branch_points().any(|point| point == branch).then_some(true),
        }
    }

    /// The last record that is looked at, where that is known beforehand.
    fn last(&self) -> Option<Seq> {
        if let Self::At(At::Seq(seq)) = self { Some(*seq) } else { None }
    }

    /// Whether the wanted moment is after a deletion that was met on the way to it. Only a time says that.
    fn is_after_deletion(&self) -> bool {
        matches!(self, Self::At(At::Time(_)))
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(at) => at.fmt(f),
            Self::Counting(branch) => write!(f, "when it counted its branch {}", branch.timeline),
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
    /// Reads a timeline as it was at `at`. It must not have been deleted by then; an older state of a timeline that was
    /// deleted since is there until it is collected. An LSN does not say when: it is of before the deletion.
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
        Self::open_past(store, (tenant, timeline), &Wanted::At(at)).await
    }

    /// Reads one of several timelines as it was at `at`: none where it had been deleted by then, or where nothing of it
    /// is left but strays. What is deleted now counts as deleted as of every LSN.
    pub async fn open_undeleted(
        store: &Store,
        (tenant, timeline): (&TenantId, &TimelineId),
        at: At,
        listing: Option<TimelineListing>,
    ) -> Result<Option<Self>> {
        if let At::Lsn(_) = at
            // Where the newest state does not read, an older one may all the same.
            && Self::open(store, tenant, timeline, listing.clone()).await.is_ok_and(|view| view.state.is_deleted())
        {
            return Ok(None);
        }
        match Self::open_at(store, (tenant, timeline), at, listing).await {
            Err(Error::TimelineDeleted { .. } | Error::TimelineNotFound { .. }) => Ok(None),
            view => view.map(Some),
        }
    }

    /// Reads a timeline as it last was when it counted a branch.
    pub(crate) async fn open_counting(store: &Store, branch: &BranchPoint, of: &TimelineId) -> Result<Self> {
        Self::open_past(store, (&branch.tenant, of), &Wanted::Counting(branch.clone())).await
    }

    async fn open_past(
        store: &Store,
        (tenant, timeline): (&TenantId, &TimelineId),
        wanted: &Wanted,
    ) -> Result<Self> {
        let mut missed = None;
        for _ in 0..ATTEMPTS_MAX {
            match Past::read(store, tenant, timeline).await?.find(wanted).await {
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

    /// The points in time there are, oldest first, from the first commit on. Reads the tail of every record among them.
    pub async fn points(&self, store: &Store) -> Result<Vec<Point>> {
        let (tenant, timeline) = (self.state.tenant(), self.state.timeline());
        let past = Past::read(store, tenant, timeline).await?;
        let Some(Points { oldest, newest }) = past.points else { return Ok(Vec::new()) };
        let (mut state, _) = past.base_at(oldest).await?;
        let mut points: Vec<Point> = Point::to_go_back_to(&state).into_iter().collect();
        let mut tails = past.tails(state.seq(), newest);
        while let Some(record) = tails.try_next().await? {
            past.apply(&mut state, &record)?;
            points.extend(Point::to_go_back_to(&state));
        }
        Ok(points)
    }
}

/// Whether a timeline has collected no layer at or below `lsn` since `state`, to its newest record. What was compacted is in
/// other layers, of which none was collected either.
pub(crate) async fn spares_since(store: &Store, state: &TimelineState, lsn: Lsn) -> Result<bool> {
    let past = Past::read(store, state.tenant(), state.timeline()).await?;
    let mut state = state.clone();
    let mut tails = past.tails(state.seq(), past.newest);
    while let Some(record) = tails.try_next().await? {
        let removed = record.commit().into_iter().flat_map(|commit| &commit.removed);
        let mut collected = removed.filter(|removed| removed.reason == RemovalReason::Collected);
        let is_needed = |removed: &Removed| {
            state.layers().get(&removed.name).is_some_and(|layer| is_at_or_below(layer, lsn))
        };
        if collected.any(is_needed) {
            return Ok(false);
        }
        past.apply(&mut state, &record)?;
    }
    Ok(state.seq() == past.newest)
}

/// The state after a record, by an older manifest and the log; none where they do not tell it any more.
pub(crate) async fn state_by_log(
    store: &Store,
    (tenant, timeline): (&TenantId, &TimelineId),
    seq: Seq,
) -> Result<Option<TimelineState>> {
    let past = Past::read(store, tenant, timeline).await?;
    let before = Wanted::At(At::Seq(Seq(seq.0.saturating_sub(1))));
    let replayed = async {
        let (mut state, _) = past.base(&before, &mut Vec::new()).await?;
        let mut tails = past.tails(state.seq(), seq);
        while let Some(record) = tails.try_next().await? {
            past.apply(&mut state, &record)?;
        }
        if state.seq() != seq {
            return Ok(None);
        }
        // A claim that nobody followed may lie in the slot of a record that was collected.
        if past.listing.newest() > seq {
            let next =
                read_record(past.objects, &past.keys.record(seq.next())?, BundleId::Record(seq.next()))
                    .await?;
            if next.commit().is_none_or(|next| next.parent != state.history()) {
                return Ok(None);
            }
        }
        Ok(Some(state))
    };
    match replayed.await {
        Err(Error::PointNotFound { .. }) => Ok(None),
        Err(error) if error.is_damage() || error.is_gone() => Ok(None),
        replayed => replayed,
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
        let newest = listing.newest();
        let points = points_in_time(&listing, newest);
        let empty = TimelineState::empty(tenant.clone(), timeline.clone());
        Ok(Self { objects, keys, listing, empty, newest, points })
    }

    /// The newest state that is within.
    async fn find(&self, wanted: &Wanted) -> Result<TimelineView> {
        let mut damage = Vec::new();
        let (mut state, mut manifest) = self.base(wanted, &mut damage).await?;
        // What was met last that is within, and the records up to it.
        let mut found = (state.seq() > Seq(0) && wanted.admits(&state) == Some(true)).then_some(state.seq());
        let until = wanted.last().unwrap_or(self.newest);
        let mut tails = self.tails(state.seq(), until);
        let mut records = Vec::new();
        let (mut walked, mut is_passed) = (state.clone(), false);
        while let Some(record) = tails.try_next().await? {
            self.apply(&mut walked, &record)?;
            match wanted.admits(&walked) {
                Some(true) if walked.is_deleted() && wanted.is_after_deletion() => return Err(self.deleted()),
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
            // What was wanted may be behind what is not there.
            self.require_given_up(walked.seq().next())?;
            return Err(self.not_found(wanted).await?);
        }
        let is_point = |seq: &Seq| self.is_point(*seq, manifest.is_some());
        let is_wanted = |seq: &Seq| wanted.last().is_none_or(|wanted| *seq == wanted);
        let Some(found) = found.filter(is_point).filter(is_wanted) else {
            return Err(self.not_found(wanted).await?);
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

    /// Whether a state that was found, by a manifest or from nothing, is a point. Claims stay when what is between them is
    /// collected: from nothing only a log that is whole is replayed. What a manifest tells that came late may be collected
    /// in part.
    fn is_point(&self, seq: Seq, by_manifest: bool) -> bool {
        let Some(points) = self.points else { return true };
        let oldest = self.listing.oldest_in_time().filter(|_| by_manifest);
        seq >= oldest.map_or(points.oldest, |oldest| oldest.min(points.oldest))
    }

    /// A record that is not there was collected, if it is of before the oldest manifest that was there in time; else it is
    /// lost, and with it, it may be, the state that was asked for.
    fn require_given_up(&self, seq: Seq) -> Result<()> {
        if self.listing.oldest_in_time().is_some_and(|oldest| seq <= oldest) {
            return Ok(());
        }
        let (tenant, timeline) = (self.empty.tenant().clone(), self.empty.timeline().clone());
        Err(Error::Gap { tenant, timeline, seq, key: self.keys.record(seq)?.to_string() })
    }

    /// The newest manifest that reads and is within, from which the log is whole. Where none says that it is: nothing at
    /// all, where the log is whole from its beginning, or the oldest manifest.
    async fn base(
        &self,
        wanted: &Wanted,
        damage: &mut Vec<Finding>,
    ) -> Result<(TimelineState, Option<ManifestUsed>)> {
        let mut silent = None;
        let newest = self.listing.manifests.keys().next_back().copied();
        for (seq, info) in self.listing.manifests.iter().rev() {
            if wanted.last().is_some_and(|wanted| *seq > wanted) {
                continue;
            }
            match load_manifest(self.objects, &self.empty, *seq, info).await {
                Ok((state, manifest)) => match wanted.admits(&state) {
                    Some(true) if !state.is_deleted() => return Ok((state, manifest)),
                    Some(true) if wanted.is_after_deletion() => return Err(self.deleted()),
                    None => silent = Some((state, manifest)),
                    Some(_) => {}
                },
                Err(Error::Damaged { object, range: _, source }) => {
                    // An older one that does not read is no loss where the log tells the state.
                    if Some(*seq) == newest {
                        let problem = format!("{source}; an older manifest and the log were used instead");
                        damage.push(Finding::new(object, problem));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let is_whole = self.points.is_some_and(|points| points.oldest == Seq(1));
        match silent {
            Some(silent) if !is_whole => Ok(silent),
            _ if self.listing.records.contains_key(&Seq(1)) => Ok((self.empty.clone(), None)),
            _ => Err(self.not_found(wanted).await?),
        }
    }

    fn deleted(&self) -> Error {
        let (tenant, timeline) = (self.empty.tenant().clone(), self.empty.timeline().clone());
        Error::TimelineDeleted { tenant, timeline }
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
    async fn not_found(&self, wanted: &Wanted) -> Result<Error> {
        let (tenant, timeline) = (self.empty.tenant().clone(), self.empty.timeline().clone());
        let at = wanted.to_string();
        let Some(Points { oldest, newest }) = self.points else {
            let is_before_first = self.is_before_first(wanted, &self.empty).await;
            return Ok(Error::PointNotFound { tenant, timeline, at, points: "none".into(), is_before_first });
        };
        let (mut state, _) = self.base_at(oldest).await?;
        let is_before_first = self.is_before_first(wanted, &state).await;
        let mut tails = self.tails(state.seq(), newest);
        let mut first = Point::to_go_back_to(&state);
        let mut last = first;
        while let Some(record) = tails.try_next().await? {
            self.apply(&mut state, &record)?;
            last = Point::to_go_back_to(&state).or(last);
            first = first.or(last);
        }
        let points = first.zip(last).map(|(first, last)| format!("{first} to {last}"));
        let points = points.unwrap_or_else(|| "none".into());
        Ok(Error::PointNotFound { tenant, timeline, at, points, is_before_first })
    }

    /// Whether there was nothing of the timeline yet, for certain: it was not collected. `oldest` is the oldest state
    /// that there is, if not nothing at all.
    async fn is_before_first(&self, wanted: &Wanted, oldest: &TimelineState) -> bool {
        match wanted {
            // The first record is a claim, which stays.
            Wanted::At(At::Time(time)) => {
                let Ok(key) = self.keys.record(Seq(1)) else { return false };
                let first = read_record(self.objects, &key, BundleId::Record(Seq(1))).await;
                first.is_ok_and(|first| first.commit().is_some_and(|commit| commit.time > *time))
            }
            // A branch has no LSN before the one where it was left.
            Wanted::At(At::Lsn(lsn)) => {
                let is_whole = self.points.is_some_and(|points| points.oldest == Seq(1));
                is_whole || oldest.ancestor().is_some_and(|ancestor| ancestor.lsn > *lsn)
            }
            Wanted::At(At::Newest | At::Seq(_)) | Wanted::Counting(_) => false,
        }
    }
}
