//! The simulated store: it conforms while nothing goes wrong, and what goes wrong is what was asked for.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use storage_api::conformance::{Subject, run_all};
use storage_api::simulated::{
    BodyFault, Delay, Event, Fault, Gate, Moment, Rule, SEED_VARIABLE, SimulatedClient, Simulation,
    check_seeds,
};
use storage_api::{
    Body, ErrorKind, GetRange, Key, KeyPrefix, ObjectStore, ObjectStoreExt, Operation, PutMode, Result,
};

const SECOND: Duration = Duration::from_secs(1);

fn key(key: &str) -> Key {
    Key::new(key).unwrap()
}

async fn create(client: &SimulatedClient, name: &str, text: &'static str) -> Result<(), ErrorKind> {
    let created = client.put(&key(name), Body::new(text), PutMode::Create).await;
    created.map(drop).map_err(|error| error.kind())
}

async fn read(client: &SimulatedClient, name: &str) -> Result<String, ErrorKind> {
    let (_, bytes) =
        client.get_bytes(&key(name), GetRange::Full, 1 << 20).await.map_err(|error| error.kind())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

async fn names(client: &SimulatedClient) -> Vec<String> {
    let listed = client.list_all(&KeyPrefix::root()).await.unwrap();
    listed.into_iter().map(|info| info.key.as_str().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_faults_it_conforms() {
    run_all(async || Subject::new(Simulation::new(1).client("only")), &[]).await;
}

#[tokio::test(start_paused = true)]
async fn with_latency_it_conforms() {
    let slow = async || {
        let simulation = Simulation::new(2);
        simulation.set_latency(Duration::from_millis(1)..Duration::from_millis(40));
        Subject::new(simulation.client("only"))
    };
    run_all(slow, &[]).await;
}

/// Three clients at once, all kinds of faults.
async fn busy(simulation: &Simulation) {
    let faults = [
        Fault::RequestLost,
        Fault::AnswerLost,
        Fault::Late(Delay::For(SECOND..60 * SECOND)),
        Fault::Slow(Delay::For(SECOND..5 * SECOND)),
        Fault::Throttled { lasting: 3 * SECOND, retry_after: SECOND },
        Fault::Refused(ErrorKind::Unexpected),
        Fault::Body(BodyFault::BitFlipped),
        Fault::KeysStay,
    ];
    simulation.set_latency(Duration::from_millis(5)..Duration::from_millis(80));
    for fault in faults {
        simulation.add_rule(Rule::new(fault).with_chance(0.08));
    }
    let clients = ["a", "b", "c"].map(|name| {
        let (client, mut random) = (simulation.client(name), simulation.random(name));
        tokio::spawn(async move {
            for _ in 0..40 {
                let name = format!("object/{}", random.below(8));
                match random.below(4) {
                    0 | 1 => drop(create(&client, &name, "some text").await),
                    2 => drop(read(&client, &name).await),
                    _ => drop(client.delete(&[key(&name), key("object/0")]).await),
                }
            }
        })
    });
    for client in clients {
        client.await.unwrap();
    }
    simulation.settle().await;
}

#[test]
fn equal_seeds_give_equal_traces_and_other_seeds_others() {
    let run = |seed| {
        let traces = std::cell::RefCell::new(Vec::new());
        check_seeds(seed..seed + 1, async |simulation| {
            busy(&simulation).await;
            traces.borrow_mut().push(simulation.trace());
        });
        traces.into_inner().remove(0)
    };
    let first = run(11);
    assert!(first.len() > 240, "{} events", first.len());
    assert!(first.iter().any(|entry| matches!(entry.event, Event::Sent(Some(_)))));
    assert_eq!(first, run(11));
    if std::env::var(SEED_VARIABLE).is_err() {
        assert_ne!(first, run(12));
    }
}

#[tokio::test(start_paused = true)]
async fn lost_requests_do_nothing_and_lost_answers_do() {
    let simulation = Simulation::new(1);
    simulation.add_rule(Rule::new(Fault::RequestLost).on([Operation::PutCreate]).nth(1));
    simulation.add_rule(Rule::new(Fault::AnswerLost).on([Operation::PutCreate]).nth(2));
    let client = simulation.client("only");
    assert_eq!(create(&client, "a", "1").await, Err(ErrorKind::Connection));
    assert_eq!(read(&client, "a").await, Err(ErrorKind::NotFound));
    assert_eq!(create(&client, "a", "2").await, Err(ErrorKind::Connection));
    assert_eq!(read(&client, "a").await.as_deref(), Ok("2"));
    assert_eq!(create(&client, "a", "3").await, Err(ErrorKind::AlreadyExists));
}

#[tokio::test(start_paused = true)]
async fn a_late_create_wins_or_loses_when_it_comes() {
    let simulation = Simulation::new(1);
    let hours = Delay::For(3600 * SECOND..7200 * SECOND);
    simulation.add_rule(Rule::new(Fault::Late(hours)).of_client("slow"));
    let (slow, quick) = (simulation.client("slow"), simulation.client("quick"));
    assert_eq!(create(&slow, "wins", "slow").await, Err(ErrorKind::Timeout));
    assert_eq!(create(&slow, "loses", "slow").await, Err(ErrorKind::Timeout));
    assert_eq!(create(&quick, "loses", "quick").await, Ok(()));
    assert_eq!(names(&quick).await, ["loses"]);
    let before = simulation.clock().now();
    simulation.settle().await;
    assert!(simulation.clock().now().duration_since(before).unwrap() >= 3600 * SECOND);
    assert_eq!(read(&quick, "wins").await.as_deref(), Ok("slow"));
    assert_eq!(read(&quick, "loses").await.as_deref(), Ok("quick"));
}

#[tokio::test(start_paused = true)]
async fn a_gate_holds_requests_and_late_effects_until_it_is_opened() {
    let simulation = Simulation::new(1);
    let (asleep, late) = (Gate::new(), Gate::new());
    simulation.add_rule(Rule::new(Fault::Slow(Delay::Until(asleep.clone()))).on_key("asleep"));
    simulation.add_rule(Rule::new(Fault::Late(Delay::Until(late.clone()))).on_key("late"));
    let client = simulation.client("only");
    let sleeper = tokio::spawn({
        let client = Arc::clone(&client);
        async move { create(&client, "asleep", "x").await }
    });
    asleep.reached().await;
    assert_eq!(create(&client, "late", "x").await, Err(ErrorKind::Timeout));
    late.reached().await;
    assert!(names(&client).await.is_empty());
    asleep.pass();
    late.open();
    assert_eq!(sleeper.await.unwrap(), Ok(()));
    simulation.settle().await;
    assert_eq!(names(&client).await, ["asleep", "late"]);
}

#[tokio::test(start_paused = true)]
async fn a_burst_throttles_everybody_and_ends() {
    let simulation = Simulation::new(1);
    simulation.add_rule(Rule::new(Fault::Throttled { lasting: 10 * SECOND, retry_after: 4 * SECOND }).nth(1));
    let (one, other) = (simulation.client("one"), simulation.client("other"));
    for client in [&one, &other] {
        let throttled = client.head(&key("a")).await.unwrap_err();
        assert_eq!((throttled.kind(), throttled.retry_after()), (ErrorKind::Throttled, Some(4 * SECOND)));
    }
    simulation.clock().sleep(10 * SECOND).await;
    assert_eq!(create(&other, "a", "x").await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn bodies_are_damaged_on_their_way_and_not_in_the_store() {
    let simulation = Simulation::new(1);
    let client = simulation.client("only");
    create(&client, "a", "0123456789").await.unwrap();
    let expected = [
        (BodyFault::CutShort, ErrorKind::Interrupted),
        (BodyFault::BrokenOff, ErrorKind::Interrupted),
        (BodyFault::TooLong, ErrorKind::Integrity),
    ];
    for (fault, kind) in expected {
        simulation.add_rule(Rule::new(Fault::Body(fault)));
        assert_eq!(read(&client, "a").await, Err(kind), "{fault:?}");
        simulation.clear_rules();
    }
    simulation.add_rule(Rule::new(Fault::Body(BodyFault::BitFlipped)));
    let (_, flipped) = client.get_bytes(&key("a"), GetRange::Full, 10).await.unwrap();
    let bits: u32 = flipped.iter().zip(b"0123456789").map(|(a, b)| (a ^ b).count_ones()).sum();
    assert_eq!((flipped.len(), bits), (10, 1));
    simulation.clear_rules();
    assert_eq!(read(&client, "a").await.as_deref(), Ok("0123456789"));
}

#[tokio::test(start_paused = true)]
async fn refusals_partial_deletes_and_creates_that_replace() {
    let simulation = Simulation::new(1);
    let client = simulation.client("only");
    simulation.add_rule(Rule::new(Fault::Refused(ErrorKind::AlreadyExists)).on_key("refused"));
    assert_eq!(create(&client, "refused", "x").await, Err(ErrorKind::AlreadyExists));
    let all: Vec<Key> = (0..20).map(|n| key(&format!("many/{n:02}"))).collect();
    for name in &all {
        create(&client, name.as_str(), "x").await.unwrap();
    }
    simulation.add_rule(Rule::new(Fault::KeysStay).on([Operation::Delete]));
    let outcomes = client.delete(&all).await.unwrap();
    let stayed: Vec<&str> = outcomes
        .iter()
        .filter(|outcome| outcome.result.is_err())
        .map(|outcome| outcome.key.as_str())
        .collect();
    assert!(!stayed.is_empty() && stayed.len() < 20, "{stayed:?}");
    assert_eq!(names(&client).await, stayed);
    simulation.clear_rules();
    simulation.add_rule(Rule::new(Fault::CreateReplaces));
    create(&client, stayed[0], "other").await.unwrap();
    assert_eq!(read(&client, stayed[0]).await.as_deref(), Ok("other"));
}

#[tokio::test(start_paused = true)]
async fn a_client_dies_at_its_request_and_others_go_on() {
    for (moment, expected) in [(Moment::BeforeEffect, vec!["a"]), (Moment::AfterEffect, vec!["a", "b"])] {
        let simulation = Simulation::new(1);
        let (mortal, other) = (simulation.client("mortal"), simulation.client("other"));
        mortal.kill_at(2, moment);
        let flow = async {
            for name in ["a", "b", "c"] {
                create(&mortal, name, "x").await.unwrap();
            }
        };
        tokio::select! {
            () = flow => panic!("a dead client goes on"),
            () = mortal.killed() => {}
        }
        let afterwards = tokio::time::timeout(3600 * SECOND, create(&mortal, "d", "x")).await;
        assert!(afterwards.is_err(), "{afterwards:?}");
        assert_eq!(names(&other).await, expected, "{moment:?}");
        assert_eq!(mortal.requests(), 3);
    }
}

#[test]
fn a_failing_run_prints_the_seed_that_replays_it() {
    const PLEASE_FAIL: &str = "LAYERPACK_TEST_PLEASE_FAIL";
    if std::env::var(PLEASE_FAIL).is_ok() {
        check_seeds(0..9, async |simulation| {
            create(&simulation.client("me"), "log/1", "x").await.unwrap();
            assert_ne!(simulation.seed(), 5);
        });
    }
    let name = "a_failing_run_prints_the_seed_that_replays_it";
    let mut this = Command::new(std::env::current_exe().unwrap());
    this.args(["--exact", name, "--nocapture"]).env(PLEASE_FAIL, "1").env_remove(SEED_VARIABLE);
    let failed = this.output().unwrap();
    let printed = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(!failed.status.success());
    assert!(printed.contains(&format!("{SEED_VARIABLE}=5 cargo test {name}")), "{printed}");
    assert!(printed.contains("me #1 create log/1: answered: done"), "{printed}");
}
