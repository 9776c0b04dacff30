//! The rules of deleting, one a test. Each fails when its rule is taken out.

use std::sync::Arc;

use layer_archive::{
    BundleId, BundleWriter, Commit, CommitFlags, FrameCompressor, Origin, PayloadRef, Seq, UnixMillis,
    WriterInfo,
};
use storage_api::{Body, PutMode};
use sync_engine::gc::{Checkpoint, GcPolicy, Points, Why, choose_floor, plan_repack};
use sync_engine::{Draft, Error, TakeOver, TimelineWriter, remove_layers};

use crate::bench::{Bench, DAY, NONE, TARGET, append, contents as read, keeping, put_payload, state_at};
use crate::spy::{Fate, Spy};
use crate::support::{contents, name, open, tenant, timeline, writer_options};

/// Writes a manifest of the newest state, as any writer may.
async fn manifest(bench: &Bench, writer: &TimelineWriter) -> Seq {
    let state = &writer.view().state;
    let body = Body::new(state.to_manifest().encode().unwrap());
    let key = writer.view().keys.manifest(state.seq()).unwrap();
    bench.objects.put(&key, body, PutMode::Create).await.unwrap();
    state.seq()
}

fn keys(doomed: &[sync_engine::gc::Doomed]) -> Vec<String> {
    let short = |key: &str| key.rsplit_once("timelines/").unwrap().1.split_once('/').unwrap().1.to_owned();
    doomed.iter().map(|doomed| short(doomed.key.as_str())).collect()
}

fn record(seq: u64) -> String {
    format!("log/{seq:016x}.tar.zst")
}

#[tokio::test]
async fn claims_stay_for_ever_and_a_sleeper_is_still_fenced() {
    let mut bench = Bench::new().await;
    let mut sleeper = bench.writer("sleeper").await;
    bench.commit(&mut sleeper, &[("a", &contents(1, 40_000))], &[]).await;
    for reign in 0..3 {
        let mut writer = bench.writer(&format!("writer {reign}")).await;
        bench.commit(&mut writer, &[("b", &contents(reign, 40_000))], &[]).await;
        bench.commit(&mut writer, &[], &["b"]).await;
        bench.release(writer).await;
    }
    bench.gc(&NONE, TakeOver::No).await;
    let listing = bench.listing().await;
    // Five claims, the collection's own among them; the one live layer was not moved; a record releases.
    let left: Vec<u64> = listing.records.keys().map(|seq| seq.0).collect();
    assert_eq!(left, [1, 2, 3, 7, 11, 15, 16]);
    let fenced = append(&mut sleeper, &[("late", b"late")], &[]).await.unwrap_err();
    assert!(matches!(fenced, Error::Fenced { .. }), "{fenced}");
    bench.assert_whole().await;
}

#[tokio::test]
async fn the_newest_manifest_is_no_floor_and_records_above_the_floor_stay() {
    let mut bench = Bench::new().await;
    let mut writer = bench.writer("writer").await;
    bench.commit(&mut writer, &[("a", &contents(1, 100))], &[]).await;
    bench.commit(&mut writer, &[], &["a"]).await;
    assert_eq!(bench.plan(&NONE).await.floor, None);
    let first = manifest(&bench, &writer).await;
    let plan = bench.plan(&NONE).await;
    assert_eq!((plan.floor, plan.objects.len()), (None, 0));
    bench.commit(&mut writer, &[("b", &contents(2, 100))], &[]).await;
    bench.commit(&mut writer, &[], &["b"]).await;
    manifest(&bench, &writer).await;
    let plan = bench.plan(&NONE).await;
    assert_eq!((plan.floor, keys(&plan.objects)), (Some(first), vec![record(2), record(3)]));
    assert_eq!(plan.points_left, Some(Points { oldest: first, newest: Seq(5) }));
}

#[tokio::test]
async fn a_layer_is_alive_by_its_place_and_not_by_its_name() {
    let mut bench = Bench::new().await;
    let mut writer = bench.writer("writer").await;
    bench.commit(&mut writer, &[("a", &contents(1, 100))], &[]).await;
    bench.commit(&mut writer, &[], &["a"]).await;
    bench.commit(&mut writer, &[("a", &contents(2, 100))], &[]).await;
    manifest(&bench, &writer).await;
    bench.commit(&mut writer, &[("b", b"b")], &[]).await;
    manifest(&bench, &writer).await;
    assert_eq!(keys(&bench.plan(&NONE).await.objects), [record(2), record(3)]);
    bench.gc(&NONE, TakeOver::No).await;
    bench.assert_whole().await;
}

#[tokio::test]
async fn what_was_live_at_the_floor_or_later_stays_restorable() {
    let mut bench = Bench::new().await;
    let mut writer = bench.writer("writer").await;
    bench.commit(&mut writer, &[("a", &contents(1, 100))], &[]).await;
    let floor = manifest(&bench, &writer).await;
    let at_floor = bench.layers.clone();
    // Removed after the floor; and a payload object that comes and goes after it.
    bench.commit(&mut writer, &[], &["a"]).await;
    let (payload, added) = put_payload(&mut writer, &[("p", &contents(7, 100))]).await;
    let draft = Draft { payloads: vec![payload], added, ..Draft::default() };
    writer.append(draft, BundleWriter::new()).await.unwrap();
    let between = writer.view().state.seq();
    append(&mut writer, &[], &["p"]).await.unwrap();
    // Another reign, so that no state knows the dead payload object any more.
    let mut writer = bench.writer("next").await;
    bench.commit(&mut writer, &[("z", b"z")], &[]).await;
    manifest(&bench, &writer).await;
    let report = bench.gc(&NONE, TakeOver::No).await;
    assert_eq!(report.floor, Some(floor));
    assert_eq!(read(&bench.store, &state_at(&bench.store, floor).await).await, at_floor);
    let state = state_at(&bench.store, between).await;
    assert_eq!(read(&bench.store, &state).await, [("p".to_owned(), contents(7, 100))].into());
}

#[tokio::test]
async fn a_clock_that_goes_backwards_makes_nothing_older() {
    let mut bench = Bench::new().await;
    let mut writer = bench.writer("writer").await;
    bench.commit(&mut writer, &[("a", &contents(1, 100))], &[]).await;
    let start = bench.now();
    // For one manifest the clock is ten days behind.
    bench.clock.set(start - DAY * 10);
    let early = manifest(&bench, &writer).await;
    bench.clock.set(start + DAY);
    bench.commit(&mut writer, &[], &["a"]).await;
    manifest(&bench, &writer).await;
    let policy = keeping(DAY * 7);
    assert_eq!(bench.plan(&policy).await.floor, None);
    bench.clock.set(start + DAY * 7);
    assert_eq!(bench.plan(&policy).await.floor, Some(early));
    // A clock that was ahead, and is right again: what it stamped waits.
    let view = open(&bench.store).await;
    assert_eq!(choose_floor(&view.state, &view.listing, policy.retention, start - DAY * 20), None);
    // It is the store's clock that counts, and it is asked: nothing newer need be in the timeline.
    bench.clock.set(start + DAY * 30);
    let report = bench.gc(&policy, TakeOver::No).await;
    assert_eq!(report.floor, Some(early));
}

#[tokio::test]
async fn payload_objects_go_when_their_writer_can_name_them_no_more_and_are_old() {
    let mut bench = Bench::new().await;
    let mut writer = bench.writer("killed").await;
    bench.commit(&mut writer, &[("a", &contents(1, 100))], &[]).await;
    let floor = manifest(&bench, &writer).await;
    let (orphan, _) = put_payload(&mut writer, &[("orphan", &contents(2, 100))]).await;
    bench.commit(&mut writer, &[("b", b"b")], &[]).await;
    manifest(&bench, &writer).await;
    let name = |payload: &PayloadRef| format!("{}.tar.zst", BundleId::Payload(payload.id));
    // Its writer may be about to name it.
    bench.clock.advance(DAY * 30);
    assert_eq!(keys(&bench.plan(&NONE).await.objects), Vec::<String>::new());
    let mut next = bench.writer("next").await;
    let (waiting, _) = put_payload(&mut next, &[("waiting", &contents(3, 100))]).await;
    let plan = bench.plan(&keeping(DAY * 7)).await;
    assert_eq!((plan.floor, keys(&plan.objects)), (Some(floor), vec![name(&orphan)]));
    assert_eq!(plan.objects[0].why, Why::Orphan);
    assert_eq!((plan.space.orphans, plan.space.orphan_bytes), (1, orphan.stored_bytes));
    // One that arrives late is as dead, and waits for its time all the same.
    let late = PayloadRef { id: layer_archive::PayloadId { number: 9, ..orphan.id }, ..orphan };
    let key = open(&bench.store).await.keys.bundle(BundleId::Payload(late.id)).unwrap();
    bench.objects.put(&key, Body::new("late"), PutMode::Create).await.unwrap();
    assert_eq!(keys(&bench.plan(&keeping(DAY * 7)).await.objects), [name(&orphan)]);
    bench.clock.advance(DAY * 8);
    bench.gc(&keeping(DAY * 7), TakeOver::No).await;
    let left: Vec<_> = bench.listing().await.payloads.into_keys().collect();
    assert_eq!(left, [waiting.id]);
    bench.assert_whole().await;
}

#[tokio::test]
async fn abandoned_uploads_are_aborted_after_retention() {
    let bench = Bench::new().await;
    let killed = bench.writer("killed").await;
    let id = |writer: &TimelineWriter| layer_archive::PayloadId {
        claim: writer.view().state.claim(),
        term: writer.view().state.term(),
        number: 0,
    };
    let old = killed.view().keys.bundle(BundleId::Payload(id(&killed))).unwrap();
    bench.objects.multipart_create(&old).await.unwrap();
    let next = bench.writer("next").await;
    let new = next.view().keys.bundle(BundleId::Payload(id(&next))).unwrap();
    bench.objects.multipart_create(&new).await.unwrap();
    bench.clock.advance(DAY * 6);
    assert!(bench.plan(&keeping(DAY * 7)).await.uploads.is_empty());
    bench.clock.advance(DAY);
    let report = bench.gc(&keeping(DAY * 7), TakeOver::No).await;
    assert_eq!(report.collected.uploads, 1);
    let left = bench.objects.multipart_list(next.view().keys.prefix()).await.unwrap();
    assert_eq!(left.iter().map(|upload| &upload.key).collect::<Vec<_>>(), [&new]);
}

#[tokio::test]
async fn of_a_deleted_timeline_claims_tombstone_and_manifest_stay() {
    let mut bench = Bench::new().await;
    let mut writer = bench.writer("writer").await;
    bench.commit(&mut writer, &[("a", &contents(1, 100))], &[]).await;
    let (payload, added) = put_payload(&mut writer, &[("p", &contents(7, 100))]).await;
    let draft = Draft { payloads: vec![payload], added, ..Draft::default() };
    writer.append(draft, BundleWriter::new()).await.unwrap();
    manifest(&bench, &writer).await;
    let state = writer.view().state.clone();
    let commit = Commit {
        seq: state.seq().next(),
        parent: state.history(),
        flags: CommitFlags { claim: false, released: true, deleted: true },
        term: state.term(),
        epoch: state.epoch(),
        generation: None,
        writer: WriterInfo::default(),
        time: UnixMillis(state.time().0),
        metadata: None,
        disk_consistent_lsn: None,
        ancestor: None,
        branch_points_added: Vec::new(),
        branch_points_removed: Vec::new(),
        payloads: Vec::new(),
        added: Vec::new(),
        moved: Vec::new(),
        removed: Vec::new(),
    };
    let origin = Origin { tenant: tenant(), timeline: timeline(), bundle: BundleId::Record(commit.seq) };
    let tombstone =
        BundleWriter::new().finish(&origin, Some(&commit), &mut FrameCompressor::new().unwrap()).unwrap();
    let view = open(&bench.store).await;
    let key = view.keys.record(commit.seq).unwrap();
    bench.objects.put(&key, Body::new(tombstone.bytes), PutMode::Create).await.unwrap();
    let deleted = open(&bench.store).await.state;
    let body = Body::new(deleted.to_manifest().encode().unwrap());
    bench.objects.put(&view.keys.manifest(commit.seq).unwrap(), body, PutMode::Create).await.unwrap();
    bench.clock.advance(DAY * 6);
    assert!(bench.plan(&keeping(DAY * 7)).await.is_empty());
    bench.clock.advance(DAY);
    bench.gc(&keeping(DAY * 7), TakeOver::No).await;
    let listing = bench.listing().await;
    assert_eq!(listing.records.keys().map(|seq| seq.0).collect::<Vec<_>>(), [1, 4]);
    assert_eq!((listing.manifests.len(), listing.payloads.len()), (1, 0));
    assert!(open(&bench.store).await.state.is_deleted());
    // What was in flight goes too.
    let late = view.keys.bundle(BundleId::Payload(payload.id)).unwrap();
    bench.objects.put(&late, Body::new("late"), PutMode::Create).await.unwrap();
    bench.clock.advance(DAY * 8);
    bench.gc(&keeping(DAY * 7), TakeOver::No).await;
    assert!(bench.listing().await.payloads.is_empty());
}

#[tokio::test]
async fn a_held_timeline_is_collected_and_not_repacked_unless_taken_over() {
    let mut bench = Bench::new().await;
    let mut writer = bench.writer("pageserver").await;
    let (large, small) = (contents(1, 60_000), contents(2, 3000));
    bench.commit(&mut writer, &[("a", &large), ("b", &small)], &[]).await;
    bench.commit(&mut writer, &[], &["a"]).await;
    let plan = bench.plan(&NONE).await;
    assert_eq!(plan.repack.sources.len(), 1);
    let report = bench.gc(&NONE, TakeOver::No).await;
    assert_eq!(report.left_to.unwrap().program, "pageserver");
    assert_eq!((report.repacked.layers, report.seq), (0, Seq(3)));
    let layers = [name("b")].into();
    let refused = remove_layers(
        &bench.store,
        open(&bench.store).await,
        &layers,
        layer_archive::RemovalReason::Collected,
        TakeOver::No,
        writer_options("rm"),
    );
    let refused = refused.await.unwrap_err();
    assert!(matches!(&refused, Error::Held { by, .. } if by.program == "pageserver"), "{refused}");
    bench.commit(&mut writer, &[("c", b"c")], &[]).await;
    let report = bench.gc(&NONE, TakeOver::Yes).await;
    assert_eq!((report.left_to, report.repacked.layers), (None, 1));
    let fenced = append(&mut writer, &[("d", b"d")], &[]).await.unwrap_err();
    assert!(matches!(fenced, Error::Fenced { .. }));
    bench.assert_whole().await;
}

#[tokio::test]
async fn a_collection_beside_a_writer_writes_no_manifest_of_a_claim_that_may_not_have_settled() {
    let mut bench = Bench::new().await;
    let mut writer = bench.writer("writer").await;
    bench.commit(&mut writer, &[("a", &contents(1, 60_000))], &[]).await;
    bench.commit(&mut writer, &[], &["a"]).await;
    // Another writer's claim is there; it has yet to list the manifests.
    let spy = Spy::new(&bench.objects, |_, _| Fate::Done);
    let store = bench.through(spy).await.unwrap();
    let view = open(&bench.store).await;
    let claiming = TimelineWriter::claim(&store, view, writer_options("next"));
    // The claim is put, then the spy lets this task go on before the list.
    let collecting = async {
        while bench.objects.head(&writer.view().keys.record(Seq(4)).unwrap()).await.is_err() {
            tokio::task::yield_now().await;
        }
        bench.gc(&NONE, TakeOver::No).await
    };
    let (claimed, report) = tokio::join!(claiming, collecting);
    assert!(!report.checkpoint);
    let mut next = claimed.unwrap();
    bench.commit(&mut next, &[("b", b"b")], &[]).await;
    assert!(bench.gc(&NONE, TakeOver::No).await.checkpoint, "now it stands");
    bench.commit(&mut next, &[("c", b"c")], &[]).await;
    bench.assert_whole().await;
}

#[tokio::test]
async fn the_metadata_goes_along_with_the_record_that_releases() {
    let mut bench = Bench::new().await;
    let mut writer = bench.writer("writer").await;
    let metadata = layer_archive::TimelineMetadata { file_name: name("metadata"), bytes: b"at 1".to_vec() };
    let draft = Draft {
        metadata: Some(metadata),
        disk_consistent_lsn: Some(layer_archive::Lsn(1)),
        ..Draft::default()
    };
    writer.append(draft, BundleWriter::new()).await.unwrap();
    bench.commit(&mut writer, &[("a", &contents(1, 60_000)), ("b", &contents(2, 2000))], &[]).await;
    bench.commit(&mut writer, &[], &["a"]).await;
    bench.release(writer).await;
    let before = open(&bench.store).await.state;
    bench.gc(&NONE, TakeOver::No).await;
    let view = open(&bench.store).await;
    assert_eq!(view.state.metadata(), before.metadata());
    assert_eq!(view.state.disk_consistent_lsn(), before.disk_consistent_lsn());
    let (_, last) = view.listing.records.last_key_value().unwrap();
    let bytes = storage_api::ObjectStoreExt::get_bytes(
        &*bench.objects,
        &last.key,
        storage_api::GetRange::Full,
        u64::MAX,
    );
    let record = layer_archive::BundleIndex::parse_object(&bytes.await.unwrap().1).unwrap();
    assert_eq!(record.commit().unwrap().metadata.as_ref(), before.metadata());
}

#[tokio::test]
async fn many_small_neighbours_are_joined_and_a_run_keeps_to_its_budget() {
    let mut bench = Bench::new().await;
    let mut writer = bench.writer("writer").await;
    let layers: Vec<(String, Vec<u8>)> =
        (0..20).map(|n| (format!("layer-{n:02}"), contents(n, 2000))).collect();
    for (layer, bytes) in &layers[..15] {
        bench.commit(&mut writer, &[(layer, bytes)], &[]).await;
    }
    let state = writer.view().state.clone();
    assert!(plan_repack(&state, &NONE, TARGET).is_empty(), "fifteen are few");
    for (layer, bytes) in &layers[15..] {
        bench.commit(&mut writer, &[(layer, bytes)], &[]).await;
    }
    let state = writer.view().state.clone();
    let all = plan_repack(&state, &NONE, TARGET);
    assert_eq!(all.sources.len(), 20);
    // A tenth of the live bytes is less than what a small target allows: the target it is.
    let one = all.sources[0].bundle.live_bytes;
    assert_eq!(plan_repack(&state, &NONE, one * 3 + 10).sources.len(), 3);
    let few = GcPolicy { requests_max: 12, ..NONE };
    assert_eq!(plan_repack(&state, &few, TARGET).sources.len(), 4);
    let few = GcPolicy { repack_bytes_max: one * 2 + 10, ..NONE };
    assert_eq!(plan_repack(&state, &few, TARGET).sources.len(), 2);
    bench.release(writer).await;
    bench.gc(&NONE, TakeOver::No).await;
    assert_eq!(open(&bench.store).await.state.bundles().len(), 1);
    bench.assert_whole().await;
    // What was joined waits for its like, and is not copied again with each few that come.
    let mut writer = bench.writer("writer").await;
    for (layer, bytes) in &layers[..15] {
        bench.commit(&mut writer, &[(&format!("more-{layer}"), bytes)], &[]).await;
    }
    assert!(plan_repack(&open(&bench.store).await.state, &NONE, TARGET).is_empty());
}

#[tokio::test]
async fn a_plan_writes_and_deletes_nothing_and_says_what_it_costs() {
    let mut bench = Bench::new().await;
    let mut writer = bench.writer("writer").await;
    bench.commit(&mut writer, &[("a", &contents(1, 60_000)), ("b", &contents(2, 3000))], &[]).await;
    bench.commit(&mut writer, &[], &["a"]).await;
    bench.release(writer).await;
    let before = bench.objects().await;
    let spy = Spy::new(&bench.objects, |operation, _| match operation {
        storage_api::Operation::Get
        | storage_api::Operation::List
        | storage_api::Operation::MultipartList => Fate::Done,
        other => panic!("{other:?}"),
    });
    let store = bench.through(spy).await.unwrap();
    let survey = bench.survey_of(&store, &NONE).await.unwrap();
    let plan = sync_engine::gc::plan_gc(&survey, &NONE, TARGET);
    assert!(plan.writes() && matches!(plan.checkpoint, Checkpoint::Frees(bytes) if bytes > 30_000));
    assert_eq!(bench.objects().await, before);
    let space = plan.space;
    let parts = space.live_bytes
        + space.beside_live_bytes
        + space.held_bytes
        + space.doomed_bytes
        + space.claim_bytes
        + space.manifest_bytes
        + space.unknown_bytes;
    assert_eq!((space.stored_bytes, parts), (bench.stored_bytes().await, space.stored_bytes));
    let counts = bench.counts().requests();
    let estimate = plan.requests(Arc::clone(&bench.objects).capabilities().delete_keys_max);
    bench.gc(&NONE, TakeOver::No).await;
    let spent = usize::try_from(bench.counts().requests() - counts).unwrap();
    assert!(estimate <= spent && spent <= estimate + 20, "{estimate} estimated, {spent} spent");
}

#[tokio::test]
async fn bundles_that_would_not_become_fewer_are_not_joined() {
    let mut bench = Bench::new().await;
    let mut writer = bench.writer("pageserver").await;
    for n in 0..17 {
        bench.commit(&mut writer, &[(&format!("layer-{n:02}"), &contents(n, 40_000))], &[]).await;
    }
    bench.release(writer).await;
    let survey = bench.survey(&NONE).await;
    let stored = survey.view.state.bundles()[0].stored_bytes;
    assert!(plan_repack(&survey.view.state, &NONE, stored * 3 / 2).is_empty());
    assert!(!plan_repack(&survey.view.state, &NONE, stored * 20).is_empty());
}

#[tokio::test]
async fn large_metadata_does_not_push_the_floor_on_for_ever() {
    for len in [512, 3000, 9000, 60_000] {
        let mut bench = Bench::new().await;
        let mut writer = bench.writer("pageserver").await;
        bench.commit(&mut writer, &[("a", &contents(1, 40_000)), ("b", &contents(2, 9000))], &[]).await;
        let metadata =
            layer_archive::TimelineMetadata { file_name: name("metadata"), bytes: contents(3, len) };
        let draft = Draft { metadata: Some(metadata), ..Draft::default() };
        writer.append(draft, BundleWriter::new()).await.unwrap();
        bench.commit(&mut writer, &[], &["a"]).await;
        bench.release(writer).await;
        let mut seqs = Vec::new();
        for _ in 0..8 {
            seqs.push(bench.gc(&keeping(DAY * 7), TakeOver::No).await.seq);
            bench.clock.advance(DAY);
        }
        assert_eq!(seqs[3], seqs[7], "{len} bytes of metadata: {seqs:?}");
        assert!(bench.listing().await.records.len() < 12);
    }
}
