//! A timeline that is read while it is used: shared downloads, cached pages, layers that gc moves under a reader.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use layer_archive::{BundleWriter, LayerName, Moved, RemovalReason, Removed};
use storage_api::simulated::{BodyFault, Delay, Fault, Gate, Rule, SimulatedClient, Simulation, check_seeds};
use storage_api::{ErrorKind, ObjectStore, Operation};
use sync_engine::{
    Draft, DurableDir, Error, Mirror, OnDemandTimeline, Progress, ReadOptions, ReadPool, Residency, Store,
    TimelineListing, TimelineReader, TimelineWriter, VerifyDepth, verify_timeline,
};
use tempfile::TempDir;

use crate::support::{WorkDir, backup, contents, files, name, open, repacked, restore, writer_options};

const LARGE_BYTES: usize = 3 << 20;

/// A store with a timeline in it, and the client by which a test reads.
struct Scene {
    simulation: Simulation,
    client: Arc<SimulatedClient>,
    store: Store,
    work: WorkDir,
}

impl Scene {
    async fn set(simulation: Simulation) -> Self {
        let work = WorkDir::new();
        for n in 0..20u64 {
            work.put(&format!("small-{n:02}"), &contents(n, 20_000));
        }
        work.put("large", &contents(99, LARGE_BYTES));
        let objects: Arc<dyn ObjectStore> = simulation.client("writer");
        let (store, _) = Store::open_or_create(objects, "test").await.unwrap();
        backup(&store, &work, Mirror::Off).await.unwrap();
        let client = simulation.client("reader");
        let store = Store::open(Arc::<SimulatedClient>::clone(&client), "test").await.unwrap();
        Self { simulation, client, store, work }
    }

    async fn reader(&self, options: ReadOptions) -> TimelineReader {
        TimelineReader::new(&self.store, open(&self.store).await, Arc::new(ReadPool::new(options)))
    }

    fn bytes(&self, layer: &str) -> Vec<u8> {
        files(self.work.path()).remove(layer).unwrap()
    }

    /// Another writer of the same store.
    async fn writer(&self) -> TimelineWriter {
        let store = Store::open(self.simulation.client("repacker"), "test").await.unwrap();
        TimelineWriter::claim(&store, open(&store).await, writer_options("test 2")).await.unwrap()
    }

    /// Moves every layer into another bundle and deletes the first one, as a repack and gc do. Those in `gone` are
    /// removed instead.
    async fn collect(&self, gone: &[&str]) {
        let mut writer = self.writer().await;
        let before = writer.view().state.layers().clone();
        let (payload, layers) = writer.put_payload(repacked(&self.work)).await.unwrap();
        let removed =
            gone.iter().map(|gone| Removed { name: name(gone), reason: RemovalReason::Collected }).collect();
        let moved = layers.iter().filter(|layer| !gone.contains(&layer.name.as_str())).map(|layer| Moved {
            name: layer.name.clone(),
            from: before[&layer.name].place,
            to: layer.place,
            stored_bytes: layer.stored_bytes,
        });
        let draft = Draft { payloads: vec![payload], moved: moved.collect(), removed, ..Draft::default() };
        writer.append(draft, BundleWriter::new()).await.unwrap();
        // As if enough had been written for a manifest, without which nothing is ever deleted.
        for _ in 0..20 {
            writer.append(Draft::default(), BundleWriter::new()).await.unwrap();
        }
        writer.detach().await.unwrap();
        // The older manifests first, as ever.
        let view = writer.view();
        let newest = view.state.seq();
        let listing = TimelineListing::read_whole(&**self.simulation.objects(), &view.keys).await.unwrap();
        let mut gone: Vec<_> = listing
            .manifests
            .into_iter()
            .filter(|(seq, _)| *seq < newest)
            .map(|(_, info)| info.key)
            .collect();
        gone.push(view.keys.bundle(before.values().next().unwrap().place.bundle).unwrap());
        for key in gone {
            let outcomes = self.simulation.objects().delete(&[key]).await.unwrap();
            assert!(outcomes[0].result.is_ok());
        }
    }
}

fn filled(dir: &TempDir, reader: TimelineReader) -> OnDemandTimeline {
    OnDemandTimeline::new(reader, DurableDir::create(dir.path()).unwrap(), BTreeSet::new())
}

fn small() -> ReadOptions {
    ReadOptions { frame_bytes_max: 1 << 20, ..ReadOptions::default() }
}

#[test]
fn tasks_that_want_one_layer_share_one_download_that_outlives_them() {
    check_seeds(0..1, async |simulation| {
        let scene = Scene::set(simulation).await;
        let dir = TempDir::new().unwrap();
        let timeline = filled(&dir, scene.reader(ReadOptions::default()).await);
        let gate = Gate::new();
        scene.simulation.add_rule(Rule::new(Fault::Slow(Delay::Until(gate.clone()))).on([Operation::Get]));
        let before = scene.client.requests();
        let wanted = name("small-07");
        assert_eq!(timeline.residency(&wanted), Residency::Remote);
        let first = tokio::spawn({
            let (timeline, wanted) = (timeline.clone(), wanted.clone());
            async move { timeline.fetch(&wanted).await }
        });
        gate.reached().await;
        assert_eq!(timeline.residency(&wanted), Residency::Fetching);
        // Whoever began it goes away.
        first.abort();
        let others = join_all((0..30).map(|_| timeline.fetch(&wanted)));
        tokio::pin!(others);
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut others).await.is_err());
        gate.open();
        for path in others.await {
            assert_eq!(path.unwrap(), dir.path().join("small-07"));
        }
        assert_eq!(scene.client.requests() - before, 1);
        assert_eq!(timeline.residency(&wanted), Residency::Local);
        assert!(files(dir.path())["small-07"] == scene.bytes("small-07"));
        // It is there now: nothing is asked for.
        timeline.fetch(&wanted).await.unwrap();
        assert!(timeline.read_at(&wanted, 100..200).await.unwrap() == scene.bytes("small-07")[100..200]);
        assert_eq!(scene.client.requests() - before, 1);
        // A file that the pageserver has evicted without a word is read from the store.
        std::fs::remove_file(dir.path().join("small-07")).unwrap();
        assert!(timeline.read_at(&wanted, 0..10).await.unwrap() == scene.bytes("small-07")[..10]);
        assert_eq!(timeline.residency(&wanted), Residency::Remote);
        // And one that is to be a file is fetched again.
        timeline.set_local(&wanted, Residency::Local);
        timeline.fetch(&wanted).await.unwrap();
        assert!(files(dir.path())["small-07"] == scene.bytes("small-07"));
    });
}

#[test]
fn a_download_that_fails_fails_for_all_who_wait_and_may_be_tried_again() {
    check_seeds(0..1, async |simulation| {
        let scene = Scene::set(simulation).await;
        let dir = TempDir::new().unwrap();
        let timeline = filled(&dir, scene.reader(ReadOptions::default()).await);
        scene
            .simulation
            .add_rule(Rule::new(Fault::Refused(ErrorKind::PermissionDenied)).on([Operation::Get]));
        let wanted = name("large");
        for failed in join_all((0..5).map(|_| timeline.fetch(&wanted))).await {
            assert!(
                matches!(&*failed.unwrap_err(), Error::Storage(error) if error.kind() == ErrorKind::PermissionDenied)
            );
        }
        assert_eq!(timeline.residency(&wanted), Residency::Remote);
        scene.simulation.clear_rules();
        timeline.fetch(&wanted).await.unwrap();
        assert!(files(dir.path())["large"] == scene.bytes("large"));
    });
}

#[test]
fn a_file_that_is_not_the_layer_is_left_alone() {
    check_seeds(0..1, async |simulation| {
        let scene = Scene::set(simulation).await;
        let dir = TempDir::new().unwrap();
        let timeline = filled(&dir, scene.reader(ReadOptions::default()).await);
        for (layer, bytes) in [("small-01", b"other".to_vec()), ("small-02", scene.bytes("small-02"))] {
            std::io::Write::write_all(&mut std::fs::File::create(dir.path().join(layer)).unwrap(), &bytes)
                .unwrap();
        }
        let taken = timeline.fetch(&name("small-01")).await.unwrap_err();
        assert!(matches!(&*taken, Error::NameTaken { path } if path.ends_with("small-01")), "{taken:?}");
        assert_eq!(files(dir.path())["small-01"], b"other");
        timeline.fetch(&name("small-02")).await.unwrap();
    });
}

#[test]
fn a_page_costs_two_requests_once_and_none_while_it_is_cached() {
    check_seeds(0..1, async |simulation| {
        let scene = Scene::set(simulation).await;
        let reader = scene.reader(ReadOptions::default()).await;
        let large = scene.bytes("large");
        let before = scene.client.requests();
        let cost = || scene.client.requests() - before;
        // Many tasks at once: an index and two frames, brought by whoever came first.
        let pages = join_all((0..50).map(|_| reader.read_at(&LARGE, 260_000..268_192))).await;
        assert!(pages.into_iter().all(|page| page.unwrap() == large[260_000..268_192]));
        assert_eq!(cost(), 2);
        // Frames that are cached are not asked for again, in the middle of others either.
        let page = reader.read_at(&LARGE, 0..1 << 20).await.unwrap();
        assert!(page == large[..1 << 20]);
        assert_eq!(cost(), 3, "the frames behind the two in one request");
        reader.read_at(&LARGE, 500_000..600_000).await.unwrap();
        assert_eq!(cost(), 3);
        // A small layer brings those that share its frame.
        reader.read_at(&name("small-03"), 0..8192).await.unwrap();
        let neighbour = reader.read_at(&name("small-04"), 0..u64::MAX).await.unwrap();
        assert!(neighbour == scene.bytes("small-04"));
        assert_eq!(cost(), 4);
    });
}

static LARGE: std::sync::LazyLock<LayerName> = std::sync::LazyLock::new(|| name("large"));

#[test]
fn the_cache_of_frames_stays_within_its_bound() {
    check_seeds(0..1, async |simulation| {
        let scene = Scene::set(simulation).await;
        let reader = scene.reader(small()).await;
        let large = scene.bytes("large");
        for _ in 0..2 {
            for start in (0..LARGE_BYTES).step_by(8192) {
                let page = reader.read_at(&LARGE, start as u64..start as u64 + 8192).await.unwrap();
                assert!(page == large[start..start + 8192]);
                assert!(reader.pool().frame_bytes() <= 1 << 20, "{} bytes", reader.pool().frame_bytes());
            }
        }
        // More than there is room for, at once.
        assert!(reader.read_at(&LARGE, 0..u64::MAX).await.unwrap() == large);
        assert!(reader.pool().frame_bytes() <= 1 << 20);
    });
}

#[test]
fn who_is_dropped_while_reading_keeps_nobody_from_reading() {
    check_seeds(0..1, async |simulation| {
        let scene = Scene::set(simulation).await;
        let reader = Arc::new(scene.reader(ReadOptions::default()).await);
        let gate = Gate::new();
        scene
            .simulation
            .add_rule(Rule::new(Fault::Slow(Delay::Until(gate.clone()))).on([Operation::Get]).nth(1));
        let first = tokio::spawn({
            let reader = Arc::clone(&reader);
            async move { reader.read_at(&LARGE, 0..8192).await }
        });
        gate.reached().await;
        let second = tokio::spawn({
            let reader = Arc::clone(&reader);
            async move { reader.read_at(&LARGE, 0..8192).await }
        });
        tokio::task::yield_now().await;
        first.abort();
        let page = tokio::time::timeout(Duration::from_secs(60), second).await.expect("it waits for ever");
        assert!(page.unwrap().unwrap() == scene.bytes("large")[..8192]);
    });
}

#[test]
fn what_somebody_waits_for_goes_before_background_work() {
    check_seeds(0..1, async |simulation| {
        let scene = Scene::set(simulation).await;
        let dir = TempDir::new().unwrap();
        let options = ReadOptions { downloads_max: 4, ..ReadOptions::default() };
        let timeline = filled(&dir, scene.reader(options).await);
        let gate = Gate::new();
        // All of the background's downloads hang.
        scene
            .simulation
            .add_rule(Rule::new(Fault::Slow(Delay::Until(gate.clone()))).on([Operation::Get]).numbers(1..3));
        let background = tokio::spawn({
            let timeline = timeline.clone();
            let names = (0..10).map(|n| name(&format!("small-{n:02}"))).collect();
            async move { timeline.prefetch(names).await }
        });
        gate.reached().await;
        gate.reached().await;
        let fetching = (0..10)
            .filter(|n| timeline.residency(&name(&format!("small-{n:02}"))) == Residency::Fetching)
            .count();
        assert_eq!(fetching, 2, "half of the places");
        let page = timeline.read_at(&LARGE, 0..8192);
        let page =
            tokio::time::timeout(Duration::from_secs(60), page).await.expect("it waits for the others");
        assert!(page.unwrap() == scene.bytes("large")[..8192]);
        gate.open();
        assert!(background.await.unwrap().is_empty());
        assert_eq!(files(dir.path()).len(), 10);
    });
}

#[test]
fn prefetch_says_which_layers_failed_and_brings_the_others() {
    check_seeds(0..1, async |simulation| {
        let scene = Scene::set(simulation).await;
        let dir = TempDir::new().unwrap();
        let timeline = filled(&dir, scene.reader(ReadOptions::default()).await);
        let failed = timeline.prefetch(vec![name("small-01"), name("nothing"), name("large")]).await;
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0].name, name("nothing"));
        assert!(matches!(&*failed[0].error, Error::LayerNotFound { .. }));
        assert_eq!(files(dir.path()).into_keys().collect::<Vec<_>>(), ["large", "small-01"]);
    });
}

#[test]
fn a_reader_follows_layers_that_a_repack_has_moved() {
    check_seeds(0..1, async |simulation| {
        let scene = Scene::set(simulation).await;
        let reader = scene.reader(ReadOptions::default()).await;
        let seen = reader.view();
        scene.collect(&["small-05"]).await;
        let dir = TempDir::new().unwrap();
        let target = DurableDir::create(dir.path()).unwrap();
        // Each by itself meets the gap; only the first opens the timeline again.
        let outcome = reader.fetch(&name("small-06"), &target, &Arc::new(Progress::default())).await.unwrap();
        assert_eq!(outcome.written, [name("small-06")]);
        assert!(reader.view().state.seq() > seen.state.seq());
        assert!(reader.read_at(&LARGE, 0..u64::MAX).await.unwrap() == scene.bytes("large"));
        let stale = TimelineReader::new(&scene.store, (*seen).clone(), Arc::default());
        let removed = stale.read_at(&name("small-05"), 0..1).await.unwrap_err();
        assert!(matches!(removed, Error::LayerRemoved { .. }), "{removed:?}");
        let report = verify_timeline(&scene.store, &seen, VerifyDepth::Deep).await.unwrap();
        assert_eq!(report.findings, [], "what gc has deleted is no damage");
    });
}

#[test]
fn an_object_that_is_lost_is_said_to_be_and_not_looked_for_for_ever() {
    check_seeds(0..1, async |simulation| {
        let scene = Scene::set(simulation).await;
        let reader = scene.reader(ReadOptions::default()).await;
        let entry = reader.view().state.layers()[&*LARGE].clone();
        let key = reader.view().keys.bundle(entry.place.bundle).unwrap();
        // The record that has the layer is behind no manifest but its own: only the bundle is lost.
        scene.simulation.objects().delete(std::slice::from_ref(&key)).await.unwrap();
        let before = scene.client.requests();
        let lost = reader.read_at(&LARGE, 0..1).await.unwrap_err();
        let names_it =
            matches!(&lost, Error::Storage(error) if error.is_not_found() && error.key() == key.as_str());
        assert!(names_it, "{lost:?}");
        assert!(scene.client.requests() - before < 10);
        let report = verify_timeline(&scene.store, &reader.view(), VerifyDepth::Listing).await.unwrap();
        assert!(report.findings.iter().any(|finding| finding.object == key.as_str()));
    });
}

#[test]
fn bodies_that_come_short_long_or_corrupt_once_are_read_again() {
    for fault in [BodyFault::CutShort, BodyFault::TooLong, BodyFault::BitFlipped] {
        check_seeds(0..5, async |simulation| {
            let scene = Scene::set(simulation).await;
            for (layer, range) in [("large", 300_000..308_192u64), ("small-02", 0..20_000)] {
                let reader = scene.reader(ReadOptions::default()).await;
                let rule = Rule::new(Fault::Body(fault)).on([Operation::Get]).on_key("/log/").nth(1);
                scene.simulation.add_rule(rule);
                let range_of = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
                match reader.read_at(&name(layer), range).await {
                    Ok(read) => assert!(read == scene.bytes(layer)[range_of], "{fault:?} {layer}"),
                    // To send a request again whose answer broke off is for the store below.
                    Err(Error::Storage(error)) => {
                        assert_eq!(error.kind(), ErrorKind::Interrupted, "{fault:?}")
                    }
                    Err(error) => panic!("{fault:?} {layer}: {error}"),
                }
                scene.simulation.clear_rules();
            }
        });
    }
}

#[test]
fn a_restore_follows_a_timeline_that_is_collected_meanwhile() {
    check_seeds(0..1, async |simulation| {
        let scene = Scene::set(simulation).await;
        let before = open(&scene.store).await;
        scene.collect(&["small-05"]).await;
        let dir = TempDir::new().unwrap();
        // As of the old state every object is gone, and says so.
        let plan = sync_engine::plan_restore(&before.state, Default::default());
        let target = DurableDir::create(dir.path()).unwrap();
        let progress = Arc::new(Progress::default());
        let (keys, state) = (&before.keys, &before.state);
        let report = sync_engine::execute_restore(&scene.store, keys, state, plan, &target, &progress);
        assert!(report.await.unwrap().found_objects_gone());
        assert!(restore(&scene.store, dir.path()).await.unwrap().is_complete());
        assert_eq!(files(dir.path()).len(), 20);
    });
}
