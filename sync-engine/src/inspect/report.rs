//! What the inspector says, as a value that serialises and as lines of text.

use std::fmt;

use layer_archive::{BundleId, BundleIndex, Commit, LayerEntry, LsnRange, Manifest};
use serde::Serialize;

use super::Inspected;

/// One bundle or manifest.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Report {
    /// A bundle.
    Bundle(BundleReport),
    /// A manifest.
    Manifest(ManifestReport),
}

/// A bundle. Sizes are in bytes.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the fields are named like those of the format")]
pub struct BundleReport {
    pub tenant: String,
    pub timeline: String,
    pub object: String,
    pub record_id: Option<String>,
    pub stored_bytes: u64,
    pub tail_bytes: u64,
    pub raw_bytes: u64,
    pub frames: Vec<FrameReport>,
    pub layers: Vec<LayerReport>,
    pub commit: Option<CommitReport>,
}

/// A frame.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the fields are named like those of the format")]
pub struct FrameReport {
    pub start: u64,
    pub stored_bytes: u32,
    pub plain_bytes: u32,
    pub crc32c: String,
}

/// A layer.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the fields are named like those of the format")]
pub struct LayerReport {
    pub name: String,
    pub lsn_range: Option<(String, String)>,
    pub raw_bytes: u64,
    pub stored_bytes: u64,
    pub crc32c: String,
    pub blake3: String,
    pub bundle: String,
    pub start: u64,
    pub frames_bytes: u64,
    pub offset: u32,
    /// The layer whose bytes these are, in the bundle's tar stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_to: Option<String>,
}

/// A commit.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the fields are named like those of the format")]
pub struct CommitReport {
    pub seq: u64,
    pub parent: String,
    pub claim: bool,
    pub released: bool,
    pub deleted: bool,
    pub term: String,
    pub epoch: u64,
    pub generation: Option<u32>,
    pub writer: String,
    pub time_ms: u64,
    pub metadata_bytes: Option<usize>,
    pub disk_consistent_lsn: Option<String>,
    pub ancestor: Option<String>,
    pub branch_points_added: Vec<String>,
    pub branch_points_removed: Vec<String>,
    pub payloads: Vec<String>,
    pub added: Vec<LayerReport>,
    pub moved: Vec<String>,
    pub removed: Vec<String>,
}

/// A manifest. Sizes are in bytes.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the fields are named like those of the format")]
pub struct ManifestReport {
    pub tenant: String,
    pub timeline: String,
    pub seq: u64,
    pub history: String,
    pub claim: u64,
    pub term: String,
    pub epoch: u64,
    pub generation: Option<u32>,
    pub writer: String,
    pub time_ms: u64,
    pub released: bool,
    pub deleted: bool,
    pub metadata_bytes: Option<usize>,
    pub disk_consistent_lsn: Option<String>,
    pub ancestor: Option<String>,
    pub branch_points: Vec<String>,
    pub bundles: Vec<ManifestBundleReport>,
    pub layers: Vec<LayerReport>,
}

/// A bundle that a manifest lists. Sizes are in bytes.
#[derive(Clone, Debug, Serialize)]
pub struct ManifestBundleReport {
    /// Its key below the timeline, without the suffix.
    pub object: String,
    /// The last record that names it.
    pub named_by: u64,
    /// Its length.
    pub stored_bytes: u64,
    /// How many of its bytes belong to live layers.
    pub live_bytes: u64,
    /// How many of its last bytes hold its index.
    pub tail_bytes: u32,
}

/// Something that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The layer it costs, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// Where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What it is.
    pub problem: String,
}

impl From<&Inspected> for Report {
    fn from(inspected: &Inspected) -> Self {
        match inspected {
            Inspected::Bundle(index) => Self::Bundle((&**index).into()),
            Inspected::Manifest(manifest) => Self::Manifest((&**manifest).into()),
        }
    }
}

impl From<&BundleIndex> for BundleReport {
    fn from(index: &BundleIndex) -> Self {
        let origin = index.origin();
        let frame = |frame: &layer_archive::IndexedFrame| FrameReport {
            start: frame.start,
            stored_bytes: frame.stored_len,
            plain_bytes: frame.plain_len,
            crc32c: frame.crc32c.to_string(),
        };
        let mut layers: Vec<LayerReport> =
            index.entries(origin.bundle).iter().map(LayerReport::from).collect();
        // Links follow the layers with data, in their own order.
        for (layer, link) in layers.iter_mut().skip(index.layers().len()).zip(index.links()) {
            layer.link_to = index.layers().get(link.target as usize).map(|target| target.name.to_string());
        }
        Self {
            tenant: origin.tenant.to_string(),
            timeline: origin.timeline.to_string(),
            object: origin.bundle.to_string(),
            record_id: matches!(origin.bundle, BundleId::Record(_)).then(|| index.record_id().to_string()),
            stored_bytes: index.object_len(),
            tail_bytes: index.tail_len(),
            raw_bytes: layers.iter().map(|layer| layer.raw_bytes).sum(),
            frames: index.frames().iter().map(frame).collect(),
            layers,
            commit: index.commit().map(CommitReport::from),
        }
    }
}

impl From<&LayerEntry> for LayerReport {
    fn from(layer: &LayerEntry) -> Self {
        let location = layer.place.location;
        let lsns = |range: LsnRange| (range.start().to_string(), range.end().to_string());
        Self {
            name: layer.name.to_string(),
            lsn_range: layer.lsn_range.map(lsns),
            raw_bytes: layer.raw.size,
            stored_bytes: layer.stored_bytes,
            crc32c: layer.raw.crc32c.to_string(),
            blake3: layer.raw.blake3.to_string(),
            bundle: layer.place.bundle.to_string(),
            start: location.start,
            frames_bytes: location.stored_len,
            offset: location.offset,
            link_to: None,
        }
    }
}

fn writer(writer: &layer_archive::WriterInfo) -> String {
    format!("{} (pid {} on {})", writer.program, writer.pid, writer.host)
}

fn branch_point(point: &layer_archive::BranchPoint) -> String {
    format!("{}/{}@{}", point.tenant, point.timeline, point.lsn)
}

fn ancestor(ancestor: &layer_archive::Ancestor) -> String {
    format!("{}@{}", ancestor.timeline, ancestor.lsn)
}

impl From<&Commit> for CommitReport {
    fn from(commit: &Commit) -> Self {
        let place = |place: &layer_archive::Place| format!("{} at {}", place.bundle, place.location.start);
        let moved = |moved: &layer_archive::Moved| {
            format!("{}: {} -> {}", moved.name, place(&moved.from), place(&moved.to))
        };
        let removed = |removed: &layer_archive::Removed| {
            format!("{} ({:?})", removed.name, removed.reason).to_lowercase()
        };
        Self {
            seq: commit.seq.0,
            parent: commit.parent.to_string(),
            claim: commit.flags.claim,
            released: commit.flags.released,
            deleted: commit.flags.deleted,
            term: commit.term.to_string(),
            epoch: commit.epoch.0,
            generation: commit.generation.map(|generation| generation.0),
            writer: writer(&commit.writer),
            time_ms: commit.time.0,
            metadata_bytes: commit.metadata.as_ref().map(|metadata| metadata.bytes.len()),
            disk_consistent_lsn: commit.disk_consistent_lsn.map(|lsn| lsn.to_string()),
            ancestor: commit.ancestor.as_ref().map(ancestor),
            branch_points_added: commit.branch_points_added.iter().map(branch_point).collect(),
            branch_points_removed: commit.branch_points_removed.iter().map(branch_point).collect(),
            payloads: commit.payloads.iter().map(|payload| format!("payload/{}", payload.id)).collect(),
            added: commit.added.iter().map(LayerReport::from).collect(),
            moved: commit.moved.iter().map(moved).collect(),
            removed: commit.removed.iter().map(removed).collect(),
        }
    }
}

impl From<&Manifest> for ManifestReport {
    fn from(manifest: &Manifest) -> Self {
        let bundle = |bundle: &layer_archive::BundleEntry| ManifestBundleReport {
            object: bundle.id.to_string(),
            named_by: bundle.named_by.0,
            stored_bytes: bundle.stored_bytes,
            live_bytes: bundle.live_bytes,
            tail_bytes: bundle.tail_len,
        };
        Self {
            tenant: manifest.tenant.to_string(),
            timeline: manifest.timeline.to_string(),
            seq: manifest.seq.0,
            history: manifest.history.to_string(),
            claim: manifest.claim.0,
            term: manifest.term.to_string(),
            epoch: manifest.epoch.0,
            generation: manifest.generation.map(|generation| generation.0),
            writer: writer(&manifest.writer),
            time_ms: manifest.time.0,
            released: manifest.released,
            deleted: manifest.deleted,
            metadata_bytes: manifest.metadata.as_ref().map(|metadata| metadata.bytes.len()),
            disk_consistent_lsn: manifest.disk_consistent_lsn.map(|lsn| lsn.to_string()),
            ancestor: manifest.ancestor.as_ref().map(ancestor),
            branch_points: manifest.branch_points.iter().map(branch_point).collect(),
            bundles: manifest.bundles.iter().map(bundle).collect(),
            layers: manifest.layers.iter().map(LayerReport::from).collect(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundle(bundle) => bundle.fmt(f),
            Self::Manifest(manifest) => manifest.fmt(f),
        }
    }
}

impl fmt::Display for BundleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "bundle      {} of {}/{}", self.object, self.tenant, self.timeline)?;
        let links = self.layers.iter().filter(|layer| layer.link_to.is_some()).count();
        writeln!(f, "stored      {} bytes, {} of them index", self.stored_bytes, self.tail_bytes)?;
        writeln!(
            f,
            "layers      {} ({links} of them links), {} raw bytes",
            self.layers.len(),
            self.raw_bytes
        )?;
        writeln!(f, "frames      {}", self.frames.len())?;
        if let Some(id) = &self.record_id {
            writeln!(f, "record id   {id}")?;
        }
        if let Some(commit) = &self.commit {
            commit.fmt(f)?;
        }
        writeln!(f, "\n     start     stored      plain  crc32c    frame")?;
        for (number, frame) in self.frames.iter().enumerate() {
            let FrameReport { start, stored_bytes, plain_bytes, crc32c } = frame;
            writeln!(f, "{start:>10} {stored_bytes:>10} {plain_bytes:>10}  {crc32c}  {number}")?;
        }
        write_layers(f, &self.layers)
    }
}

impl fmt::Display for CommitReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match (self.claim, self.released, self.deleted) {
            (true, ..) => " (claim)",
            (_, _, true) => " (tombstone)",
            (_, true, _) => " (released)",
            _ => "",
        };
        writeln!(f, "commit      record {}{kind}, epoch {}, term {}", self.seq, self.epoch, self.term)?;
        writeln!(f, "written by  {} at {} ms", self.writer, self.time_ms)?;
        if let Some(bytes) = self.metadata_bytes {
            let lsn = self.disk_consistent_lsn.as_deref().unwrap_or("an unknown LSN");
            writeln!(f, "metadata    {bytes} bytes, durable up to {lsn}")?;
        }
        if let Some(ancestor) = &self.ancestor {
            writeln!(f, "ancestor    {ancestor}")?;
        }
        for (label, lines) in [
            ("branch      ", &self.branch_points_added),
            ("branch gone ", &self.branch_points_removed),
            ("payload     ", &self.payloads),
            ("moved       ", &self.moved),
            ("removed     ", &self.removed),
        ] {
            lines.iter().try_for_each(|line| writeln!(f, "{label}{line}"))?;
        }
        if self.added.is_empty() { Ok(()) } else { write_layers(f, &self.added) }
    }
}

impl fmt::Display for ManifestReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "manifest    of {}/{} after record {}", self.tenant, self.timeline, self.seq)?;
        writeln!(f, "history     {}", self.history)?;
        writeln!(f, "claim       record {}, epoch {}, term {}", self.claim, self.epoch, self.term)?;
        let state = match (self.deleted, self.released) {
            (true, _) => "deleted",
            (_, true) => "released",
            _ => "held",
        };
        writeln!(f, "written by  {} at {} ms, {state}", self.writer, self.time_ms)?;
        if let Some(bytes) = self.metadata_bytes {
            let lsn = self.disk_consistent_lsn.as_deref().unwrap_or("an unknown LSN");
            writeln!(f, "metadata    {bytes} bytes, durable up to {lsn}")?;
        }
        if let Some(ancestor) = &self.ancestor {
            writeln!(f, "ancestor    {ancestor}")?;
        }
        self.branch_points.iter().try_for_each(|point| writeln!(f, "branch      {point}"))?;
        writeln!(f, "\n    stored       live  named by  bundle")?;
        for bundle in &self.bundles {
            let ManifestBundleReport { object, named_by, stored_bytes, live_bytes, tail_bytes: _ } = bundle;
            writeln!(f, "{stored_bytes:>10} {live_bytes:>10} {named_by:>9}  {object}")?;
        }
        write_layers(f, &self.layers)
    }
}

fn write_layers(f: &mut fmt::Formatter<'_>, layers: &[LayerReport]) -> fmt::Result {
    writeln!(f, "\n       raw     stored  crc32c    layer")?;
    for layer in layers {
        let LayerReport { name, raw_bytes, stored_bytes, crc32c, link_to, .. } = layer;
        let link = link_to.as_ref().map(|target| format!(" -> {target}")).unwrap_or_default();
        writeln!(f, "{raw_bytes:>10} {stored_bytes:>10}  {crc32c}  {name}{link}")?;
    }
    Ok(())
}
