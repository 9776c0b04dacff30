//! Work directories on a real file system.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use layer_archive::LayerName;
use tempfile::TempDir;

use super::scan::List;
use super::*;
use crate::{LayerKind, MetadataError, OpaqueName};

const TENANT: &str = "1f8ae1ef8989d5601e73fd13ae3dcd26";
const SHARD: &str = "1f8ae1ef8989d5601e73fd13ae3dcd26-0102";
const TIMELINE: &str = "88a4e0f55d55008138697fa10e7d97d3";
const BRANCH: &str = "4b0e97c3b3b77d9d7627f78e7668db78";
const IMAGE: &str =
    "000000067F000000050000403C0000000340-000000067F000000050000403C0000000380__00000000077F0B61-v1-00000002";
const DELTA: &str = "000000000000000000000000000000000000-FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF__0000000008028AA9-00000000080B7539-v1-00000002";

/// A work directory with one tenant and one timeline.
struct Fixture {
    dir: TempDir,
    timeline: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let timeline = dir.path().join("tenants").join(TENANT).join("timelines").join(TIMELINE);
        fs::create_dir_all(&timeline).unwrap();
        Self { dir, timeline }
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        put(&path, bytes);
    }

    fn open(&self) -> WorkDir {
        WorkDir::open(self.dir.path()).unwrap()
    }

    fn scan(&self) -> Result<TimelineScan, WorkDirError> {
        self.open().scan(&tenant(), &timeline())
    }
}

#[expect(clippy::disallowed_methods, reason = "test files need not be durable")]
fn put(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}

fn tenant() -> TenantId {
    TENANT.parse().unwrap()
}

fn timeline() -> TimelineId {
    TIMELINE.parse().unwrap()
}

fn reasons(skipped: &[Skipped]) -> Vec<(&str, SkipReason)> {
    skipped.iter().map(|skipped| (skipped.path.rsplit('/').next().unwrap(), skipped.reason)).collect()
}

#[test]
fn a_directory_without_tenants_is_no_work_directory() {
    let dir = tempfile::tempdir().unwrap();
    let error = WorkDir::open(dir.path()).unwrap_err();
    assert!(matches!(&error, WorkDirError::NotAWorkDir(path) if path == dir.path()), "{error}");
    assert!(error.to_string().contains(dir.path().to_str().unwrap()));
    assert!(matches!(WorkDir::open(dir.path().join("absent")), Err(WorkDirError::NotAWorkDir(_))));

    // Neither a file nor a link will do.
    put(&dir.path().join("tenants"), b"");
    assert!(matches!(WorkDir::open(dir.path()), Err(WorkDirError::NotAWorkDir(_))));
    fs::remove_file(dir.path().join("tenants")).unwrap();
    symlink(Fixture::new().dir.path(), dir.path().join("tenants")).unwrap();
    assert!(matches!(WorkDir::open(dir.path()), Err(WorkDirError::NotAWorkDir(_))));
}

#[test]
fn tenants_are_sorted_and_the_rest_is_skipped() {
    let fixture = Fixture::new();
    fixture.put(&format!("tenants/{SHARD}/config-v1"), b"");
    fixture.put("tenants/0f8ae1ef8989d5601e73fd13ae3dcd26", b"a file, not a tenant");
    fixture.put("tenants/lost+found/x", b"");
    fixture.put(&format!("tenants/{BRANCH}.___temp/x"), b"");
    symlink(fixture.dir.path(), fixture.dir.path().join("tenants").join(BRANCH)).unwrap();

    let listing = fixture.open().tenants().unwrap();
    assert_eq!(listing.ids, [tenant(), SHARD.parse().unwrap()]);
    assert_eq!(
        reasons(&listing.skipped),
        [
            ("0f8ae1ef8989d5601e73fd13ae3dcd26", SkipReason::NotATenant),
            (BRANCH, SkipReason::SymbolicLink),
            (&format!("{BRANCH}.___temp"), SkipReason::Temporary),
            ("lost+found", SkipReason::NotATenant),
        ]
    );
    assert_eq!(listing.skipped[1].path, format!("tenants/{BRANCH}"));
}

#[test]
fn timelines_and_what_else_a_tenant_has() {
    let fixture = Fixture::new();
    let tenant_dir = format!("tenants/{TENANT}");
    fixture.put(&format!("{tenant_dir}/config-v1"), b"");
    fixture.put(&format!("{tenant_dir}/heatmap-v1.json"), b"");
    fixture.put(&format!("{tenant_dir}/timelines/{BRANCH}/metadata"), b"");
    fixture.put(&format!("{tenant_dir}/timelines/{BRANCH}.___uninit"), b"");
    symlink(&fixture.timeline, fixture.timeline.with_file_name("a".repeat(32))).unwrap();

    let listing = fixture.open().timelines(&tenant()).unwrap();
    assert_eq!(listing.ids, [BRANCH.parse().unwrap(), timeline()]);
    assert_eq!(
        reasons(&listing.skipped),
        [
            ("config-v1", SkipReason::NotLayerData),
            ("heatmap-v1.json", SkipReason::NotLayerData),
            (&format!("{BRANCH}.___uninit"), SkipReason::NotATimeline),
            (&"a".repeat(32), SkipReason::SymbolicLink),
        ]
    );

    // A tenant without timelines has none; one that is not there is an error that names it.
    fixture.put(&format!("tenants/{SHARD}/config-v1"), b"");
    assert_eq!(fixture.open().timelines(&SHARD.parse().unwrap()).unwrap().ids, []);
    let error = fixture.open().timelines(&BRANCH.parse().unwrap()).unwrap_err();
    assert!(matches!(&error, WorkDirError::NotADirectory(path) if path.ends_with(BRANCH)), "{error}");
}

#[test]
fn a_linked_timelines_directory_is_not_entered() {
    let fixture = Fixture::new();
    let timelines = fixture.timeline.parent().unwrap();
    fs::rename(timelines, timelines.with_file_name("elsewhere")).unwrap();
    symlink("elsewhere", timelines).unwrap();

    let listing = fixture.open().timelines(&tenant()).unwrap();
    assert_eq!(listing.ids, []);
    assert_eq!(
        reasons(&listing.skipped),
        [("elsewhere", SkipReason::NotLayerData), ("timelines", SkipReason::SymbolicLink)]
    );
    assert!(matches!(fixture.scan(), Err(WorkDirError::NotADirectory(path)) if path == timelines));
}

#[test]
fn a_scan_tells_layers_metadata_and_the_rest_apart() {
    let fixture = Fixture::new();
    let remote = IMAGE.replace("-v1-", "-");
    for layer in [DELTA, IMAGE, &remote, "future layer", "rel_1663_13990_2609_0_10_000000000169C348"] {
        put(&fixture.timeline.join(layer), layer.as_bytes());
    }
    put(&fixture.timeline.join("metadata"), b"opaque");
    fs::create_dir(fixture.timeline.join("subdirectory")).unwrap();
    symlink(IMAGE, fixture.timeline.join("link")).unwrap();
    put(&fixture.timeline.join("back\\slash"), b"");
    put(&fixture.timeline.join(OsStr::from_bytes(b"\xFFgarbage")), b"");
    let _socket = UnixListener::bind(fixture.timeline.join("socket")).unwrap();

    let scan = fixture.scan().unwrap();
    let names: Vec<&str> = scan.layers.iter().map(|layer| layer.name.as_str()).collect();
    assert_eq!(names, [DELTA, &remote, IMAGE, "future layer", "rel_1663_13990_2609_0_10_000000000169C348"]);
    for layer in &scan.layers {
        assert_eq!(layer.size, layer.name.as_str().len() as u64);
        assert_eq!(layer.path, fixture.timeline.join(layer.name.as_str()));
        assert_eq!(layer.modified, fs::metadata(&layer.path).unwrap().modified().unwrap());
    }
    assert_eq!(scan.layers[0].parsed.map(|parsed| parsed.kind()), Ok(LayerKind::Delta));
    assert_eq!(scan.layers[3].parsed, Err(OpaqueName::Shape));
    let metadata = scan.metadata.as_ref().unwrap();
    assert_eq!((metadata.name.as_str(), metadata.bytes.as_slice()), ("metadata", b"opaque".as_slice()));
    assert_eq!(metadata.parsed, Err(MetadataError::Length(6)));
    assert_eq!(
        reasons(&scan.skipped),
        [
            ("back\\slash", SkipReason::NotALayerName),
            ("link", SkipReason::SymbolicLink),
            ("socket", SkipReason::SpecialFile),
            ("subdirectory", SkipReason::Directory),
            ("\u{FFFD}garbage", SkipReason::NotUtf8),
        ]
    );
    assert!(scan.skipped[1].path.starts_with(&format!("tenants/{TENANT}/timelines/{TIMELINE}/")));
    let warnings: Vec<String> = scan.warnings().collect();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    for (warning, subject) in warnings.iter().zip(["metadata", &remote, "future layer"]) {
        assert!(warning.contains(subject), "{warning}");
    }
}

#[test]
fn what_is_no_file_may_be_a_layer_by_its_name() {
    let fixture = Fixture::new();
    let at = |name: &str| fixture.timeline.join(name);
    symlink("nowhere", at(IMAGE)).unwrap();
    fs::create_dir(at(DELTA)).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("metadata"), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    symlink("nowhere", at("opaque")).unwrap();
    symlink("nowhere", at(&format!("{IMAGE}.temp"))).unwrap();
    fs::create_dir(at("back\\slash")).unwrap();
    put(&at("y.temp"), b"x");

    let scan = fixture.scan().unwrap();
    let suspects = scan.skipped.iter().filter(|skipped| skipped.may_be_a_layer);
    let mut suspects: Vec<&str> = suspects.map(|skipped| skipped.path.rsplit('/').next().unwrap()).collect();
    suspects.sort_unstable();
    assert_eq!(suspects, [DELTA, IMAGE, "metadata"]);
    let present: Vec<&str> = scan.present.iter().map(LayerName::as_str).collect();
    assert_eq!(present, [DELTA, IMAGE, "metadata", "opaque"]);
    assert_eq!(scan.metadata, None);
}

#[test]
fn unfinished_files_are_temporary() {
    let fixture = Fixture::new();
    let mut temporary = [
        ".layerpack-4711".to_owned(),
        "ephemeral-12".to_owned(),
        format!("{IMAGE}.0.old"),
        format!("{IMAGE}.1f3a.temp_download"),
        format!("{IMAGE}.___temp"),
        format!("{IMAGE}.temp"),
        format!("{IMAGE}.temp_download"),
        "metadata.tmp".to_owned(),
    ];
    let kept = ["a.b.old", "a.old", "a.tmp.x", "ephemeral", "temp", "tmp"];
    for name in temporary.iter().map(String::as_str).chain(kept) {
        put(&fixture.timeline.join(name), b"x");
    }
    let scan = fixture.scan().unwrap();
    assert_eq!(scan.layers.iter().map(|layer| layer.name.as_str()).collect::<Vec<_>>(), kept);
    assert!(scan.skipped.iter().all(|skipped| skipped.reason == SkipReason::Temporary));
    let mut skipped: Vec<&str> = reasons(&scan.skipped).into_iter().map(|(name, _)| name).collect();
    skipped.sort_unstable();
    temporary.sort_unstable();
    assert_eq!(skipped, temporary);
}

#[test]
fn metadata_is_bounded_and_never_followed() {
    let fixture = Fixture::new();
    let metadata = fixture.timeline.join("metadata");
    put(&metadata, &vec![0; 64 * 1024]);
    assert_eq!(fixture.scan().unwrap().metadata.unwrap().bytes.len(), 64 * 1024);
    put(&metadata, &vec![0; 64 * 1024 + 1]);
    assert!(matches!(fixture.scan(), Err(WorkDirError::MetadataTooLarge(path)) if path == metadata));

    fs::rename(&metadata, fixture.timeline.join("target.tmp")).unwrap();
    symlink("target.tmp", &metadata).unwrap();
    let scan = fixture.scan().unwrap();
    assert_eq!(scan.metadata, None);
    assert_eq!(reasons(&scan.skipped)[0], ("metadata", SkipReason::SymbolicLink));
}

#[test]
fn an_unreadable_directory_is_named() {
    let fixture = Fixture::new();
    fs::set_permissions(&fixture.timeline, fs::Permissions::from_mode(0o000)).unwrap();
    // The superuser may read it all the same.
    if fs::read_dir(&fixture.timeline).is_err() {
        let error = fixture.scan().unwrap_err();
        assert!(error.to_string().contains(TIMELINE), "{error}");
    }
    let error = read_dir(&fixture.dir.path().join("absent")).unwrap_err();
    assert!(error.to_string().ends_with("absent"), "{error}");
}

/// A pass over a directory may miss both a layer that compaction removes and the one that replaces it.
#[test]
fn a_listing_counts_when_the_next_one_agrees() {
    let fixture = Fixture::new();
    put(&fixture.timeline.join(IMAGE), b"x");
    let mut passes = 0;
    let scan = fixture.open().scan_with(&fixture.timeline, |dir| {
        let mut list = List::read(dir)?;
        passes += 1;
        if passes == 1 {
            list.layers.clear();
        }
        Ok(list)
    });
    assert_eq!(scan.unwrap().layers[0].name.as_str(), IMAGE);
    assert_eq!(passes, 4);
}

#[test]
fn a_layer_that_vanishes_after_the_listing_starts_another() {
    let fixture = Fixture::new();
    put(&fixture.timeline.join(IMAGE), b"x");
    let mut passes = 0;
    let scan = fixture.open().scan_with(&fixture.timeline, |dir| {
        let list = List::read(dir);
        passes += 1;
        if passes == 2 {
            put(&dir.join(DELTA), b"x");
            fs::remove_file(dir.join(IMAGE)).unwrap();
        }
        list
    });
    let names: Vec<LayerName> = scan.unwrap().layers.into_iter().map(|layer| layer.name).collect();
    assert_eq!(names, [LayerName::new(DELTA).unwrap()]);
}

#[test]
fn metadata_that_appears_during_a_scan_is_read() {
    let fixture = Fixture::new();
    let scan = fixture.open().scan_with(&fixture.timeline, |dir| {
        put(&dir.join("metadata"), b"opaque");
        List::read(dir)
    });
    assert_eq!(scan.unwrap().metadata.unwrap().bytes, b"opaque");
}

#[test]
fn a_directory_that_never_settles_is_named() {
    let fixture = Fixture::new();
    let mut passes = 0;
    let scan = fixture.open().scan_with(&fixture.timeline, |dir| {
        passes += 1;
        put(&dir.join(format!("layer-{passes}")), b"x");
        List::read(dir)
    });
    assert!(matches!(scan, Err(WorkDirError::Changing { path, attempts: 8 }) if path == fixture.timeline));
    assert_eq!(passes, 16);
}

/// Metadata says which layers there must be, so it is never newer than the listing.
#[test]
fn metadata_is_read_before_the_layers_are_listed() {
    let fixture = Fixture::new();
    put(&fixture.timeline.join("metadata"), b"older");
    let scan = fixture.open().scan_with(&fixture.timeline, |dir| {
        put(&dir.join("metadata"), b"newer");
        List::read(dir)
    });
    assert_eq!(scan.unwrap().metadata.unwrap().bytes, b"older");
}
