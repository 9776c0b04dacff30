//! Copies: no bytes through the process, nothing until the last record, and independence afterwards.

use std::sync::Arc;

use layer_archive::{Ancestor, BundleWriter, Lsn, Seq, TenantId, TimelineId};
use storage_api::{MemoryStore, Metered, ObjectStore};
use sync_engine::{
    At, CopyOptions, CopyReport, CopyTarget, Draft, Error, PackOptions, Store, TakeOver, TimelineReader,
    TimelineView, TimelineWriter, VerifyDepth, copy_timeline, execute_delete, plan_delete, verify_timeline,
};

use crate::bench::{Layers, NONE, append};
use crate::spy::Fate;
use crate::support::{TestStore, open, tenant, timeline, writer_options};
use crate::{killed_at, lived, went_on};

fn other_tenant() -> TenantId {
    "0000000000000000000000000000000c".parse().unwrap()
}

fn other_timeline() -> TimelineId {
    "0000000000000000000000000000000d".parse().unwrap()
}

fn options(take_over: TakeOver) -> CopyOptions {
    let pack = PackOptions::default();
    CopyOptions { writer: writer_options("copy"), pack, take_over, at: At::Newest, progress: Arc::default() }
}

async fn copy(source: &Store, at: At, target: &Store, options: CopyOptions) -> Result<CopyReport, Error> {
    let from = TimelineView::open_at(source, (&tenant(), &timeline()), at, None).await?;
    let (tenant, timeline) = (other_tenant(), other_timeline());
    copy_timeline(source, &from, CopyTarget { store: target, tenant: &tenant, timeline: &timeline }, options)
        .await
}

async fn open_copy(store: &Store) -> TimelineView {
    TimelineView::open(store, &other_tenant(), &other_timeline(), None).await.unwrap()
}

async fn assert_copy(store: &Store, layers: &Layers) {
    let view = open_copy(store).await;
    let report = verify_timeline(store, &view, VerifyDepth::Deep).await.unwrap();
    assert_eq!(report.findings, []);
    let names: Vec<String> = view.state.layers().keys().map(ToString::to_string).collect();
    assert_eq!(names, layers.keys().cloned().collect::<Vec<_>>());
    let reader = TimelineReader::new(store, view, Arc::default());
    for (layer, bytes) in layers {
        let read = reader.read_at(&crate::support::name(layer), 0..u64::MAX).await.unwrap();
        assert_eq!(read, *bytes);
    }
}

#[tokio::test]
async fn inside_a_store_no_layer_goes_through_the_process() {
    let mut bench = lived().await;
    let mut writer = bench.writer("large").await;
    let large: Vec<Vec<u8>> = (0..3).map(|n| crate::support::contents(n, 3 << 20)).collect();
    for (n, bytes) in large.iter().enumerate() {
        bench.commit(&mut writer, &[(&format!("huge {n}"), bytes)], &[]).await;
    }
    bench.release(writer).await;
    let before = bench.counts();
    let report = copy(&bench.store, At::Newest, &bench.store, options(TakeOver::No)).await.unwrap();
    let cost = bench.counts().since(&before);
    assert_eq!(cost.copy, report.bundles as u64);
    assert!(report.stored_bytes > 3 << 20, "{report:?}");
    // Tails of a few records, manifests, the claim and the record.
    assert!(cost.bytes_received < report.stored_bytes / 10, "{cost:?} of {report:?}");
    assert!(cost.bytes_sent < report.stored_bytes / 100, "{cost:?} of {report:?}");
    assert_copy(&bench.store, &bench.layers).await;
    let (source, copied) = (open(&bench.store).await, open_copy(&bench.store).await);
    assert_eq!(copied.state.metadata(), source.state.metadata());
    assert_eq!(copied.state.disk_consistent_lsn(), Some(Lsn(70)));
    assert!(copied.state.is_released());
}

#[tokio::test]
async fn both_go_on_and_collecting_in_one_never_touches_the_other() {
    let mut bench = lived().await;
    copy(&bench.store, At::Newest, &bench.store, options(TakeOver::No)).await.unwrap();
    let copied = bench.layers.clone();
    let mut writer = bench.writer("source").await;
    let gone: Vec<String> = bench.layers.keys().cloned().collect();
    let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
    bench.commit(&mut writer, &[("new", b"new")], &gone).await;
    bench.release(writer).await;
    bench.gc(&NONE, TakeOver::No).await;
    bench.gc(&NONE, TakeOver::No).await;
    bench.assert_whole().await;
    assert!(bench.listing().await.payloads.is_empty());
    assert_copy(&bench.store, &copied).await;
    // And the other way round: the copy is deleted altogether.
    let view = open_copy(&bench.store).await;
    let mut target = TimelineWriter::claim(&bench.store, view, writer_options("target")).await.unwrap();
    append(&mut target, &[("theirs", b"theirs")], &["large"]).await.unwrap();
    target.append(Draft { released: true, ..Draft::default() }, BundleWriter::new()).await.unwrap();
    let plan = plan_delete(&bench.store, open_copy(&bench.store).await).await.unwrap();
    execute_delete(&bench.store, plan, TakeOver::No, writer_options("delete")).await.unwrap();
    bench.assert_whole().await;
}

#[tokio::test]
async fn an_older_point_is_continued_as_a_new_timeline() {
    let mut bench = lived().await;
    let (old, seq) = (bench.layers.clone(), open(&bench.store).await.state.seq());
    went_on(&mut bench).await;
    let report = copy(&bench.store, At::Seq(seq), &bench.store, options(TakeOver::No)).await.unwrap();
    assert_eq!(report.from_seq, seq);
    assert_copy(&bench.store, &old).await;
    bench.assert_whole().await;
}

#[tokio::test]
async fn what_exists_or_was_deleted_is_not_copied_over() {
    let bench = lived().await;
    copy(&bench.store, At::Newest, &bench.store, options(TakeOver::No)).await.unwrap();
    let again = copy(&bench.store, At::Newest, &bench.store, options(TakeOver::Yes)).await.unwrap_err();
    assert!(matches!(again, Error::TimelineExists { .. }), "{again}");
    let plan = plan_delete(&bench.store, open_copy(&bench.store).await).await.unwrap();
    execute_delete(&bench.store, plan, TakeOver::No, writer_options("delete")).await.unwrap();
    let again = copy(&bench.store, At::Newest, &bench.store, options(TakeOver::Yes)).await.unwrap_err();
    assert!(matches!(again, Error::TimelineDeleted { .. }), "{again}");
}

#[tokio::test]
async fn killed_at_any_request_half_a_copy_is_nothing_and_the_next_run_makes_it() {
    let mut kills = 0;
    for (between, fate) in [(false, Fate::Lost), (false, Fate::AnswerLost), (true, Fate::Lost)] {
        for request in 0.. {
            let bench = lived().await;
            let second = TestStore::memory();
            let (target, objects) = if between {
                (second.create().await, second.objects())
            } else {
                (bench.store.clone(), Arc::clone(&bench.objects))
            };
            let spy = killed_at(&objects, request, fate.clone());
            let through = bench.through(spy).await;
            let copied = match &through {
                // The source goes through it too, where there is one store.
                Ok(store) if between => copy(&bench.store, At::Newest, store, options(TakeOver::No)).await,
                Ok(store) => copy(store, At::Newest, store, options(TakeOver::No)).await,
                Err(_) => Err(Error::Task("not opened".into())),
            };
            bench.assert_whole().await;
            let there = open_copy(&target).await;
            if copied.is_err() && there.state.layers().is_empty() {
                kills += 1;
                assert!(there.state.metadata().is_none());
                copy(&bench.store, At::Newest, &target, options(TakeOver::Yes)).await.unwrap();
            }
            assert_copy(&target, &bench.layers).await;
            if copied.is_ok() {
                // The last request that matters is the record; a manifest that fails is made by the next writer.
                if there.manifest.is_some() {
                    break;
                }
            }
        }
    }
    assert!(kills > 30, "{kills}");
}

#[tokio::test]
async fn between_stores_bundles_stream_and_large_ones_go_up_in_parts() {
    let bench = lived().await;
    let objects: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new().with_part_bytes_min(1));
    let metered: Arc<Metered<dyn ObjectStore>> = Arc::new(Metered::new(objects));
    let target =
        Store::open_or_create(Arc::<Metered<dyn ObjectStore>>::clone(&metered), "second").await.unwrap().0;
    let part_bytes = 16 << 10;
    let pack = PackOptions { bundle_bytes_target: 20 << 10, part_bytes, ..PackOptions::default() };
    let report =
        copy(&bench.store, At::Newest, &target, CopyOptions { pack, ..options(TakeOver::No) }).await.unwrap();
    let counts = metered.metrics().snapshot();
    assert!(counts.multipart > 4 && counts.copy == 0, "{counts:?}");
    assert!(counts.bytes_sent > report.stored_bytes);
    assert_copy(&target, &bench.layers).await;
}

#[tokio::test]
async fn damaged_bytes_are_not_copied_as_if_they_were_right() {
    let bench = lived().await;
    let target = TestStore::memory().create().await;
    let view = open(&bench.store).await;
    let lost = view.state.bundles()[0];
    let key = view.keys.bundle(lost.id).unwrap();
    let (_, bytes) =
        storage_api::ObjectStoreExt::get_bytes(&*bench.objects, &key, storage_api::GetRange::Full, 1 << 20)
            .await
            .unwrap();
    let mut flipped = bytes.to_vec();
    flipped[100] ^= 1;
    let overwrite = storage_api::PutMode::Overwrite;
    bench.objects.put(&key, storage_api::Body::new(flipped), overwrite).await.unwrap();
    let error = copy(&bench.store, At::Newest, &target, options(TakeOver::No)).await.unwrap_err();
    assert!(error.to_string().contains(key.as_str()), "{error}");
    bench.delete(key).await;
    let error = copy(&bench.store, At::Newest, &bench.store, options(TakeOver::No)).await.unwrap_err();
    assert!(matches!(error, Error::SourceDamaged { .. }), "{error}");
    for store in [&target, &bench.store] {
        assert!(open_copy(store).await.state.layers().is_empty());
    }
}

#[tokio::test]
async fn a_branch_is_copied_to_where_its_ancestor_is() {
    let bench = lived().await;
    let branch: TimelineId = "000000000000000000000000000000bb".parse().unwrap();
    let ancestor = Ancestor { timeline: timeline(), lsn: Lsn(70) };
    let view = TimelineView::open(&bench.store, &tenant(), &branch, None).await.unwrap();
    let mut writer = TimelineWriter::claim(&bench.store, view, writer_options("branch")).await.unwrap();
    let draft = Draft { ancestor: Some(ancestor.clone()), released: true, ..Draft::default() };
    writer.append(draft, BundleWriter::new()).await.unwrap();
    let from = TimelineView::open(&bench.store, &tenant(), &branch, None).await.unwrap();
    let elsewhere = other_tenant();
    let target = CopyTarget { store: &bench.store, tenant: &elsewhere, timeline: &branch };
    let alone = copy_timeline(&bench.store, &from, target, options(TakeOver::No)).await.unwrap_err();
    assert!(matches!(alone, Error::AncestorMissing { .. }), "{alone}");
    assert_eq!(
        TimelineView::open(&bench.store, &elsewhere, &branch, None).await.unwrap().state.seq(),
        Seq(0)
    );
    // With the ancestor there it goes, and the ancestor knows.
    let (root, same) = (open(&bench.store).await, timeline());
    let target_root = CopyTarget { store: &bench.store, tenant: &elsewhere, timeline: &same };
    copy_timeline(&bench.store, &root, target_root, options(TakeOver::No)).await.unwrap();
    copy_timeline(&bench.store, &from, target, options(TakeOver::No)).await.unwrap();
    let copied = TimelineView::open(&bench.store, &elsewhere, &branch, None).await.unwrap();
    assert_eq!(copied.state.ancestor(), Some(&ancestor));
    let root = TimelineView::open(&bench.store, &elsewhere, &same, None).await.unwrap();
    let points: Vec<_> = root.state.branch_points().map(|point| (&point.tenant, &point.timeline)).collect();
    assert_eq!(points, [(&elsewhere, &branch)]);
    let refused = plan_delete(&bench.store, root).await.unwrap_err();
    assert!(matches!(refused, Error::HasBranches { .. }), "{refused}");
}

#[tokio::test]
async fn a_source_that_is_collected_meanwhile_is_copied_as_it_is_by_then() {
    for between in [false, true] {
        let mut bench = lived().await;
        let from = open(&bench.store).await;
        let gone: Vec<String> =
            bench.layers.keys().filter(|layer| layer.as_str() != "large").cloned().collect();
        let gone: Vec<&str> = gone.iter().skip(2).map(String::as_str).collect();
        let mut writer = bench.writer("goes on").await;
        bench.commit(&mut writer, &[("more", &crate::support::contents(3, 9000))], &gone).await;
        bench.release(writer).await;
        bench.gc(&NONE, TakeOver::No).await;
        let second = TestStore::memory().create().await;
        let store = if between { &second } else { &bench.store };
        let (tenant, timeline) = (other_tenant(), other_timeline());
        let target = CopyTarget { store, tenant: &tenant, timeline: &timeline };
        let report = copy_timeline(&bench.store, &from, target, options(TakeOver::No)).await.unwrap();
        assert!(report.from_seq > from.state.seq(), "{report:?}");
        assert_copy(store, &bench.layers).await;
        // What has not gone on is damaged.
        let view = open(&bench.store).await;
        bench.delete(view.keys.bundle(view.state.bundles()[0].id).unwrap()).await;
        let other = "0000000000000000000000000000000f".parse().unwrap();
        let target = CopyTarget { timeline: &other, ..target };
        let lost = copy_timeline(&bench.store, &view, target, options(TakeOver::No)).await.unwrap_err();
        assert!(matches!(&lost, Error::Storage(error) if error.is_not_found()), "{lost}");
    }
}
