//! The worked example: a record of two equal layers and metadata, and the manifest after it.

use layer_archive::{
    BundleEntry, BundleId, Commit, CommitFlags, Digest, Epoch, FormatError, LayerName, Lsn, LsnRange,
    Manifest, Origin, Seq, Term, TimelineMetadata, UnixMillis, WriterInfo,
};

use crate::pack::{Layer, Packed, pack};
use crate::walker::Walker;

const TENANT: &str = "1f8ae1ef8989d5601e73fd13ae3dcd26";
const TIMELINE: &str = "2f8ae1ef8989d5601e73fd13ae3dcd26";
const SECTION_NAMES: [&str; 6] = ["", "ORIGIN", "FRAMES", "LAYERS", "LINKS", "COMMIT"];

/// The text between the markers of `docs/format.md`.
pub(crate) fn worked_example() -> Result<String, FormatError> {
    let packed = record()?;
    let manifest = manifest(&packed)?;
    Ok(format!("{}\n{}", annotate_record(&packed)?, annotate_manifest(&manifest.encode()?)?))
}

fn malformed(error: impl ToString) -> FormatError {
    FormatError::Malformed { what: "worked example", why: error.to_string() }
}

fn name(name: &str) -> Result<LayerName, FormatError> {
    LayerName::new(name).map_err(malformed)
}

fn writer() -> WriterInfo {
    WriterInfo { host: "ps1".into(), pid: 7, program: "layerpack".into() }
}

fn metadata() -> Result<TimelineMetadata, FormatError> {
    Ok(TimelineMetadata { file_name: name("metadata")?, bytes: b"meta".to_vec() })
}

fn record() -> Result<Packed, FormatError> {
    let layer = |text: &str, lsn_range| Ok(Layer { name: name(text)?, lsn_range, bytes: b"hello".to_vec() });
    let layers = [layer("first", LsnRange::new(Lsn(0x10), Lsn(0x100)))?, layer("second", None)?];
    let bundle = BundleId::Record(Seq(2));
    let origin = Origin {
        tenant: TENANT.parse().map_err(malformed)?,
        timeline: TIMELINE.parse().map_err(malformed)?,
        bundle,
    };
    let commit = Commit {
        seq: Seq(2),
        parent: Digest::of(b"records before"),
        flags: CommitFlags { claim: false, released: true, deleted: false },
        term: Term(0xfedc_ba98_7654_3210),
        epoch: Epoch(1),
        generation: None,
        writer: writer(),
        time: UnixMillis(1_700_000_000_000),
        metadata: Some(metadata()?),
        disk_consistent_lsn: Some(Lsn(0xff)),
        ancestor: None,
        branch_points_added: Vec::new(),
        branch_points_removed: Vec::new(),
        payloads: Vec::new(),
        added: Vec::new(),
        moved: Vec::new(),
        removed: Vec::new(),
    };
    pack(&origin, &layers, Some(&commit))
}

fn manifest(packed: &Packed) -> Result<Manifest, FormatError> {
    let index = &packed.index;
    let origin = index.origin();
    let bundle = BundleEntry {
        id: origin.bundle,
        named_by: Seq(2),
        stored_bytes: index.object_len(),
        live_bytes: index.object_len(),
        tail_len: u32::try_from(index.tail_len()).map_err(malformed)?,
    };
    Ok(Manifest {
        tenant: origin.tenant.clone(),
        timeline: origin.timeline.clone(),
        seq: Seq(2),
        history: Digest::of(b"both records"),
        claim: Seq(1),
        term: Term(0xfedc_ba98_7654_3210),
        epoch: Epoch(1),
        generation: None,
        writer: writer(),
        time: UnixMillis(1_700_000_000_000),
        released: true,
        deleted: false,
        metadata: Some(metadata()?),
        disk_consistent_lsn: Some(Lsn(0xff)),
        ancestor: None,
        branch_points: Vec::new(),
        bundles: vec![bundle],
        layers: index.entries(origin.bundle),
    })
}

fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn inflate(stored: &[u8]) -> Result<Vec<u8>, FormatError> {
    zstd::stream::decode_all(stored).map_err(malformed)
}

fn annotate_record(packed: &Packed) -> Result<String, FormatError> {
    let mut out = Walker::new(&packed.object);
    let members = ["the member \"first\"", "the link \"second\"", "the member \"metadata\"", "the end"];
    for (frame, what) in packed.index.frames().iter().zip(members) {
        out.title(&format!("zstd frame, {} bytes of tar: {what}", frame.plain_len));
        out.raw(index(u64::from(frame.stored_len)), "");
    }
    out.title("index frame");
    out.opaque(4, "magic of a skippable frame");
    let index_end = index(out.integer(4, "its length")) + out.at();
    let mut plain_texts = String::new();
    while out.at() < index_end - 64 {
        let tag = out.peek(1).first().map_or(0, |tag| usize::from(*tag));
        let name = SECTION_NAMES.get(tag).copied().unwrap_or_default();
        out.title(&format!("section {name}"));
        out.integer(2, "tag");
        let compressed = out.peek(2).last().is_some_and(|byte| byte & 0x40 != 0);
        let kind = if compressed { "version 1, critical, compressed" } else { "version 1, critical" };
        out.opaque(2, kind);
        let len = out.integer(4, "length of the body");
        out.opaque(4, "CRC32C of the body");
        let body = out.raw(index(len), "body");
        let plain = if compressed { inflate(body)? } else { body.to_vec() };
        plain_texts.push_str(&annotate_section(name, &plain));
        plain_texts.push('\n');
    }
    annotate_footer(&mut out);
    out.title("seek table");
    out.opaque(4, "magic of a skippable frame");
    out.integer(4, "its length");
    for _ in 0..=packed.index.frames().len() {
        out.integer(4, "stored length of a frame");
        out.integer(4, "plain length of the frame");
    }
    out.integer(4, "number of frames");
    out.opaque(1, "descriptor: no checksums");
    out.opaque(4, "magic of the seekable format");
    Ok(format!(
        "log/0000000000000002.tar.zst\n\n{}\nPlain texts of its sections\n\n{plain_texts}",
        out.finish()
    ))
}

fn annotate_footer(out: &mut Walker<'_>) {
    out.title("footer");
    out.opaque(8, "magic \"LPBNDL1\\n\"");
    out.integer(2, "version");
    out.integer(2, "oldest reader");
    out.integer(4, "flags");
    out.integer(4, "length of all sections");
    out.opaque(4, "CRC32C of all sections");
    out.integer(8, "where the index frame begins");
    out.integer(8, "length of the object");
    out.opaque(4, "CRC32C of all frames before the index frame");
    out.integer(4, "frames before the index frame");
    out.integer(4, "layers and links");
    out.integer(4, "length of the seek table");
    out.opaque(4, "CRC32C of the seek table");
    out.opaque(4, "CRC32C of the footer so far");
}

fn annotate_section(name: &str, plain: &[u8]) -> String {
    let mut out = Walker::new(plain);
    out.title(name);
    match name {
        "ORIGIN" => ["tenant", "timeline", "object"].into_iter().for_each(|what| out.string(what)),
        "FRAMES" => {
            for _ in 0..out.varint("rows") {
                out.varint("stored_len");
                out.varint("plain_len");
                out.opaque(4, "crc32c");
            }
        }
        "LAYERS" => {
            for _ in 0..out.varint("rows") {
                annotate_name(&mut out);
                out.varint("raw_size");
                out.varint("frame");
                out.varint("offset");
                out.opaque(4, "crc32c");
                out.opaque(16, "blake3");
            }
        }
        "LINKS" => {
            for _ in 0..out.varint("rows") {
                annotate_name(&mut out);
                out.varint("target");
            }
        }
        _ => annotate_commit(&mut out),
    }
    out.finish()
}

fn annotate_name(out: &mut Walker<'_>) {
    out.string("name");
    if out.option("lsn") {
        out.varint("start");
        out.varint("end");
    }
}

fn annotate_commit(out: &mut Walker<'_>) {
    out.varint("seq");
    out.opaque(16, "parent");
    out.varint("flags");
    out.opaque(8, "term");
    out.varint("epoch");
    annotate_state(out);
    for what in ["branch_points_added", "branch_points_removed", "payloads", "added", "moved", "removed"] {
        out.varint(&format!("{what}: rows"));
    }
}

/// Fields from the generation to the time.
fn annotate_writer(out: &mut Walker<'_>) {
    out.option("generation");
    out.string("writer.host");
    out.varint("writer.pid");
    out.string("writer.program");
    out.varint("time_ms");
}

/// Fields from the generation to the ancestor, of a commit.
fn annotate_state(out: &mut Walker<'_>) {
    annotate_writer(out);
    annotate_durable(out);
}

/// Fields from the metadata to the ancestor.
fn annotate_durable(out: &mut Walker<'_>) {
    if out.option("metadata") {
        out.string("metadata.file_name");
        out.string("metadata.bytes");
    }
    if out.option("disk_consistent_lsn") {
        out.varint("disk_consistent_lsn");
    }
    out.option("ancestor");
}

fn annotate_manifest(object: &[u8]) -> Result<String, FormatError> {
    let mut out = Walker::new(object);
    out.title("header");
    out.opaque(8, "magic \"LPMANIF\\n\"");
    out.integer(2, "version");
    out.integer(2, "oldest reader");
    out.integer(4, "features");
    let body_len = out.integer(8, "length of the body");
    out.integer(8, "length of its plain text");
    out.opaque(4, "CRC32C of the body");
    out.opaque(24, "reserved");
    out.opaque(4, "CRC32C of the header so far");
    out.title("body, a zstd frame");
    let plain = inflate(out.raw(index(body_len), ""))?;
    Ok(format!(
        "manifest/0000000000000002\n\n{}\nPlain text of its body\n\n{}",
        out.finish(),
        annotate_manifest_body(&plain)
    ))
}

fn annotate_manifest_body(plain: &[u8]) -> String {
    let mut out = Walker::new(plain);
    out.title("state");
    out.string("tenant");
    out.string("timeline");
    out.varint("seq");
    out.opaque(16, "history");
    out.varint("claim");
    out.opaque(8, "term");
    out.varint("epoch");
    annotate_writer(&mut out);
    out.varint("flags");
    annotate_durable(&mut out);
    out.varint("branch_points: rows");
    out.title("bundles");
    out.varint("bundles");
    let columns = ["kind", "seq", "term", "number", "named_by", "stored_bytes", "not_live", "tail_len"];
    columns.into_iter().for_each(|what| annotate_column(&mut out, what));
    out.title("layers");
    for what in ["extents", "lsn_ranges", "layers"] {
        out.varint(what);
    }
    let columns = [
        "extent_bundle",
        "extent_gap",
        "extent_len",
        "extent_crc32c",
        "lsn_start",
        "lsn_len",
        "name_shared",
        "name_rest_len",
        "name_rest",
        "lsn",
        "raw_size",
        "extent",
        "offset",
        "share",
        "raw_crc32c",
        "raw_blake3",
    ];
    columns.into_iter().for_each(|what| annotate_column(&mut out, what));
    out.finish()
}

fn annotate_column(out: &mut Walker<'_>, what: &str) {
    let len = out.peek(1).first().map_or(0, |len| usize::from(*len));
    out.raw(1 + len, what);
}
