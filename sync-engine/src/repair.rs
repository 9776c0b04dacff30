//! Repair: what is damaged in a timeline is stored anew, from local files or from what still reads, by a new commit.
//!
//! Nothing is overwritten but a manifest by itself. The live layers of a damaged bundle are added again, all of them: those that still read from
//! where they are, the others from local copies; what was damaged is garbage then. A newest manifest that does not
//! read is followed by a newer one, an older one is [made again](manifests). A log with holes is [rebuilt](crate::rebuild_timeline), and goes on behind them.

mod manifests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use layer_archive::{BranchPoint, BundleWriter, LayerEntry, LayerName, Level, Seq, TenantId, TimelineId};
use storage_api::Key;

use crate::backup::{BackupOptions, FailedLayer, upload_layers};
use crate::durable::{DurableDir, Scratch};
use crate::hash::hash_files;
use crate::object::twice;
use crate::restore::stream_layer;
use crate::verify::broken_links;
use crate::{
    Draft, Error, Finding, LocalLayer, ObjectName, Rebuild, Result, Store, TakeOver, TimelineView,
    TimelineWriter, VerifyDepth, VerifyReport, rebuild_timeline, verify_timeline,
};

/// How the names of the directories begin in which layers wait to be stored anew.
const SCRATCH: &str = "repair-";

/// How a repair is made.
#[derive(Clone, Debug)]
pub struct RepairOptions {
    /// Who writes, and how layers are packed.
    pub backup: BackupOptions,
    /// Whether a timeline that is not released is repaired too.
    pub take_over: TakeOver,
    /// How much is looked at.
    pub depth: VerifyDepth,
    /// A directory with room for the layers of damaged bundles that still read. It need not exist.
    pub scratch: PathBuf,
}

/// What a repair has found and done.
#[derive(Clone, Debug, Default)]
pub struct RepairReport {
    /// What was wrong before.
    pub findings: Vec<Finding>,
    /// The newest record; the one before where nothing was written.
    pub seq: Seq,
    /// Whether a record was written.
    pub wrote: bool,
    /// Manifests that did not read and were made again, by the number of their record.
    pub manifests: Vec<Seq>,
    /// Layers that are stored anew.
    pub mended: BTreeSet<LayerName>,
    /// Layers that are lost, unless another copy is found, and why.
    pub lost: Vec<FailedLayer>,
    /// Records that are missing from the log, where it had to be rebuilt.
    pub missing: Vec<Seq>,
    /// Layers that were let go of with them, because their objects are not there either.
    pub dropped: Vec<LayerName>,
    /// Ancestors that were told of their branch again.
    pub told: Vec<TimelineId>,
}

impl RepairReport {
    /// Whether all that the timeline should have is there.
    pub fn is_whole(&self) -> bool {
        self.lost.is_empty() && self.missing.is_empty() && self.dropped.is_empty()
    }
}

/// Verifies a timeline and mends what can be mended. `local` are files that may be its layers, by name; only those are
/// taken whose contents are right.
///
/// Where there is nothing to mend, nothing is written. A timeline that is not released is refused, unless it is taken
/// over; but to make a manifest again asks nobody. Of a deleted timeline nothing else is mended.
pub async fn repair_timeline(
    store: &Store,
    (tenant, timeline): (&TenantId, &TimelineId),
    local: &BTreeMap<LayerName, PathBuf>,
    options: &RepairOptions,
) -> Result<RepairReport> {
    Scratch::sweep(&options.scratch, SCRATCH);
    let mut report = RepairReport::default();
    let mut branch_points = Vec::new();
    let view = match TimelineView::open(store, tenant, timeline, None).await {
        Ok(view) if view.state.seq() == Seq(0) => {
            let (tenant, timeline) = (tenant.clone(), timeline.clone());
            return Err(Error::TimelineNotFound { tenant, timeline });
        }
        Ok(view) => view,
        Err(Error::Gap { .. } | Error::Damaged { .. }) => {
            let rebuild = rebuild_timeline(store, tenant, timeline).await?;
            let Rebuild { view, missing, dropped, branch_points: from_branches } = rebuild;
            (report.missing, report.dropped, branch_points) = (missing, dropped, from_branches);
            view
        }
        Err(error) => return Err(error),
    };
    let mut verified = verify_timeline(store, &view, options.depth).await?;
    report.seq = view.state.seq();
    report.manifests = manifests::remake(store, &view, &verified, Seq(0)).await?;
    if view.state.is_deleted() {
        report.manifests.extend(manifests::make_tombstone(store, &view).await?);
        // Of what is deleted nothing is missed.
        (report.missing, report.dropped) = (Vec::new(), Vec::new());
        report.findings = verified.findings;
        return Ok(report);
    }
    if !report.manifests.is_empty() {
        verified = verify_timeline(store, &view, options.depth).await?;
    }
    let seen = |finding: &&Finding| verified.findings.iter().any(|other| other.object == finding.object);
    report.findings = view.damage.iter().filter(|finding| !seen(finding)).cloned().collect();
    report.findings.extend(verified.findings.iter().cloned());
    let damaged = damaged_layers(&view, &report.findings)?;
    let must_write =
        !damaged.is_empty() || !report.missing.is_empty() || needs_record(&view, &report.findings)?;
    // What only older points need cannot be mended, but gc can be let past it. A running writer does so by itself.
    let lets_gc_past = is_in_the_way(&view, &verified) && options.take_over.require(&view).is_ok();
    if must_write {
        options.take_over.require(&view)?;
    }
    // A branch point is said before anything of the branch, as always.
    for link in broken_links(store, &view.state).await? {
        let told = link.mend(store, options.take_over, options.backup.writer.clone()).await?;
        report.told.extend(told);
    }
    if !must_write && !lets_gc_past {
        return Ok(report);
    }
    let scratch = Scratch::create(&options.scratch, SCRATCH)?;
    let layers = salvage(store, &view, damaged, local, &scratch.dir, options, &mut report).await?;
    let mut writer = TimelineWriter::claim(store, view, options.backup.writer.clone()).await?;
    let seen = writer.view().clone();
    let appended = append(store, &mut writer, (layers, branch_points), options, &mut report).await;
    if let Err(error) = appended {
        return Err(writer.release_after(error).await);
    }
    report.seq = writer.view().state.seq();
    report.wrote = true;
    // What was the newest is followed now.
    report.manifests.extend(manifests::remake(store, &seen, &verified, report.seq).await?);
    Ok(report)
}

/// The live layers of bundles that something is wrong with.
fn damaged_layers(view: &TimelineView, findings: &[Finding]) -> Result<Vec<LayerEntry>> {
    let objects: BTreeSet<&str> = findings.iter().map(|finding| &*finding.object).collect();
    let mut damaged = BTreeSet::new();
    for bundle in view.state.bundles() {
        if objects.contains(view.keys.bundle(bundle.id)?.as_str()) {
            damaged.insert(bundle.id);
        }
    }
    let is_in = |layer: &&LayerEntry| damaged.contains(&layer.place.bundle);
    Ok(view.state.layers().values().filter(is_in).cloned().collect())
}

/// Whether what is wrong is mended by a new claim or manifest: the newest ones are.
fn needs_record(view: &TimelineView, findings: &[Finding]) -> Result<bool> {
    let claim = view.keys.record(view.state.claim())?;
    let newest = view.listing.manifests.keys().next_back();
    let newest = newest.map(|seq| view.keys.manifest(*seq)).transpose()?;
    let is_newest = |finding: &Finding| newest.as_ref().is_some_and(|key| key.as_str() == finding.object);
    Ok(findings.iter().any(|finding| finding.object == claim.as_str() || is_newest(finding)))
}

/// Whether gc has no floor, and will have none, that is past what is damaged of the log or of older points: two manifests
/// are, one of which is not the newest.
fn is_in_the_way(view: &TimelineView, verified: &VerifyReport) -> bool {
    let record = |finding: &Finding| match view.keys.parse(&Key::new(finding.object.clone()).ok()?) {
        Some(ObjectName::Record(seq)) => Some(seq),
        _ => None,
    };
    let last = |finding: &Finding| match finding.points {
        Some(points) => Some(points.newest),
        None => record(finding).filter(|_| finding.layers.is_empty()),
    };
    let Some(last) = verified.findings.iter().filter_map(last).max() else { return false };
    let damaged: BTreeSet<&str> =
        verified.findings.iter().chain(&verified.unneeded).map(|finding| &*finding.object).collect();
    let behind = view.listing.manifests.range(last.next()..);
    behind.filter(|(_, info)| !damaged.contains(info.key.as_str())).count() < 2
}

/// Finds a good copy of each layer: the local file, or what of the damaged bundle still reads.
async fn salvage(
    store: &Store,
    view: &TimelineView,
    damaged: Vec<LayerEntry>,
    local: &BTreeMap<LayerName, PathBuf>,
    scratch: &DurableDir,
    options: &RepairOptions,
    report: &mut RepairReport,
) -> Result<Vec<(LayerEntry, PathBuf)>> {
    let progress = &options.backup.progress;
    let candidates: Vec<&LayerEntry> =
        damaged.iter().filter(|layer| local.contains_key(&layer.name)).collect();
    let paths: Vec<PathBuf> = candidates.iter().filter_map(|layer| local.get(&layer.name).cloned()).collect();
    let digests = hash_files(paths, Arc::clone(progress)).await;
    let right = candidates
        .iter()
        .zip(digests)
        .filter(|(layer, digest)| digest.as_ref().is_ok_and(|digest| *digest == layer.raw));
    let right: BTreeSet<LayerName> = right.map(|(layer, _)| layer.name.clone()).collect();
    let mut found = Vec::new();
    for layer in damaged {
        if let Some(path) = local.get(&layer.name).filter(|_| right.contains(&layer.name)) {
            found.push((layer, path.clone()));
            continue;
        }
        let key = view.keys.bundle(layer.place.bundle)?;
        let objects = &**store.objects();
        match twice(|| stream_layer(objects, &key, &layer, scratch, progress)).await {
            Ok(outcome) if outcome.failed.is_empty() => {
                let path = scratch.path().join(layer.name.as_str());
                found.push((layer, path));
            }
            Ok(outcome) => report.lost.extend(outcome.failed),
            Err(error @ (Error::Damaged { .. } | Error::Storage(_))) => {
                report.lost.push(FailedLayer { name: layer.name, error: Arc::new(error) });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Adds the layers again, with one record, and writes manifests of what there is then.
async fn append(
    store: &Store,
    writer: &mut TimelineWriter,
    (mut layers, branch_points): (Vec<(LayerEntry, PathBuf)>, Vec<BranchPoint>),
    options: &RepairOptions,
    report: &mut RepairReport,
) -> Result<()> {
    // What was moved or removed until the claim is not damaged any more.
    let state = &writer.view().state;
    layers.retain(|(layer, _)| state.layers().get(&layer.name) == Some(layer));
    report.lost.retain(|lost| state.layers().contains_key(&lost.name));
    let (mut draft, bundle, failed) = if layers.is_empty() {
        (Draft { released: true, ..Draft::default() }, BundleWriter::new(), Vec::new())
    } else {
        let input = |(layer, path): &(LayerEntry, PathBuf)| {
            let LayerEntry { name, lsn_range, raw, .. } = layer.clone();
            let (path, level) = (path.clone(), Level::REPACK);
            (LocalLayer { name, path, raw_size: raw.size, lsn_range, level }, Some(raw))
        };
        upload_layers(store, writer, layers.iter().map(input).collect(), &options.backup).await?
    };
    let failed_names: BTreeSet<&LayerName> = failed.iter().map(|failed| &failed.name).collect();
    let mended = layers.iter().map(|(layer, _)| &layer.name).filter(|name| !failed_names.contains(name));
    report.mended = mended.cloned().collect();
    report.lost.extend(failed.iter().cloned());
    draft.branch_points_added = branch_points;
    writer.append(draft, bundle).await?;
    writer.put_manifest().await?;
    // The newest manifest is no floor: with one more gc can let go of what was damaged when its time has come.
    let draft = Draft { released: true, ..Draft::repeating_metadata(&writer.view().state) };
    writer.append(draft, BundleWriter::new()).await?;
    writer.put_manifest().await?;
    Ok(())
}
