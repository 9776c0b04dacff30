//! Verify: whether a timeline in the store is whole, now and at every older point in time that retention promises.

mod ancestors;
mod bundles;
mod history;

use std::collections::BTreeMap;

use layer_archive::{BundleEntry, BundleId, LayerEntry, LayerName, Seq};
use storage_api::{Key, ObjectStore};

pub(crate) use self::ancestors::broken_links;
use crate::catalog::TimelineListing;
use crate::gc::Points;
use crate::object::read_record;
use crate::payload::abandoned_uploads;
use crate::view::TimelineView;
use crate::{Error, Result, Store};

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyDepth {
    /// Manifests, the records between them, and whether every bundle is there and as long as it should be.
    Listing,
    /// Also the checksum that the store keeps of every bundle that holds a layer of some point in time, and of every
    /// record: their indexes are read, their frames are not, unless an index does not read.
    Stored,
    /// Also every byte of every bundle that holds a layer of some point in time, and every record.
    Deep,
}

/// Damage: which object, what is wrong, and what it costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The object's key; where something is wrong between a branch and its ancestor, the branch's prefix.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
    /// The layers that cannot be restored because of it.
    pub layers: Vec<LayerName>,
    /// The older points in time, from the first to the last, that cannot be restored because of it.
    pub points: Option<Points>,
}

impl Finding {
    /// Damage that, by itself, costs nothing.
    pub fn new(object: impl ToString, problem: impl ToString) -> Self {
        let (object, problem) = (object.to_string(), problem.to_string());
        Self { object, problem, layers: Vec::new(), points: None }
    }

    /// Whether it costs points in time and nothing else: nothing of the newest state.
    pub fn is_of_the_past(&self) -> bool {
        self.layers.is_empty() && self.points.is_some()
    }
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
    /// Objects that do not read and that no point in time needs. A claim among them keeps its number all the same.
    pub unneeded: Vec<Finding>,
}

/// How often a timeline is verified anew because gc deleted what it had.
const ATTEMPTS_MAX: usize = 4;

/// Verifies the timeline that `view` shows, and the way to its ancestors.
///
/// Objects that are missing because the timeline has moved on and gc has deleted them are no damage: it is then
/// verified as it is by that time.
pub async fn verify_timeline(store: &Store, view: &TimelineView, depth: VerifyDepth) -> Result<VerifyReport> {
    let mut report = verify_alone(store, view, depth).await?;
    if !view.state.is_deleted() {
        for link in broken_links(store, &view.state).await? {
            report.findings.push(link.finding(view.state.tenant())?);
        }
    }
    Ok(report)
}

/// Verifies a timeline for itself.
async fn verify_alone(store: &Store, view: &TimelineView, depth: VerifyDepth) -> Result<VerifyReport> {
    let mut newer: Option<TimelineView> = None;
    for _ in 1..ATTEMPTS_MAX {
        let seen = newer.as_ref().unwrap_or(view);
        let (report, listing) = verify_view(store, seen, depth).await?;
        if report.findings.is_empty() || !has_changed(store, seen, &listing).await? {
            return Ok(report);
        }
        let (tenant, timeline) = (view.state.tenant(), view.state.timeline());
        newer = Some(TimelineView::open(store, tenant, timeline, None).await?);
    }
    Ok(verify_view(store, newer.as_ref().unwrap_or(view), depth).await?.0)
}

/// Whether gc may have deleted what was missed: it deletes manifests before what only they need, and nothing that is live
/// in a state before there is a newer manifest to judge by.
async fn has_changed(store: &Store, view: &TimelineView, listing: &TimelineListing) -> Result<bool> {
    let now = TimelineListing::read_manifests(&**store.objects(), &view.keys).await?;
    let is_newer = now.keys().next_back().is_some_and(|newest| *newest > view.state.seq());
    Ok(is_newer || !now.keys().eq(listing.manifests.keys()))
}

async fn verify_view(
    store: &Store,
    view: &TimelineView,
    depth: VerifyDepth,
) -> Result<(VerifyReport, TimelineListing)> {
    let objects = &**store.objects();
    let mut report = VerifyReport { layers: view.state.layers().len(), ..VerifyReport::default() };
    let mut listing = view.listing.clone();
    let oldest = listing.oldest_in_time().unwrap_or_default();
    // A list made while a writer goes on may miss what was written since: only what two lists miss is missing.
    if !listing.whole || listing.first_gap(oldest, view.state.seq()).is_some() {
        listing = TimelineListing::read_whole(objects, &view.keys).await?;
    }
    report.abandoned_uploads = abandoned_uploads(objects, &view.keys, view.state.claim()).await?.len();
    let mut verify = Verify { objects, view, listing: &listing, report: &mut report };
    verify.claim().await?;
    let past = verify.history().await?;
    let needed = needed(view, past);
    for needed in needed.values() {
        verify.bundle(needed, depth).await?;
    }
    if depth != VerifyDepth::Listing {
        verify.records(&needed, depth).await?;
    }
    Ok((report, listing))
}

type NeededBundles = BTreeMap<BundleId, NeededBundle>;

/// A bundle that some point in time needs.
struct NeededBundle {
    bundle: BundleEntry,
    layers: Vec<NeededLayer>,
}

/// A layer in it.
struct NeededLayer {
    layer: LayerEntry,
    /// The older points in time that have it, where the newest state has not.
    past: Option<Points>,
}

impl NeededBundle {
    fn is_of_the_past(&self) -> bool {
        self.layers.iter().all(|needed| needed.past.is_some())
    }
}

/// What the newest state and the older ones need.
fn needed(view: &TimelineView, past: NeededBundles) -> NeededBundles {
    let mut needed = past;
    // What a deleted timeline held is collected.
    let live = if view.state.is_deleted() { None } else { Some(view.state.layers().values()) };
    for layer in live.into_iter().flatten() {
        let Some(bundle) = view.state.bundle(layer.place.bundle) else { continue };
        let entry = needed.entry(bundle.id);
        let layers = &mut entry.or_insert(NeededBundle { bundle, layers: Vec::new() }).layers;
        layers.push(NeededLayer { layer: layer.clone(), past: None });
    }
    needed
}

struct Verify<'a> {
    objects: &'a dyn ObjectStore,
    view: &'a TimelineView,
    listing: &'a TimelineListing,
    report: &'a mut VerifyReport,
}

impl Verify<'_> {
    fn find(&mut self, finding: Finding) {
        let known = self.report.findings.iter_mut().find(|known| known.object == finding.object);
        match known {
            // One object, one finding: what it costs is added up.
            Some(known) if known.problem == finding.problem => {
                known.layers.extend(finding.layers);
                known.points = hull(known.points.into_iter().chain(finding.points));
            }
            Some(_) if finding.layers.is_empty() && finding.points.is_none() => {}
            _ => self.report.findings.push(finding),
        }
    }

    /// What is wrong with an object that no point in time needs.
    fn note(&mut self, object: &Key, problem: impl ToString) {
        let is_known = |finding: &Finding| finding.object == object.as_str();
        if !self.report.findings.iter().chain(&self.report.unneeded).any(is_known) {
            self.report.unneeded.push(Finding::new(object, problem));
        }
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
                self.find(Finding::new(&key, "the writer's claim is missing"));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Records that hold no layer of any point in time, claims for one. What of them the points in time are made of was
    /// replayed. Beyond that their numbers are to be taken, and it is enough that they are there, but for the newest claim.
    async fn records(&mut self, needed: &NeededBundles, depth: VerifyDepth) -> Result<()> {
        for (seq, info) in &self.listing.records {
            let id = BundleId::Record(*seq);
            if needed.contains_key(&id) {
                continue;
            }
            let is_needed = *seq == self.view.state.claim();
            let problems = match read_record(self.objects, &info.key, id).await {
                Ok(index) => {
                    self.report.checked_bytes += index.tail_len();
                    match depth {
                        VerifyDepth::Stored => self.stored_checksum(&index, &info.key).await?,
                        // Dead layers are not worth reading.
                        _ if index.layers().is_empty() => self.frames(&index, &info.key).await?,
                        _ => Vec::new(),
                    }
                }
                Err(error) => vec![bundles::Problem::of_nothing(problem(error)?)],
            };
            for problem in problems {
                match is_needed {
                    true => self.find(Finding::new(&info.key, problem.what)),
                    false => self.note(&info.key, problem.what),
                }
            }
        }
        Ok(())
    }
}

/// From the first to the last of some points in time.
fn hull(points: impl IntoIterator<Item = Points>) -> Option<Points> {
    points.into_iter().reduce(|hull, points| Points {
        oldest: hull.oldest.min(points.oldest),
        newest: hull.newest.max(points.newest),
    })
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
