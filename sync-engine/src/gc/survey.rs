//! What a collection must know before it judges: read from the store, and checked against itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use futures::{StreamExt, TryStreamExt, stream};
use layer_archive::{BranchPoint, BundleId, BundleIndex, FormatError, PayloadId, Seq, TenantId, TimelineId};
use storage_api::{ObjectStore, PendingUpload};

use super::floor::floors;
use super::plan::live_bundles;
use super::{GcPolicy, clock};
use crate::object::read_record;
use crate::payload::abandoned_uploads;
use crate::view::load_manifest;
use crate::{Error, Finding, Result, Store, TimelineListing, TimelineState, TimelineView};

/// Records whose tails are read at the same time.
const TAILS_IN_FLIGHT: usize = 100;
/// How often a timeline is looked at anew, because it was collected meanwhile.
const ATTEMPTS_MAX: usize = 8;

/// What was found of a timeline.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The newest state and every object.
    pub view: TimelineView,
    /// What the store's clock says.
    pub now: SystemTime,
    /// The state at the floor. The records after it make it the newest state: that was tried.
    pub floor: Option<TimelineState>,
    /// The newest manifest that can become the floor.
    pub(super) next_floor: Option<NextFloor>,
    /// The payload objects that records after [`floor`](Self::floor) name, or where there is none after the base that
    /// was replayed.
    pub(super) named: BTreeMap<PayloadId, Seq>,
    /// Which records are claims, as far as it is known.
    pub known: KnownRecords,
    /// Uploads in parts of writers that can commit nothing any more.
    pub uploads: Vec<PendingUpload>,
    /// Branch points of branches that are deleted, whatever the timeline was told of it.
    pub ended_branches: Vec<BranchPoint>,
    /// Damage that forbids to delete anything.
    pub damage: Vec<Finding>,
    /// Records that may be claims or garbage, and manifests of which an older one stood in as the floor, that do not read.
    pub doubtful: Vec<Finding>,
    retention: std::time::Duration,
}

/// A manifest that becomes the floor when it is old enough.
#[derive(Clone, Debug)]
pub(super) struct NextFloor {
    pub(super) seq: Seq,
    pub(super) live: BTreeSet<BundleId>,
}

/// Which records are claims and which are not, as far as somebody has looked. To be kept from one run to the next, so
/// that a record is looked at once.
#[derive(Clone, Debug, Default)]
pub struct KnownRecords {
    claims: BTreeSet<Seq>,
    ordinary: BTreeSet<Seq>,
}

impl KnownRecords {
    /// Whether a record is known to be a claim.
    pub fn is_claim(&self, seq: Seq) -> bool {
        self.claims.contains(&seq)
    }

    /// Whether a record is known not to be one.
    pub fn is_ordinary(&self, seq: Seq) -> bool {
        self.ordinary.contains(&seq) && !self.claims.contains(&seq)
    }

    /// Takes in that a record is not a claim.
    pub(super) fn learn_ordinary(&mut self, seq: Seq) {
        self.ordinary.insert(seq);
    }

    fn learn(&mut self, record: &BundleIndex) {
        let Some(commit) = record.commit() else { return };
        let known = if commit.flags.claim { &mut self.claims } else { &mut self.ordinary };
        known.insert(commit.seq);
    }

    /// What a view has seen on the way to its state, and a state says: records that hold layers are no claims.
    fn learn_view(&mut self, view: &TimelineView) {
        self.claims.extend(view.claims.iter().copied());
        let replayed = view.manifest.map_or(Seq(1), |manifest| manifest.seq.next());
        for seq in view.listing.records.range(replayed..view.state.seq().next()).map(|(seq, _)| *seq) {
            if !view.claims.contains(&seq) {
                self.ordinary.insert(seq);
            }
        }
        self.learn_state(&view.state);
    }

    fn learn_state(&mut self, state: &TimelineState) {
        self.claims.insert(state.claim());
        for bundle in state.layers().values().map(|layer| layer.place.bundle) {
            if let BundleId::Record(seq) = bundle {
                self.ordinary.insert(seq);
            }
        }
    }

    fn is_unknown(&self, seq: Seq) -> bool {
        !self.claims.contains(&seq) && !self.ordinary.contains(&seq)
    }
}

/// Surveys a timeline. `listing` is what is already known of its objects, `now` what the store's clock says, where it
/// was asked; else the newest record's time stands for it. `known` is what earlier runs have learnt.
pub async fn survey_timeline(
    store: &Store,
    (tenant, timeline): (&TenantId, &TimelineId),
    listing: Option<TimelineListing>,
    policy: &GcPolicy,
    now: Option<SystemTime>,
    known: KnownRecords,
) -> Result<Survey> {
    let mut listing = listing;
    let mut missed = String::new();
    for attempt in 1..=ATTEMPTS_MAX {
        let view = TimelineView::open(store, tenant, timeline, listing.take()).await?;
        if view.state.seq() == Seq(0) {
            return Err(Error::TimelineNotFound { tenant: tenant.clone(), timeline: timeline.clone() });
        }
        let surveyed = Survey::read(store, view, policy, now, known.clone()).await;
        match surveyed {
            // Another collection was faster; but what is missed again is lost.
            Err(Error::Storage(error)) if error.is_not_found() && error.key() != missed => {
                missed = error.key().to_owned();
            }
            // What another collection frees while it is read may look like damage.
            Ok(survey)
                if !survey.damage.is_empty()
                    && attempt < ATTEMPTS_MAX
                    && survey.is_outdated(&**store.objects()).await? => {}
            surveyed => return surveyed,
        }
    }
    let (tenant, timeline) = (tenant.clone(), timeline.clone());
    Err(Error::Unstable { tenant, timeline, attempts: ATTEMPTS_MAX })
}

impl Survey {
    async fn read(
        store: &Store,
        mut view: TimelineView,
        policy: &GcPolicy,
        now: Option<SystemTime>,
        mut known: KnownRecords,
    ) -> Result<Self> {
        let objects = &**store.objects();
        if !view.listing.whole {
            view.listing = TimelineListing::read_whole(objects, &view.keys).await?;
        }
        known.learn_view(&view);
        // Only a writer that has claimed makes payload objects.
        known.claims.extend(view.listing.payloads.keys().map(|id| id.claim));
        let now = now.unwrap_or_else(|| clock::last_seen(&view.listing));
        let uploads = abandoned_uploads(objects, &view.keys, view.state.claim()).await?;
        let mut survey = Self {
            now,
            floor: None,
            next_floor: None,
            named: BTreeMap::new(),
            known,
            uploads,
            ended_branches: Vec::new(),
            damage: view.damage.clone(),
            doubtful: Vec::new(),
            retention: policy.retention,
            view,
        };
        survey.replay(objects).await?;
        survey.look_for_claims(objects, policy).await?;
        survey.look_for_ended_branches(store).await?;
        Ok(survey)
    }

    /// Whether there are other manifests now than those that were listed.
    async fn is_outdated(&self, objects: &dyn ObjectStore) -> Result<bool> {
        let now = TimelineListing::read_manifests(objects, &self.view.keys).await?;
        Ok(!now.keys().eq(self.view.listing.manifests.keys()))
    }

    /// Loads the floor, or the manifest that may become it, and replays the log from there to the newest state.
    async fn replay(&mut self, objects: &dyn ObjectStore) -> Result<()> {
        let listing = &self.view.listing;
        let mut bases: Vec<Seq> = floors(&self.view.state, listing, self.retention, self.now).collect();
        let is_floor = !bases.is_empty();
        if !is_floor {
            bases.extend(listing.manifests.keys().rev().skip(1));
        }
        let Some(mut state) = self.load_base(objects, bases).await? else { return Ok(()) };
        let base = state.seq();
        let manifests = self.view.listing.manifests.keys().rev().skip(1);
        let next = manifests.copied().find(|seq| !self.is_doubtful(*seq));
        self.known.learn_state(&state);
        let at_base = state.clone();
        let keys = self.view.keys.clone();
        // Never collected: how many there are is what a manifest says.
        let wanted = (base.0..self.view.state.seq().0).map(|seq| Seq(seq + 1));
        if let Some(missing) = wanted.clone().find(|seq| !self.view.listing.records.contains_key(seq)) {
            // A list may miss what was written meanwhile; what is above the floor is there all the same, or lost.
            let key = keys.record(missing)?;
            if let Err(error) = objects.head(&key).await {
                return self.is_damage(error.into());
            }
        }
        let reads = wanted.map(|seq| {
            let key = keys.record(seq);
            async move { Ok::<_, Error>((seq, read_record(objects, &key?, BundleId::Record(seq)).await?)) }
        });
        let mut tails = stream::iter(reads).buffered(TAILS_IN_FLIGHT);
        loop {
            if next == Some(state.seq()) {
                self.next_floor = Some(NextFloor { seq: state.seq(), live: live_bundles(&state) });
            }
            let record = match tails.try_next().await {
                Ok(Some((_, record))) => record,
                Ok(None) => break,
                Err(error) => return self.is_damage(error),
            };
            self.known.learn(&record);
            let named = record.commit().into_iter().flat_map(|commit| &commit.payloads);
            self.named.extend(named.map(|payload| (payload.id, state.seq().next())));
            if let Err(error) = state.apply(&record) {
                return self.is_damage(Error::damaged(keys.record(state.seq().next())?, error));
            }
        }
        if state != self.view.state {
            let why = "the log does not make it what the newest state is".into();
            let error = FormatError::Malformed { what: "manifest", why };
            return self.is_damage(Error::damaged(keys.manifest(base)?, error));
        }
        self.floor = is_floor.then_some(at_base);
        Ok(())
    }

    /// Loads the first of the manifests `bases` that reads. Those before it are left alone, and named; where none reads
    /// they are damage.
    async fn load_base(
        &mut self,
        objects: &dyn ObjectStore,
        bases: Vec<Seq>,
    ) -> Result<Option<TimelineState>> {
        let mut unreadable = Vec::new();
        for base in bases {
            let Some(info) = self.view.listing.manifests.get(&base) else { continue };
            // Below one that does not read there may be one that was brought when the log behind it had been collected.
            if !unreadable.is_empty() && self.came_late(base) {
                continue;
            }
            match load_manifest(objects, &self.view.state, base, info).await {
                Ok((state, _)) => {
                    self.doubtful = unreadable;
                    return Ok(Some(state));
                }
                Err(error) => {
                    let (object, problem) = (info.key.to_string(), damage(error)?);
                    unreadable.push(Finding::new(object, problem));
                }
            }
        }
        self.damage.extend(unreadable);
        Ok(None)
    }

    /// Whether a manifest was brought when the log behind it had been collected.
    fn came_late(&self, manifest: Seq) -> bool {
        let listing = &self.view.listing;
        let newest = listing.manifests.keys().next_back().copied().unwrap_or_default();
        listing.oldest_in_time().is_some_and(|oldest| manifest < oldest)
            && listing.first_gap(manifest, newest).is_some()
    }

    /// Whether a manifest has been found not to read.
    fn is_doubtful(&self, manifest: Seq) -> bool {
        let info = self.view.listing.manifests.get(&manifest);
        info.is_some_and(|info| self.doubtful.iter().any(|finding| finding.object == info.key.as_str()))
    }

    /// Looks at the records that would be deleted unless they are claims.
    async fn look_for_claims(&mut self, objects: &dyn ObjectStore, policy: &GcPolicy) -> Result<()> {
        let Some(floor) = &self.floor else { return Ok(()) };
        let live = live_bundles(floor);
        let below = self.view.listing.records.range(..=floor.seq());
        let unknown =
            below.filter(|(seq, _)| self.known.is_unknown(**seq) && !live.contains(&BundleId::Record(**seq)));
        let unknown: Vec<_> =
            unknown.map(|(seq, info)| (*seq, info.key.clone())).take(policy.requests_max).collect();
        let reads = unknown.into_iter().map(|(seq, key)| async move {
            let read = read_record(objects, &key, BundleId::Record(seq)).await;
            (key, read)
        });
        let mut reads = stream::iter(reads).buffered(TAILS_IN_FLIGHT);
        while let Some((key, read)) = reads.next().await {
            match read {
                Ok(record) => self.known.learn(&record),
                // Somebody else has collected it.
                Err(Error::Storage(error)) if error.is_not_found() => {}
                Err(error) => {
                    let problem = damage(error)?;
                    self.doubtful.push(Finding::new(key, problem));
                }
            }
        }
        Ok(())
    }

    /// Looks which of the branches are deleted. One that cannot be read counts as one that is there; so does one that was
    /// never begun, for it may begin.
    async fn look_for_ended_branches(&mut self, store: &Store) -> Result<()> {
        for point in self.view.state.branch_points() {
            match TimelineView::open(store, &point.tenant, &point.timeline, None).await {
                Ok(branch) if branch.state.is_deleted() => self.ended_branches.push(point.clone()),
                Ok(_) | Err(Error::Damaged { .. } | Error::Gap { .. } | Error::ObjectTooNew { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes an error for damage where it is that.
    fn is_damage(&mut self, error: Error) -> Result<()> {
        let object = match &error {
            Error::Damaged { object, .. } => object.clone(),
            Error::Storage(error) => error.key().to_owned(),
            _ => String::new(),
        };
        let problem = damage(error)?;
        self.damage.push(Finding::new(object, problem));
        Ok(())
    }

    /// Whether a payload object is older than the retention period.
    pub(super) fn is_old(&self, id: PayloadId) -> bool {
        self.view.listing.payloads.get(&id).is_some_and(|info| {
            self.now.duration_since(info.last_modified).unwrap_or_default() >= self.retention
        })
    }

    /// Whether what was replayed shows that no record ever named a payload object.
    pub(super) fn was_never_named(&self, id: PayloadId) -> bool {
        let base = self.floor.as_ref();
        base.is_some_and(|floor| id.claim >= floor.claim() && floor.bundle(BundleId::Payload(id)).is_none())
    }
}

/// What is wrong with an object, where that is what the error says.
fn damage(error: Error) -> Result<String> {
    match error {
        Error::Damaged { source, .. } => Ok(source.to_string()),
        Error::Storage(error) if error.kind() == storage_api::ErrorKind::Integrity => Ok(error.to_string()),
        other => Err(other),
    }
}
