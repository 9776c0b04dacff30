//! Images from a real PostgreSQL cluster: every relation file becomes a per-relation layer.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};

use super::Made;
use super::cluster::Cluster;
use super::files::{FileChain, databases, relation_files};
use super::installation::Installation;
use super::relish::{BASE_TABLESPACE, GLOBAL_TABLESPACE, Relish, SEGMENT_BYTES};
use super::timeline::TimelineWriter;

/// Where the control file holds a copy of the latest checkpoint record, and how long that is (PostgreSQL 11 to 17).
const CONTROL_CHECKPOINT: std::ops::Range<usize> = 40..128;

/// Bytes of the control file that mean something; the rest of its 8 KiB is zeros.
const CONTROL_BYTES_MAX: u64 = 64 << 10;

/// Makes a cluster and writes its files as layers.
pub(super) fn fill(writer: &mut TimelineWriter, pgbench_scale: Option<u32>) -> Result<Made> {
    let installation = Installation::find()?;
    let version = installation.version()?;
    writer.report(&format!("making a cluster with {version}"));
    let cluster = Cluster::create(installation)?;
    if let Some(scale) = pgbench_scale {
        writer.report(&format!("filling it with pgbench at scale {scale}"));
        cluster.fill_with_pgbench(scale)?;
    }
    let lsn = cluster.checkpoint_lsn()?;
    writer.report("copying its files");
    copy_relations(writer, &cluster.data(), lsn)?;
    copy_other_files(writer, &cluster.data(), lsn)?;
    Ok(Made { source: "postgres", postgres_version: Some(version), lsn })
}

fn copy_relations(writer: &mut TimelineWriter, data: &Path, lsn: u64) -> Result<()> {
    for (relation, files) in relation_files(data)? {
        let mut bytes = 0;
        for path in files.values() {
            let file = fs::metadata(path).with_context(|| format!("looking at {}", path.display()))?;
            bytes += file.len();
        }
        let mut content = FileChain::new(files.into_values());
        // An empty relation is one empty segment.
        for segment in 0..bytes.div_ceil(SEGMENT_BYTES).max(1) {
            let name = Relish::Segment(relation, segment).image_name(lsn);
            writer.add(&name, &mut content.by_ref().take(SEGMENT_BYTES))?;
        }
    }
    Ok(())
}

fn copy_other_files(writer: &mut TimelineWriter, data: &Path, lsn: u64) -> Result<()> {
    let global = data.join("global");
    let mut files = vec![
        (Relish::TransactionStatus, data.join("pg_xact/0000")),
        (Relish::MultixactOffsets, data.join("pg_multixact/offsets/0000")),
        (Relish::MultixactMembers, data.join("pg_multixact/members/0000")),
        (Relish::Control, global.join("pg_control")),
        (Relish::FileNodeMap { tablespace: GLOBAL_TABLESPACE, database: 0 }, global.join("pg_filenode.map")),
    ];
    for database in databases(data)? {
        let map = data.join("base").join(database.to_string()).join("pg_filenode.map");
        files.push((Relish::FileNodeMap { tablespace: BASE_TABLESPACE, database }, map));
    }
    for (relish, path) in &files {
        let mut file = open(path)?;
        writer.add(&relish.image_name(lsn), &mut file)?;
    }
    let mut control = Vec::new();
    let path = global.join("pg_control");
    open(&path)?.take(CONTROL_BYTES_MAX).read_to_end(&mut control).with_context(|| reading(&path))?;
    let mut checkpoint = control.get(CONTROL_CHECKPOINT).with_context(|| {
        format!("{} ends before its checkpoint, at {} bytes", path.display(), control.len())
    })?;
    writer.add(&Relish::ControlCheckpoint.image_name(lsn), &mut checkpoint)
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| reading(path))
}

fn reading(path: &Path) -> String {
    format!("reading the cluster's file {}", path.display())
}
