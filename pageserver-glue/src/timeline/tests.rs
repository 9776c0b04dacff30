//! Backup and restore of a work directory over a store in memory.

use std::fs;
use std::os::unix::fs::symlink;

use layer_archive::WriterInfo;
use storage_api::{MemoryStore, SystemClock};
use sync_engine::gc::{GcOptions, GcPolicy, KnownRecords, execute_gc, plan_gc, survey_timeline};
use sync_engine::{MetadataOutcome, PackOptions, WriterOptions};

use super::*;

const TENANT: &str = "1f8ae1ef8989d5601e73fd13ae3dcd26";
const TIMELINE: &str = "88a4e0f55d55008138697fa10e7d97d3";
const IMAGE: &str =
    "000000067F000000050000403C0000000340-000000067F000000050000403C0000000380__00000000077F0B61-v1-00000002";
const DELTA: &str = "000000000000000000000000000000000000-FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF__0000000008028AA9-00000000080B7539-v1-00000002";

fn ids() -> (TenantId, TimelineId) {
    (TENANT.parse().unwrap(), TIMELINE.parse().unwrap())
}

#[expect(clippy::disallowed_methods, reason = "test data need not survive a crash")]
fn put(path: &std::path::Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A work directory with an image, a delta and an opaque layer.
fn workdir() -> (tempfile::TempDir, WorkDir) {
    let dir = tempfile::tempdir().unwrap();
    let timeline = dir.path().join("tenants").join(TENANT).join("timelines").join(TIMELINE);
    put(&timeline.join(IMAGE), b"image");
    put(&timeline.join(DELTA), b"delta");
    put(&timeline.join("of another time"), b"opaque");
    put(&timeline.join("metadata"), b"not parsed");
    let workdir = WorkDir::open(dir.path()).unwrap();
    (dir, workdir)
}

fn options() -> BackupOptions {
    let writer = WriterOptions {
        writer: WriterInfo { host: "host".into(), pid: 1, program: "test".into() },
        generation: None,
        clock: Arc::new(SystemClock),
    };
    BackupOptions { writer, pack: PackOptions::default(), progress: Arc::default() }
}

async fn store() -> Store {
    Store::open_or_create(Arc::new(MemoryStore::new()), "memory").await.unwrap().0
}

async fn back_up(
    store: &Store,
    workdir: &WorkDir,
    listing: Option<TimelineListing>,
) -> Result<TimelineBackup, TimelineError> {
    let (tenant, timeline) = ids();
    backup_timeline(store, workdir, (&tenant, &timeline), listing, &BackupChoices::default(), options()).await
}

#[test]
fn names_decide_how_hard_a_layer_is_compressed_and_which_lsns_it_has() {
    let (_dir, workdir) = workdir();
    let (tenant, timeline) = ids();
    let local = local_timeline(workdir.scan(&tenant, &timeline).unwrap());
    let of = |name: &str| local.layers.iter().find(|layer| layer.name.as_str() == name).unwrap();
    assert_eq!((of(DELTA).level, of(IMAGE).level), (Level::DELTA, Level::IMAGE));
    let lsns = |name| of(name).lsn_range.map(|range| (range.start().0, range.end().0));
    assert_eq!(lsns(DELTA), Some((0x0802_8AA9, 0x080B_7539)));
    assert_eq!(lsns(IMAGE), Some((0x077F_0B61, 0x077F_0B62)));
    assert_eq!((lsns("of another time"), of("of another time").level), (None, Level::IMAGE));
    assert_eq!(local.metadata.unwrap().bytes, b"not parsed");
    assert_eq!((local.disk_consistent_lsn, local.ancestor), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_does_not_know_of_another_ones_claim_is_fenced_and_writes_nothing() {
    let (_dir, workdir) = workdir();
    let store = store().await;
    let stale = || Some(TimelineListing { whole: true, ..TimelineListing::default() });
    back_up(&store, &workdir, stale()).await.unwrap();
    let (tenant, timeline) = ids();
    let before = TimelineView::open(&store, &tenant, &timeline, None).await.unwrap().state;
    let error = back_up(&store, &workdir, stale()).await.unwrap_err();
    assert!(matches!(error, TimelineError::Engine(sync_engine::Error::Fenced { .. })), "{error}");
    let after = TimelineView::open(&store, &tenant, &timeline, None).await.unwrap().state;
    assert_eq!(before, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_is_neither_followed_nor_replaced() {
    let (source, workdir) = workdir();
    let store = store().await;
    back_up(&store, &workdir, None).await.unwrap();
    let (tenant, timeline) = ids();
    let view = TimelineView::open(&store, &tenant, &timeline, None).await.unwrap();

    let target = tempfile::tempdir().unwrap();
    let workdir = WorkDir::create(target.path().join("new")).unwrap();
    let dir = workdir.timeline_dir(&tenant, &timeline);
    fs::create_dir_all(dir.join(DELTA)).unwrap();
    // Equal contents behind a link are not the layer either.
    symlink(
        source.path().join("tenants").join(TENANT).join("timelines").join(TIMELINE).join(IMAGE),
        dir.join(IMAGE),
    )
    .unwrap();
    put(&dir.join("stranger"), b"mine");
    let restored = restore_timeline(&store, &workdir, &view, &Arc::default()).await.unwrap();
    let mut failed: Vec<_> = restored.report.failed.iter().map(|failed| failed.name.as_str()).collect();
    failed.sort_unstable();
    assert_eq!(failed, [DELTA, IMAGE]);
    assert_eq!((restored.report.layers, restored.report.metadata), (1, MetadataOutcome::HeldBack));
    assert_eq!(restored.extra, ["stranger"]);
    assert!(fs::symlink_metadata(dir.join(IMAGE)).unwrap().is_symlink());
    assert_eq!(fs::read(dir.join("stranger")).unwrap(), b"mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_on_the_way_to_the_timeline_is_refused() {
    let (_source, workdir) = workdir();
    let store = store().await;
    back_up(&store, &workdir, None).await.unwrap();
    let (tenant, timeline) = ids();
    let view = TimelineView::open(&store, &tenant, &timeline, None).await.unwrap();
    let (target, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let workdir = WorkDir::create(target.path()).unwrap();
    symlink(elsewhere.path(), workdir.tenant_dir(&tenant)).unwrap();
    let error = restore_timeline(&store, &workdir, &view, &Arc::default()).await.unwrap_err();
    assert!(matches!(error, TimelineError::WorkDir(WorkDirError::NotADirectory(_))), "{error}");
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_the_metadata_s_name_and_is_no_file_is_not_opened() {
    let (_source, workdir) = workdir();
    let store = store().await;
    back_up(&store, &workdir, None).await.unwrap();
    let (tenant, timeline) = ids();
    let view = TimelineView::open(&store, &tenant, &timeline, None).await.unwrap();
    let target = tempfile::tempdir().unwrap();
    let workdir = WorkDir::create(target.path()).unwrap();
    let dir = workdir.timeline_dir(&tenant, &timeline);
    fs::create_dir_all(&dir).unwrap();
    // Whoever opens a pipe that nobody writes to waits for ever.
    rustix::fs::mkfifoat(rustix::fs::CWD, dir.join("metadata"), rustix::fs::Mode::from_raw_mode(0o600))
        .unwrap();
    let error = restore_timeline(&store, &workdir, &view, &Arc::default()).await.unwrap_err();
    assert!(matches!(error, TimelineError::Engine(sync_engine::Error::Local { .. })), "{error}");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_whose_layers_are_collected_begins_anew_on_the_newest_state() {
    let (source, workdir) = workdir();
    let id = ids();
    let noise: Vec<u8> = (0..20_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let dir = workdir.timeline_dir(&id.0, &id.1);
    put(&dir.join("removed"), &noise);
    let store = store().await;
    back_up(&store, &workdir, None).await.unwrap();
    let stale = TimelineView::open(&store, &id.0, &id.1, None).await.unwrap();
    // Between its reading and its restore the layers move, and the objects it knows are deleted.
    let names = [LayerName::new("removed").unwrap()].into();
    let (collected, no) = (layer_archive::RemovalReason::Collected, sync_engine::TakeOver::No);
    sync_engine::remove_layers(&store, stale.clone(), &names, collected, no, options().writer).await.unwrap();
    let policy = GcPolicy { retention: std::time::Duration::ZERO, ..GcPolicy::default() };
    let survey = survey_timeline(&store, (&id.0, &id.1), None, &policy, None, KnownRecords::default());
    let survey = survey.await.unwrap();
    let plan = plan_gc(&survey, &policy, 1 << 20);
    let gc = GcOptions { policy, bundle_bytes_target: 1 << 20, writer: options().writer, take_over: no };
    assert_eq!(execute_gc(&store, survey, plan, &gc).await.unwrap().repacked.layers, 3);
    // As a point in time it is given up, which is no damage.
    let target = tempfile::tempdir().unwrap();
    let past = WorkDir::create(target.path()).unwrap();
    let gone = restore_past(&store, &past, &stale, Past::Whole, &Arc::default()).await.unwrap_err();
    let is_gone = matches!(&gone, TimelineError::Engine(sync_engine::Error::PointNotFound { .. }));
    assert!(is_gone, "{gone:?}");
    let target = tempfile::tempdir().unwrap();
    let workdir = WorkDir::create(target.path()).unwrap();
    let restored = restore_timeline(&store, &workdir, &stale, &Arc::default()).await.unwrap();
    assert!(restored.report.is_complete() && restored.seq > stale.state.seq(), "{restored:?}");
    assert_eq!((restored.report.layers, restored.report.metadata), (3, MetadataOutcome::Written));
    drop(source);
}
