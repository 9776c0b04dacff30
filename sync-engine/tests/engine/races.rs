//! The races that object-store logs have lost elsewhere, on the simulated store: who sleeps where is decided here.

use std::sync::Arc;

use layer_archive::{BundleWriter, Seq, TimelineMetadata};
use storage_api::simulated::{Delay, Fault, Gate, Moment, Rule, SimulatedClient, Simulation};
use storage_api::{Body, Key, ObjectStore, Operation, PutMode};
use sync_engine::{Draft, Error, Store, TimelineKeys, TimelineView, TimelineWriter, WriterOptions};
use tokio::task::JoinHandle;

use crate::support::{name, tenant, timeline, writer_options};

async fn store(simulation: &Simulation, client: &str) -> Store {
    Store::open_or_create(simulation.client(client), "simulated").await.unwrap().0
}

fn options(simulation: &Simulation, program: &str) -> WriterOptions {
    WriterOptions { clock: simulation.clock(), ..writer_options(program) }
}

async fn open(store: &Store) -> Result<TimelineView, Error> {
    TimelineView::open(store, &tenant(), &timeline(), None).await
}

async fn claim(simulation: &Simulation, program: &str) -> Result<TimelineWriter, Error> {
    let store = store(simulation, program).await;
    let view = open(&store).await?;
    TimelineWriter::claim(&store, view, options(simulation, program)).await
}

async fn append(writer: &mut TimelineWriter, text: &str) -> Result<Seq, Error> {
    let metadata = TimelineMetadata { file_name: name("metadata"), bytes: text.into() };
    writer.append(Draft { metadata: Some(metadata), ..Draft::default() }, BundleWriter::new()).await?;
    Ok(writer.view().state.seq())
}

/// Writes a manifest of what `writer` knows, whatever the cadence says.
async fn snapshot(simulation: &Simulation, writer: &TimelineWriter) {
    let view = writer.view();
    let key = view.keys.manifest(view.state.seq()).unwrap();
    let body = Body::new(view.state.to_manifest().encode().unwrap());
    simulation.objects().put(&key, body, PutMode::Create).await.unwrap();
}

fn record(seq: u64) -> Key {
    TimelineKeys::new(&tenant(), &timeline()).unwrap().record(Seq(seq)).unwrap()
}

async fn collect(simulation: &Simulation, records: &[u64]) {
    let keys: Vec<Key> = records.iter().map(|seq| record(*seq)).collect();
    simulation.objects().delete(&keys).await.unwrap();
}

/// What a reader that comes now sees: the last record and the last text.
async fn seen(simulation: &Simulation) -> (u64, String) {
    let view = open(&store(simulation, "reader").await).await.unwrap();
    assert_eq!(view.damage, []);
    let text = view.state.metadata().map(|metadata| metadata.bytes.clone()).unwrap_or_default();
    (view.state.seq().0, String::from_utf8(text).unwrap())
}

/// Holds the next such request of `client` for record `seq`.
fn hold(simulation: &Simulation, client: &str, operation: Operation, seq: u64) -> Gate {
    let gate = Gate::new();
    let held = Rule::new(Fault::Slow(Delay::Until(gate.clone())));
    simulation.add_rule(held.of_client(client).on([operation]).on_key(record(seq).as_str()).nth(1));
    gate
}

/// A writer that sleeps with its append of record 2 on the way, while another has claimed, gone on to record 4 and
/// written two manifests (slatedb issues 352 and 1622).
async fn stalled_append(simulation: &Simulation) -> (Gate, JoinHandle<Result<Seq, Error>>) {
    let mut stale = claim(simulation, "stale").await.unwrap();
    let gate = hold(simulation, "stale", Operation::PutCreate, 2);
    let append = tokio::spawn(async move { append(&mut stale, "lost").await });
    gate.reached().await;
    let mut newer = claim(simulation, "newer").await.unwrap();
    assert_eq!(self::append(&mut newer, "three").await.unwrap(), Seq(3));
    snapshot(simulation, &newer).await;
    assert_eq!(self::append(&mut newer, "four").await.unwrap(), Seq(4));
    snapshot(simulation, &newer).await;
    (gate, append)
}

#[tokio::test(start_paused = true)]
async fn a_stalled_append_is_refused_by_the_claim_that_gc_has_kept() {
    let simulation = Simulation::new(1);
    let (gate, append) = stalled_append(&simulation).await;
    // All that is dead at the manifest of record 3, but for the claims 1 and 2.
    collect(&simulation, &[3]).await;
    gate.pass();
    let fenced = append.await.unwrap().unwrap_err();
    assert!(matches!(&fenced, Error::Fenced { seq: Seq(2), by, .. } if by.program == "newer"), "{fenced}");
    assert_eq!(seen(&simulation).await, (4, "four".into()));
}

#[tokio::test(start_paused = true)]
async fn where_claims_are_deleted_the_same_append_is_acknowledged_and_lost() {
    let simulation = Simulation::new(1);
    let (gate, append) = stalled_append(&simulation).await;
    collect(&simulation, &[2, 3]).await;
    gate.pass();
    // This is what rule 1 is for: no writer can find it out.
    assert_eq!(append.await.unwrap().unwrap(), Seq(2));
    assert_eq!(seen(&simulation).await, (4, "four".into()));
}

/// A claim of record 3 on its way, while the writer there is goes on to record 5, writes two manifests and gc frees
/// record 3 (slatedb pull request 1682).
async fn stalled_claim(
    simulation: &Simulation,
) -> (TimelineWriter, Gate, JoinHandle<Result<TimelineWriter, Error>>) {
    let mut writer = claim(simulation, "writer").await.unwrap();
    append(&mut writer, "two").await.unwrap();
    let gate = hold(simulation, "sleeper", Operation::PutCreate, 3);
    let claiming = tokio::spawn({
        let simulation = simulation.clone();
        async move { claim(&simulation, "sleeper").await }
    });
    gate.reached().await;
    for text in ["three", "four"] {
        append(&mut writer, text).await.unwrap();
    }
    snapshot(simulation, &writer).await;
    append(&mut writer, "five").await.unwrap();
    snapshot(simulation, &writer).await;
    collect(simulation, &[2, 3, 4]).await;
    (writer, gate, claiming)
}

#[tokio::test(start_paused = true)]
async fn a_stalled_claim_in_a_freed_slot_does_not_pass_for_a_fence() {
    let simulation = Simulation::new(1);
    let (mut writer, gate, claiming) = stalled_claim(&simulation).await;
    gate.pass();
    let mut sleeper = claiming.await.unwrap().unwrap();
    // Record 3 was created and is history; the claim that counts is behind the log.
    assert_eq!(sleeper.view().state.claim(), Seq(6));
    assert!(matches!(append(&mut writer, "no").await, Err(Error::Fenced { seq: Seq(6), .. })));
    append(&mut sleeper, "seven").await.unwrap();
    assert_eq!(seen(&simulation).await, (7, "seven".into()));
}

#[tokio::test(start_paused = true)]
async fn a_claim_of_which_somebody_has_written_a_manifest_stands() {
    let simulation = Simulation::new(1);
    let gate = Gate::new();
    let held = Rule::new(Fault::Slow(Delay::Until(gate.clone())));
    simulation.add_rule(held.of_client("writer").on([Operation::List]).on_key("/manifest/").nth(1));
    let claiming = tokio::spawn({
        let simulation = simulation.clone();
        async move { claim(&simulation, "writer").await }
    });
    gate.reached().await;
    // Whoever reads may write down what there is: the claim, before its writer has looked whether it stands.
    let view = open(&store(&simulation, "reader").await).await.unwrap();
    let body = Body::new(view.state.to_manifest().encode().unwrap());
    simulation.objects().put(&view.keys.manifest(Seq(1)).unwrap(), body, PutMode::Create).await.unwrap();
    gate.pass();
    let mut writer = claiming.await.unwrap().unwrap();
    append(&mut writer, "two").await.unwrap();
    assert_eq!(seen(&simulation).await, (2, "two".into()));
}

/// A reader that sleeps before it reads record 3, of records 3 to 5 that it has listed.
async fn stalled_reader(simulation: &Simulation) -> (Gate, JoinHandle<Result<TimelineView, Error>>) {
    let gate = hold(simulation, "reader", Operation::Get, 3);
    let reading = tokio::spawn({
        let simulation = simulation.clone();
        async move { open(&store(&simulation, "reader").await).await }
    });
    gate.reached().await;
    (gate, reading)
}

#[tokio::test(start_paused = true)]
async fn a_delayed_claim_before_a_record_that_stands_is_not_called_damage() {
    let simulation = Simulation::new(1);
    let mut writer = claim(&simulation, "writer").await.unwrap();
    append(&mut writer, "two").await.unwrap();
    snapshot(&simulation, &writer).await;
    let sleeping = hold(&simulation, "sleeper", Operation::PutCreate, 3);
    let claiming = tokio::spawn({
        let simulation = simulation.clone();
        async move { claim(&simulation, "sleeper").await }
    });
    sleeping.reached().await;
    append(&mut writer, "three").await.unwrap();
    // Record 4 is a claim, which gc keeps: it continues the history of the real record 3.
    let mut newer = claim(&simulation, "newer").await.unwrap();
    let (gate, reading) = stalled_reader(&simulation).await;
    append(&mut newer, "five").await.unwrap();
    snapshot(&simulation, &newer).await;
    append(&mut newer, "six").await.unwrap();
    snapshot(&simulation, &newer).await;
    collect(&simulation, &[2, 3, 5]).await;
    sleeping.pass();
    assert!(matches!(claiming.await.unwrap(), Err(Error::Fenced { .. })));
    gate.pass();
    let view = reading.await.unwrap().unwrap();
    assert_eq!(view.state, newer.view().state);
}

/// Claims, writes three records and a manifest, as a process would.
async fn write(simulation: &Simulation, client: Arc<SimulatedClient>) -> Result<(), Error> {
    let store = Store::open(client, "simulated").await?;
    let view = open(&store).await?;
    let mut writer = TimelineWriter::claim(&store, view, options(simulation, "mortal")).await?;
    for text in ["first", "second", "third"] {
        append(&mut writer, text).await?;
    }
    writer.detach().await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn a_writer_killed_at_any_request_leaves_a_log_that_the_next_continues() {
    let (mut number, mut deaths) = (0, 0);
    loop {
        number += 1;
        let mut was_killed = false;
        for moment in [Moment::BeforeEffect, Moment::AfterEffect] {
            let simulation = Simulation::new(1);
            // The store exists before the process that dies.
            store(&simulation, "reader").await;
            let client = simulation.client("mortal");
            client.kill_at(number, moment);
            tokio::select! {
                ended = write(&simulation, client.clone()) => ended.unwrap(),
                () = client.killed() => was_killed = true,
            }
            let (seq, text) = seen(&simulation).await;
            let texts = ["", "", "first", "second", "third"];
            assert_eq!(texts[usize::try_from(seq).unwrap()], text, "killed at {number}, {moment:?}");
            let mut next = claim(&simulation, "next").await.unwrap();
            append(&mut next, "next").await.unwrap();
            assert_eq!(seen(&simulation).await, (seq + 2, "next".into()));
        }
        if !was_killed {
            break;
        }
        deaths += 1;
    }
    // The marker, the list, the claim, the manifests, three records, the manifest.
    assert_eq!(deaths, 8);
}
