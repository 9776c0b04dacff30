//! The log protocol, one rule a test: claims, fencing, lost answers, delayed requests, manifests.

use std::sync::Arc;
use std::time::Duration;

use crate::support::{
    TestStore, WorkDir, assert_restores, backup, name, noon, open, repacked, tenant, timeline, writer_options,
};
use layer_archive::{
    BundleId, BundleWriter, Generation, LayerName, RemovalReason, Removed, Seq, TimelineMetadata,
};
use storage_api::simulated::{Fault, Rule, Simulation};
use storage_api::{Body, Key, ManualClock, Operation, PutMode};
use sync_engine::{Draft, Error, Mirror, Store, TimelineListing, TimelineView, TimelineWriter};

async fn claim(store: &Store, view: TimelineView, program: &str) -> Result<TimelineWriter, Error> {
    TimelineWriter::claim(store, view, writer_options(program)).await
}

/// Appends a commit that changes the metadata alone.
async fn append(writer: &mut TimelineWriter, metadata: &str) -> Result<Seq, Error> {
    let metadata = TimelineMetadata { file_name: name("metadata"), bytes: metadata.into() };
    let draft = Draft { metadata: Some(metadata), ..Draft::default() };
    writer.append(draft, BundleWriter::new()).await?;
    Ok(writer.view().state.seq())
}

fn metadata(view: &TimelineView) -> &str {
    std::str::from_utf8(&view.state.metadata().unwrap().bytes).unwrap()
}

async fn delete(store: &Store, key: Key) {
    store.objects().delete(&[key]).await.unwrap();
}

#[tokio::test]
async fn whoever_claims_last_writes_and_the_one_before_is_fenced() {
    let store = TestStore::memory().create().await;
    let mut first = claim(&store, open(&store).await, "first").await.unwrap();
    assert_eq!(append(&mut first, "1").await.unwrap(), Seq(2));
    let mut second = claim(&store, open(&store).await, "second").await.unwrap();
    assert_eq!(append(&mut second, "2").await.unwrap(), Seq(4));
    let fenced = append(&mut first, "lost").await.unwrap_err();
    assert!(matches!(&fenced, Error::Fenced { seq: Seq(3), by, .. } if by.program == "second"), "{fenced}");
    let view = open(&store).await;
    assert_eq!((metadata(&view), view.state.epoch().0), ("2", 2));
}

#[tokio::test]
async fn of_two_claims_on_one_state_the_second_stops() {
    let store = TestStore::memory().create().await;
    let (mine, theirs) = (open(&store).await, open(&store).await);
    let mut winner = claim(&store, theirs, "winner").await.unwrap();
    let fenced = claim(&store, mine, "loser").await.unwrap_err();
    assert!(matches!(&fenced, Error::Fenced { by, .. } if by.program == "winner"), "{fenced}");
    append(&mut winner, "goes on").await.unwrap();
    assert_eq!(metadata(&open(&store).await), "goes on");
}

#[tokio::test]
async fn a_claim_passes_over_records_of_the_old_term_and_then_fences_it() {
    let store = TestStore::memory().create().await;
    let mut old = claim(&store, open(&store).await, "old").await.unwrap();
    let view = open(&store).await;
    append(&mut old, "seen").await.unwrap();
    append(&mut old, "seen too").await.unwrap();
    let mut new = claim(&store, view, "new").await.unwrap();
    assert_eq!((new.view().state.seq(), metadata(new.view())), (Seq(4), "seen too"));
    assert!(matches!(append(&mut old, "no").await, Err(Error::Fenced { .. })));
    append(&mut new, "yes").await.unwrap();
    assert_eq!(metadata(&open(&store).await), "yes");
}

#[tokio::test]
async fn a_lost_answer_is_found_to_be_ours_and_a_lost_request_is_sent_again() {
    for (fault, lost) in [(Fault::AnswerLost, [1, 2]), (Fault::RequestLost, [1, 3])] {
        let simulation = Simulation::new(1);
        let store = TestStore::over(simulation.client("only")).create().await;
        // The claim's first create, then the record's.
        for number in lost {
            let rule = Rule::new(fault.clone()).on([Operation::PutCreate]).on_key("/log/");
            simulation.add_rule(rule.nth(number));
        }
        let mut writer = claim(&store, open(&store).await, "only").await.unwrap();
        assert_eq!(append(&mut writer, "once").await.unwrap(), Seq(2), "{fault:?}");
        let view = open(&store).await;
        assert_eq!((view.state.seq(), view.listing.records.len(), metadata(&view)), (Seq(2), 2, "once"));
    }
}

#[tokio::test]
async fn an_outcome_that_cannot_be_found_out_is_neither_success_nor_fenced() {
    let simulation = Simulation::new(1);
    let store = TestStore::over(simulation.client("only")).create().await;
    let mut writer = claim(&store, open(&store).await, "only").await.unwrap();
    simulation.add_rule(Rule::new(Fault::RequestLost));
    let unknown = append(&mut writer, "perhaps").await.unwrap_err();
    assert!(matches!(unknown, Error::UnknownOutcome { .. }), "{unknown}");
    simulation.clear_rules();
    assert_eq!(open(&store).await.state.seq(), Seq(1));
}

#[tokio::test]
async fn a_lost_race_for_a_record_is_not_mistaken_for_a_lost_answer() {
    // Two writers of one process with the same text, the same clock and the same name: only the term differs.
    let store = TestStore::memory().create().await;
    let mut first = claim(&store, open(&store).await, "same").await.unwrap();
    let mut second = claim(&store, open(&store).await, "same").await.unwrap();
    append(&mut second, "same").await.unwrap();
    assert!(matches!(append(&mut first, "same").await, Err(Error::Fenced { .. })));
}

/// A store in which `sleeper` has seen record 2, the log has gone on to record 6 with a manifest there, and gc has
/// freed the records 2 to 6 but for the claims.
async fn collected(store: &Store, who: &str) -> (TimelineView, TimelineWriter) {
    let mut writer = claim(store, open(store).await, "writer").await.unwrap();
    append(&mut writer, "2").await.unwrap();
    let sleeper = open(store).await;
    if who == "another" {
        append(&mut writer, "3").await.unwrap();
        writer = claim(store, open(store).await, "another").await.unwrap();
    }
    while writer.view().state.seq() < Seq(6) {
        append(&mut writer, "on").await.unwrap();
    }
    writer.detach().await.unwrap().unwrap();
    let view = open(store).await;
    for seq in [2, 3, 5, 6] {
        delete(store, view.keys.record(Seq(seq)).unwrap()).await;
    }
    (sleeper, writer)
}

#[tokio::test]
async fn a_claim_in_a_slot_that_gc_freed_is_void_and_taken_again_behind_the_log() {
    let store = TestStore::memory().create().await;
    let (sleeper, mut writer) = collected(&store, "the same writer").await;
    let mut woken = claim(&store, sleeper, "sleeper").await.unwrap();
    // It created record 3, which is history, and then record 7, which is not.
    assert_eq!(woken.view().state.seq(), Seq(7));
    append(&mut woken, "8").await.unwrap();
    let view = open(&store).await;
    assert_eq!((view.state.seq(), metadata(&view)), (Seq(8), "8"));
    assert!(matches!(append(&mut writer, "no").await, Err(Error::Fenced { .. })));
}

#[tokio::test]
async fn a_sleeper_that_finds_a_later_claim_is_fenced_and_does_not_take_over() {
    let store = TestStore::memory().create().await;
    let (sleeper, mut writer) = collected(&store, "another").await;
    let fenced = claim(&store, sleeper, "sleeper").await.unwrap_err();
    assert!(matches!(&fenced, Error::Fenced { by, .. } if by.program == "another"), "{fenced}");
    append(&mut writer, "goes on").await.unwrap();
    assert_eq!(metadata(&open(&store).await), "goes on");
}

#[tokio::test]
async fn a_reader_that_replays_a_delayed_claim_looks_again_and_finds_the_newer_manifest() {
    let store = TestStore::memory().create().await;
    let mut writer = claim(&store, open(&store).await, "writer").await.unwrap();
    append(&mut writer, "2").await.unwrap();
    writer.detach().await.unwrap().unwrap();
    // The reader's list shows the manifest after record 2, and as record 3 a claim that will turn out to be delayed.
    let sleeper = open(&store).await;
    let sleepers_claim = {
        let elsewhere = TestStore::memory().create().await;
        for (key, object) in objects(&store).await {
            elsewhere.objects().put(&key, Body::new(object), PutMode::Overwrite).await.unwrap();
        }
        claim(&elsewhere, sleeper, "sleeper").await.unwrap();
        let key = open(&elsewhere).await.keys.record(Seq(3)).unwrap();
        objects(&elsewhere).await.into_iter().find(|(other, _)| *other == key).unwrap()
    };
    for text in ["3", "4", "5"] {
        append(&mut writer, text).await.unwrap();
    }
    let mut stale = TimelineListing::read(&**store.objects(), &writer.view().keys).await.unwrap();
    stale.records.retain(|seq, _| *seq <= Seq(3));
    // A second claim by somebody else, and its manifest; then gc frees record 3 and the delayed claim takes its place.
    let mut later = claim(&store, open(&store).await, "later").await.unwrap();
    append(&mut later, "7").await.unwrap();
    put_manifest(&mut later).await;
    let (key, object) = sleepers_claim;
    delete(&store, key.clone()).await;
    store.objects().put(&key, Body::new(object), PutMode::Create).await.unwrap();
    let view = TimelineView::open(&store, &tenant(), &timeline(), Some(stale)).await.unwrap();
    assert_eq!(view.state, later.view().state);
    assert_eq!(metadata(&view), "7");
}

/// Appends until the cadence allows a manifest, and writes it.
async fn put_manifest(writer: &mut TimelineWriter) {
    for _ in 0..20 {
        let text = metadata(writer.view()).to_owned();
        append(writer, &text).await.unwrap();
    }
    writer.detach().await.unwrap().unwrap();
}

async fn objects(store: &Store) -> Vec<(Key, bytes::Bytes)> {
    use storage_api::{GetRange, KeyPrefix, ObjectStoreExt};
    let mut all = Vec::new();
    for info in store.objects().list_all(&KeyPrefix::root()).await.unwrap() {
        let bytes = store.objects().get_bytes(&info.key, GetRange::Full, info.size).await.unwrap().1;
        all.push((info.key, bytes));
    }
    all
}

#[tokio::test]
async fn a_missing_record_is_damage_and_never_the_end_of_the_log() {
    let store = TestStore::memory().create().await;
    let mut writer = claim(&store, open(&store).await, "writer").await.unwrap();
    for text in ["2", "3", "4"] {
        append(&mut writer, text).await.unwrap();
    }
    delete(&store, writer.view().keys.record(Seq(3)).unwrap()).await;
    let gap = TimelineView::open(&store, &tenant(), &timeline(), None).await.unwrap_err();
    assert!(matches!(gap, Error::Gap { seq: Seq(3), .. }), "{gap}");
}

#[tokio::test]
async fn below_a_manifest_that_does_not_read_the_log_must_be_whole() {
    let store = TestStore::memory().create().await;
    let mut writer = claim(&store, open(&store).await, "writer").await.unwrap();
    append(&mut writer, "2").await.unwrap();
    writer.detach().await.unwrap().unwrap();
    let manifest = writer.view().keys.manifest(Seq(2)).unwrap();
    store.objects().put(&manifest, Body::new("LPMANIF\ntorn"), PutMode::Overwrite).await.unwrap();
    let view = open(&store).await;
    assert_eq!((metadata(&view), view.damage.len(), view.replayed), ("2", 1, 2));
    // The manifest's name says that there is a record 2: without it, record 1 is not the end.
    delete(&store, view.keys.record(Seq(2)).unwrap()).await;
    let gap = TimelineView::open(&store, &tenant(), &timeline(), None).await.unwrap_err();
    assert!(matches!(gap, Error::Gap { seq: Seq(2), .. }), "{gap}");
}

#[tokio::test]
async fn a_record_of_another_history_is_refused() {
    let (store, other) = (TestStore::memory().create().await, TestStore::memory().create().await);
    let mut ours = claim(&store, open(&store).await, "writer").await.unwrap();
    let mut theirs = claim(&other, open(&other).await, "writer").await.unwrap();
    append(&mut ours, "ours").await.unwrap();
    append(&mut theirs, "theirs").await.unwrap();
    let key = ours.view().keys.record(Seq(2)).unwrap();
    let (_, foreign) = objects(&other).await.into_iter().find(|(name, _)| *name == key).unwrap();
    store.objects().put(&key, Body::new(foreign), PutMode::Overwrite).await.unwrap();
    let damaged = TimelineView::open(&store, &tenant(), &timeline(), None).await.unwrap_err();
    assert!(
        matches!(&damaged, Error::Damaged { source, .. } if source.to_string().contains("another history"))
    );
}

#[tokio::test]
async fn an_older_generation_is_refused_and_a_missing_one_keeps_the_last() {
    let store = TestStore::memory().create().await;
    let with = |generation: Option<u32>| {
        let mut options = writer_options("g");
        options.generation = generation.map(Generation);
        options
    };
    TimelineWriter::claim(&store, open(&store).await, with(Some(7))).await.unwrap();
    let stale = TimelineWriter::claim(&store, open(&store).await, with(Some(6))).await.unwrap_err();
    assert!(matches!(stale, Error::StaleGeneration { .. }), "{stale}");
    let writer = TimelineWriter::claim(&store, open(&store).await, with(None)).await.unwrap();
    assert_eq!(writer.view().state.generation(), Some(Generation(7)));
}

#[tokio::test]
async fn commits_never_go_back_in_time_and_say_whether_anybody_writes() {
    let store = TestStore::memory().create().await;
    let clock = Arc::new(ManualClock::new(noon()));
    let mut options = writer_options("clock");
    options.clock = clock.clone();
    let mut writer = TimelineWriter::claim(&store, open(&store).await, options).await.unwrap();
    let first = writer.view().state.time();
    clock.set(noon() - Duration::from_secs(3600));
    append(&mut writer, "later").await.unwrap();
    assert_eq!(writer.view().state.time(), first);
    assert!(!open(&store).await.state.is_released());
    writer.append(Draft { released: true, ..Draft::default() }, BundleWriter::new()).await.unwrap();
    assert!(open(&store).await.state.is_released());
}

#[tokio::test]
async fn manifests_follow_the_cadence() {
    let store = TestStore::memory().create().await;
    let mut writer = claim(&store, open(&store).await, "writer").await.unwrap();
    let mut manifests = Vec::new();
    for n in 0..200 {
        append(&mut writer, &format!("{n}")).await.unwrap();
        manifests.extend(writer.put_manifest_if_due().await.unwrap().map(|manifest| manifest.seq.0));
    }
    // Small states: every 64 records, the claim counted.
    assert_eq!(manifests, [64, 128, 192]);
    assert!(writer.detach().await.unwrap().is_none(), "nine records since the last one are few");
    for n in 0..8 {
        append(&mut writer, &format!("{n}")).await.unwrap();
    }
    assert_eq!(writer.detach().await.unwrap().map(|manifest| manifest.seq), Some(Seq(209)));
    assert_eq!(open(&store).await.replayed, 0);
}

#[tokio::test]
async fn moves_apply_only_where_the_layer_still_is_and_removals_win_over_late_moves() {
    let test = TestStore::memory();
    let work = WorkDir::new();
    work.put("a", b"a");
    work.put("b", b"b");
    work.put("c", b"c");
    let store = test.create().await;
    backup(&store, &work, Mirror::Off).await.unwrap();
    let mut writer = claim(&store, open(&store).await, "repacker").await.unwrap();
    let before = writer.view().state.layers().clone();
    // Another bundle with all layers, made the way a repack makes one.
    let (payload, layers) = writer.put_payload(repacked(&work)).await.unwrap();
    let moved = |layer: &LayerName| layer_archive::Moved {
        name: layer.clone(),
        from: before[layer].place,
        to: layers.iter().find(|entry| entry.name == *layer).unwrap().place,
        stored_bytes: 1,
    };
    // `a` is removed first and `b` is frozen anew under its old name: both moves come too late. `c` stays and moves.
    let removed =
        ["a", "b"].map(|gone| Removed { name: name(gone), reason: RemovalReason::Compacted }).to_vec();
    let anew = WorkDir::new();
    anew.put("b", b"B");
    writer.append(Draft { removed, ..Draft::default() }, repacked(&anew)).await.unwrap();
    let moves = ["a", "b", "c"].map(|layer| moved(&name(layer))).to_vec();
    let draft = Draft { payloads: vec![payload], moved: moves, ..Draft::default() };
    writer.append(draft, BundleWriter::new()).await.unwrap();
    let state = open(&store).await.state;
    let places: Vec<_> =
        state.layers().values().map(|layer| (layer.name.as_str(), layer.place.bundle)).collect();
    assert_eq!(places, [("b", BundleId::Record(Seq(4))), ("c", BundleId::Payload(payload.id))]);
    assert_eq!(state.bundles().len(), 2, "the first record's own bundle is dead");
    assert_restores(&store, &[("b".into(), b"B".to_vec()), ("c".into(), b"c".to_vec())].into()).await;
}

#[tokio::test]
async fn a_store_that_creates_twice_is_refused_before_it_has_a_marker() {
    let simulation = Simulation::new(1);
    simulation.add_rule(Rule::new(Fault::CreateReplaces));
    let test = TestStore::over(simulation.client("only"));
    let refused = Store::open_or_create(test.objects(), "test").await.unwrap_err();
    assert!(matches!(refused, Error::StoreCannotFence { .. }), "{refused}");
    assert!(matches!(Store::open(test.objects(), "test").await, Err(Error::NoStore { .. })));
}
