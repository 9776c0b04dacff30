//! Removals, and what may be committed before what.

use std::collections::BTreeMap;

use storage_api::simulated::{Delay, Fault, Gate, Rule, check_seeds};
use storage_api::{ErrorKind, Operation};
use sync_engine::service::Change;

use crate::support::{Bench, LARGE, MINUTE, SECOND, bundles_of_two, contents, metadata, name, removal};

#[test]
fn a_removal_of_a_layer_that_waits_in_the_upload_queue_drops_it_and_the_rest_proceeds() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let handle = process.attach_open(&bench).await;
        handle.hand_over(bench.checkpoint(&["dropped", "kept"], 2)).unwrap();
        handle.hand_over(removal(&["dropped"])).unwrap();
        // Its file need not be there any more.
        std::fs::remove_file(bench.path("dropped")).unwrap();
        handle.flush().await.unwrap();
        assert_eq!(bench.stored().await, ["first", "kept"]);
        assert_eq!(process.committed().last(), Some(&(3, 1, Some(2))), "one record, of one layer");
        assert_eq!(bench.view().await.state.bundles().len(), 2);
    });
}

#[test]
fn a_removal_of_a_layer_that_is_being_uploaded_follows_it() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let handle = process.attach_open(&bench).await;
        let gate = Gate::new();
        simulation
            .add_rule(Rule::new(Fault::Slow(Delay::Until(gate.clone()))).on([Operation::PutCreate]).nth(1));
        handle.hand_over(bench.checkpoint(&["short-lived"], 2)).unwrap();
        gate.reached().await;
        handle.hand_over(removal(&["short-lived"])).unwrap();
        gate.open();
        handle.flush().await.unwrap();
        assert_eq!(bench.stored().await, ["first"]);
        assert_eq!(process.committed().len(), 3);
    });
}

#[test]
fn a_removal_of_a_layer_whose_upload_fails_drops_it() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process_with("pageserver", bundles_of_two).await;
        let handle = process.attach_open(&bench).await;
        let gate = Gate::new();
        simulation.add_rule(Rule::new(Fault::Slow(Delay::Until(gate.clone()))).on_key("/payload/").nth(1));
        simulation.add_rule(Rule::new(Fault::Refused(ErrorKind::Unexpected)).on_key("/payload/").nth(2));
        let names = ["a", "b", "c", "d", "e", "f"];
        let layers = (0..).zip(names).map(|(n, name)| bench.layer(name, &contents(n, LARGE))).collect();
        handle.hand_over(Change { layers, metadata: metadata("m2", 2), ..Change::default() }).unwrap();
        gate.reached().await;
        // In the object that arrives, in the one that fails, and in the record that is not even begun.
        let gone = ["a", "c", "f"];
        handle.hand_over(removal(&gone)).unwrap();
        gone.iter().for_each(|gone| std::fs::remove_file(bench.path(gone)).unwrap());
        gate.open();
        handle.flush().await.unwrap();
        assert_eq!(handle.status().written.retries, 1);
        assert_eq!(bench.stored().await, ["b", "d", "e", "first"]);
        assert!(handle.status().failed.is_empty());
    });
}

#[test]
fn metadata_waits_for_what_replaces_a_layer_that_was_never_uploaded() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let handle = process.attach_open(&bench).await;
        // The first checkpoint's layer is compacted into two that need two records.
        handle.hand_over(bench.checkpoint(&["level-0"], 2)).unwrap();
        let layers = vec![bench.layer("x", &contents(1, 200_000)), bench.layer("y", &contents(2, 200_000))];
        handle.hand_over(Change { layers, ..removal(&["level-0"]) }).unwrap();
        handle.flush().await.unwrap();
        let committed: Vec<_> =
            process.committed().into_iter().map(|(_, layers, lsn)| (layers, lsn)).collect();
        assert_eq!(committed, [(1, Some(1)), (1, Some(1)), (1, Some(2))]);
        assert_eq!(bench.stored().await, ["first", "x", "y"]);
    });
}

#[test]
fn layers_go_ahead_and_metadata_comes_with_the_last_of_them() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let handle = process.attach_open(&bench).await;
        let layers = (0..10).map(|n| bench.layer(&format!("layer-{n}"), &contents(n, 100_000))).collect();
        let change = Change { layers, metadata: metadata("m2", 2), ..Change::default() };
        handle.wait(handle.hand_over(change).unwrap()).await.unwrap();
        let committed: Vec<_> =
            process.committed().into_iter().map(|(_, layers, lsn)| (layers, lsn)).collect();
        // Records of at most eight bundles' raw bytes.
        assert_eq!(committed[1..].iter().map(|(layers, _)| layers).sum::<usize>(), 10);
        assert!(committed.len() > 3, "{committed:?}");
        let (last, before) = committed.split_last().unwrap();
        assert_eq!(last.1, Some(2));
        assert!(before.iter().all(|(_, lsn)| *lsn == Some(1)), "{committed:?}");
    });
}

#[test]
fn a_name_that_is_taken_again_is_a_new_layer_and_takes_the_place_of_the_old_one_with_its_removal() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let handle = process.attach();
        let old = Change { layers: vec![bench.layer("x", b"old")], ..Change::default() };
        handle.wait(handle.hand_over(old).unwrap()).await.unwrap();
        // The removal must wait for a layer that cannot be read yet, and the new layer for the removal.
        let lost = bench.layer("lost", b"lost");
        std::fs::remove_file(&lost.path).unwrap();
        handle.hand_over(Change { layers: vec![lost], ..removal(&["x"]) }).unwrap();
        let new = Change { layers: vec![bench.layer_at("x", "x-2", b"new")], ..Change::default() };
        handle.hand_over(new).unwrap();
        bench.clock().sleep(MINUTE).await;
        let there = bench.view().await.state.layers()[&name("x")].raw;
        assert_eq!(there, layer_archive::RawDigest::of(b"old"), "the old one, as long as its removal waits");
        bench.layer("lost", b"lost");
        bench.clock().sleep(5 * MINUTE + 2 * SECOND).await;
        handle.flush().await.unwrap();
        let expected = [("lost", &b"lost"[..]), ("x", b"new")];
        let expected: BTreeMap<_, _> =
            expected.into_iter().map(|(name, bytes)| (name.to_owned(), bytes.to_vec())).collect();
        bench.assert_holds(&expected).await;
    });
}

#[test]
fn a_name_that_is_taken_again_while_it_is_uploaded_comes_out_right() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let handle = process.attach_open(&bench).await;
        let gate = Gate::new();
        simulation
            .add_rule(Rule::new(Fault::Slow(Delay::Until(gate.clone()))).on([Operation::PutCreate]).nth(1));
        let change = |file: &str, bytes: &[u8]| Change {
            layers: vec![bench.layer_at("x", file, bytes)],
            ..Change::default()
        };
        handle.hand_over(change("x-1", b"one")).unwrap();
        gate.reached().await;
        handle.hand_over(removal(&["x"])).unwrap();
        handle.hand_over(change("x-2", b"two")).unwrap();
        handle.hand_over(Change { ..removal(&["x"]) }).unwrap();
        handle.hand_over(change("x-3", b"three")).unwrap();
        gate.open();
        handle.flush().await.unwrap();
        let x = bench.view().await.state.layers()[&name("x")].raw;
        assert_eq!(x, layer_archive::RawDigest::of(b"three"));
    });
}
