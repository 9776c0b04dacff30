//! What is on the disk compared with the store, when a timeline is attached.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use layer_archive::{Lsn, RawDigest};
use storage_api::simulated::{Fault, Rule, check_seeds};
use storage_api::{ErrorKind, ManualClock, Operation};
use sync_engine::service::{Change, Event};
use sync_engine::{Error, HashCache};

use crate::support::{Bench, MINUTE, contents, metadata, name, removal};

#[test]
fn what_the_store_lacks_is_uploaded_what_the_disk_lacks_is_registered_and_conflicts_are_left_alone() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("before").await;
        let handle = process.attach();
        let (both, differs) = (bench.layer("both", b"both"), bench.layer("differs", b"here"));
        let remote = bench.layer("remote", b"remote");
        let layers = vec![both.clone(), differs, remote];
        handle.hand_over(Change { layers, metadata: metadata("m1", 1), ..Change::default() }).unwrap();
        assert!(handle.detach(MINUTE).await.is_complete());

        let differs = bench.layer("differs", b"elsewhere");
        let local = bench.layer("local", b"local");
        let process = bench.process("after").await;
        let handle = process.attach_with(Some(bench.local(&[&both, &differs, &local], 2)));
        let reconciliation = handle.opened().await.unwrap().unwrap();
        assert_eq!(reconciliation.unchanged, 1);
        assert_eq!(reconciliation.missing_remotely, [name("local")]);
        let remote_only: Vec<_> =
            reconciliation.remote_only.iter().map(|layer| layer.name.as_str()).collect();
        assert_eq!(remote_only, ["remote"]);
        let conflicts: Vec<_> =
            reconciliation.conflicts.iter().map(|conflict| conflict.name.as_str()).collect();
        assert_eq!(conflicts, ["differs"]);

        bench.clock().sleep(MINUTE).await;
        assert_eq!(bench.stored().await, ["both", "differs", "local", "remote"]);
        let state = bench.view().await.state;
        assert_eq!(
            state.layers()[&name("differs")].raw,
            RawDigest::of(b"here"),
            "nothing is overwritten there"
        );
        assert_eq!(std::fs::read(bench.path("differs")).unwrap(), b"elsewhere", "nor here");
        assert_eq!(state.disk_consistent_lsn(), Some(Lsn(1)), "the metadata waits");
        let failed = handle.status().failed;
        assert!(
            matches!(&*failed, [failed] if matches!(*failed.error, Error::Conflict { .. })),
            "{failed:?}"
        );
        // Somebody decides for the disk.
        handle.hand_over(Change { layers: vec![differs], ..removal(&["differs"]) }).unwrap();
        handle.flush().await.unwrap();
        let state = bench.view().await.state;
        assert_eq!(state.layers()[&name("differs")].raw, RawDigest::of(b"elsewhere"));
        assert_eq!(state.disk_consistent_lsn(), Some(Lsn(2)));
    });
}

#[test]
fn a_file_that_has_gone_was_evicted_if_it_had_the_length_of_the_layer_in_the_store() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("before").await;
        let handle = process.attach();
        let (evicted, taken) = (bench.layer("evicted", b"evicted"), bench.layer("taken", b"old"));
        handle.hand_over(Change { layers: vec![evicted.clone(), taken], ..Change::default() }).unwrap();
        assert!(handle.detach(MINUTE).await.is_complete());
        // Its name was taken again, and neither the removal nor the new layer came to the store.
        let taken = bench.layer("taken", b"another");
        let local = bench.local(&[&evicted, &taken], 2);
        [&evicted, &taken].into_iter().for_each(|layer| std::fs::remove_file(&layer.path).unwrap());
        let process = bench.process("after").await;
        let handle = process.attach_with(Some(local));
        let reconciliation = handle.opened().await.unwrap().unwrap();
        let remote_only: Vec<_> =
            reconciliation.remote_only.iter().map(|layer| layer.name.as_str()).collect();
        assert_eq!(remote_only, ["evicted"]);
        bench.clock().sleep(MINUTE).await;
        let failed: Vec<_> = handle.status().failed.iter().map(|failed| failed.name.clone()).collect();
        assert_eq!(failed, [name("taken")]);
        assert_eq!(bench.view().await.state.metadata(), None, "the metadata may need the layer that is lost");
    });
}

#[test]
fn where_nothing_is_new_nothing_is_claimed_and_nothing_written() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("before").await;
        let handle = process.attach_open(&bench).await;
        assert!(handle.detach(MINUTE).await.is_complete());
        let before = bench.view().await.state;
        let first = bench.layer("first", &contents("first".len() as u64 + 1, 3_000));
        let process = bench.process("after").await;
        let handle = process.attach_with(Some(bench.local(&[&first], 1)));
        assert_eq!(handle.opened().await.unwrap().unwrap().unchanged, 1);
        handle.flush().await.unwrap();
        bench.clock().sleep(MINUTE).await;
        assert!(handle.detach(MINUTE).await.is_complete());
        assert_eq!(process.counts().put, 0);
        assert_eq!(bench.view().await.state, before);
    });
}

#[test]
fn an_older_directory_turns_nothing_back() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("before").await;
        let handle = process.attach();
        handle.hand_over(bench.checkpoint(&["new"], 9)).unwrap();
        assert!(handle.detach(MINUTE).await.is_complete());
        let process = bench.process("after").await;
        let old = bench.layer("old", b"compacted away since");
        let handle = process.attach_with(Some(bench.local(&[&old], 3)));
        let conflict = handle.opened().await.unwrap().unwrap().metadata_conflict.unwrap();
        assert_eq!((conflict.local, conflict.stored), (Lsn(3), Lsn(9)));
        bench.clock().sleep(MINUTE).await;
        assert_eq!((bench.stored().await, process.counts().put), (vec!["new".to_owned()], 0));
    });
}

#[test]
fn what_an_older_writer_still_did_before_the_claim_is_compared_again() {
    check_seeds(0..2, async |simulation| {
        let bench = Bench::new(&simulation);
        let old = bench.process("old").await;
        let zombie = old.attach_open(&bench).await;
        let kept = bench.layer("kept", b"kept");
        let change = Change { layers: vec![kept.clone()], ..Change::default() };
        zombie.wait(zombie.hand_over(change).unwrap()).await.unwrap();
        // The new writer finds `kept` in the store, and then the old one removes it.
        let new = bench.process("new").await;
        let first = bench.layer("first", &contents("first".len() as u64 + 1, 3_000));
        let handle = new.attach_with(Some(bench.local(&[&first, &kept], 1)));
        assert_eq!(handle.opened().await.unwrap().unwrap().unchanged, 2);
        zombie.wait(zombie.hand_over(removal(&["kept"])).unwrap()).await.unwrap();
        assert_eq!(bench.stored().await, ["first"]);
        if simulation.seed() == 1 {
            // The claim is given up once it has passed over the old writer's record, and tried again later.
            let refused = Fault::Refused(ErrorKind::PermissionDenied);
            simulation.add_rule(Rule::new(refused).of_client("new").on([Operation::PutCreate]).nth(2));
        }
        handle.wait(handle.hand_over(bench.checkpoint(&["more"], 2)).unwrap()).await.unwrap();
        assert_eq!(bench.stored().await, ["first", "kept", "more"]);
        let events = new.events.lock().unwrap().clone();
        let compared = events.iter().filter(|event| matches!(event, Event::Reconciled(_))).count();
        assert_eq!((compared, handle.status().written.retries), (2, simulation.seed()));
    });
}

#[test]
fn files_that_were_hashed_before_are_not_read_again() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("before").await;
        let handle = process.attach_open(&bench).await;
        assert!(handle.detach(MINUTE).await.is_complete());
        let first = bench.layer("first", &contents("first".len() as u64 + 1, 3_000));
        let cache = bench.dir.path().join("digests");
        for round in 0..2 {
            // In the far future, when the files have been left alone for long.
            let clock = ManualClock::new(UNIX_EPOCH + Duration::from_secs(8_000_000_000));
            let hashes = Arc::new(HashCache::open(&cache, Arc::new(clock)));
            let known = Arc::clone(&hashes);
            let process = bench.process_with("again", |options| options.hashes = Some(known)).await;
            let handle = process.attach_with(Some(bench.local(&[&first], 1)));
            assert_eq!(handle.opened().await.unwrap().unwrap().unchanged, 1);
            assert_eq!(hashes.hits(), round, "in round {round}");
            handle.detach(MINUTE).await;
        }
    });
}
