//! Collections and restores, each a process, beside a pageserver that goes on writing.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use layer_archive::{LayerName, WriterInfo};
use pageserver_glue::{Absent, AttachedTimeline, RemoteUrl, Service, ServiceConfig};
use storage_api::{ObjectStore, RetryPolicy, Retrying, SystemClock};
use storage_s3::{S3Config, S3Store, StaticCredentials};
use sync_engine::ReadOptions;
use sync_engine::gc::GcPolicy;
use sync_engine::service::{BackgroundGc, CreateStore, Phase, ServiceOptions};

use crate::support::{Bench, Kind, TENANT, TIMELINE, assert_same, files, layer_name, metadata, noise, put};

on_both! {
    collections_and_restores_beside_a_pageserver_disturb_nobody_and_the_space_comes_back,
}

const SOON: Duration = Duration::from_secs(120);
/// Checkpoints that the pageserver makes at least, and at most.
const CHECKPOINTS: std::ops::Range<u32> = 60..2_000;

/// The store as a pageserver that links Layerpack opens it.
async fn objects(bench: &Bench) -> Arc<dyn ObjectStore> {
    let objects: Arc<dyn ObjectStore> = match &bench.remote {
        None => bench.url().parse::<RemoteUrl>().unwrap().connect(Absent::Create).await.unwrap(),
        Some(remote) => {
            let mut config = S3Config::from_url(&remote.url.parse().unwrap()).unwrap();
            config.credentials = remote.credentials.map(|pair| StaticCredentials {
                access_key_id: pair.id.to_owned(),
                secret_access_key: pair.secret.to_owned(),
                session_token: None,
            });
            Arc::new(S3Store::connect(config).await.unwrap())
        }
    };
    Arc::new(Retrying::new(objects, RetryPolicy::default(), Arc::new(SystemClock)))
}

/// A pageserver with one timeline, which collects it all the time.
fn pageserver(bench: &Bench) -> (Service, AttachedTimeline) {
    let writer = WriterInfo { host: "here".into(), pid: 7, program: "pageserver".into() };
    let mut options = ServiceOptions::new(writer, Arc::new(SystemClock));
    options.linger = Duration::from_millis(5);
    let policy = GcPolicy { retention: Duration::ZERO, ..GcPolicy::default() };
    options.gc = Some(BackgroundGc { policy, every: Duration::from_millis(300) });
    let config = ServiceConfig {
        objects: tokio::runtime::Runtime::new().unwrap().block_on(objects(bench)),
        url: bench.url(),
        create: CreateStore::IfMissing,
        workdir: bench.path("a"),
        hash_cache: None,
        threads: 1,
        options,
        reads: ReadOptions::default(),
    };
    let service = Service::start(config).unwrap();
    let timeline = service.attach(&TENANT.parse().unwrap(), &TIMELINE.parse().unwrap(), None).unwrap();
    (service, timeline)
}

/// Three layers a checkpoint, of which two are compacted away a little later, until `enough`. Returns how many
/// checkpoints that were.
fn write(bench: &Bench, timeline: &AttachedTimeline, enough: impl Fn() -> bool) -> u32 {
    let dir = bench.timeline_dir("a", TIMELINE);
    let name = |number: u32| LayerName::new(layer_name(number)).unwrap();
    for checkpoint in 0..CHECKPOINTS.end {
        if checkpoint >= CHECKPOINTS.start && enough() {
            return checkpoint;
        }
        let new: Vec<u32> = (3 * checkpoint..3 * checkpoint + 3).collect();
        new.iter().for_each(|number| bench.put_layer(*number, 1000 + 977 * (*number as usize % 9)));
        let gone: Vec<LayerName> = match checkpoint.checked_sub(5) {
            Some(old) => (3 * old..3 * old + 2).map(name).collect(),
            None => Vec::new(),
        };
        let lsn = u64::from(0x0150_0000 + checkpoint);
        let new: Vec<LayerName> = new.into_iter().map(name).collect();
        let ticket = timeline.compaction(&new, &gone, Some(metadata(lsn)), None).unwrap();
        gone.iter().for_each(|layer| fs::remove_file(dir.join(layer.as_str())).unwrap());
        put(&dir.join("metadata"), &metadata(lsn));
        timeline.wait(ticket, SOON).unwrap();
    }
    CHECKPOINTS.end
}

/// What was restored is a state that there was: layers with their contents, and metadata that does not need others.
fn assert_was_a_state(restored: &BTreeMap<String, Vec<u8>>) {
    let is_layer = |path: &&PathBuf| path.file_name().is_some_and(|name| name.len() > 80);
    let paths: Vec<PathBuf> = restored.keys().map(PathBuf::from).collect();
    let mut numbers = Vec::new();
    for path in paths.iter().filter(is_layer) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let number = u32::from_str_radix(&name[..36], 16).unwrap();
        let expected = noise(number, 1000 + 977 * (number as usize % 9));
        assert!(restored[path.to_str().unwrap()] == expected, "layer {number} differs");
        numbers.push(number);
    }
    let Some(metadata) =
        restored.iter().find_map(|(path, bytes)| path.ends_with("/metadata").then_some(bytes))
    else {
        assert!(numbers.is_empty(), "{numbers:?}");
        return;
    };
    let lsn = u64::from_be_bytes(metadata[..8].try_into().unwrap());
    let checkpoint = u32::try_from(lsn - 0x0150_0000).unwrap();
    let lives = |number: &u32| number % 3 == 2 || number / 3 + 5 > checkpoint;
    let expected: Vec<u32> = (0..3 * checkpoint + 3).filter(lives).collect();
    assert_eq!(numbers, expected, "as of checkpoint {checkpoint}");
}

fn collections_and_restores_beside_a_pageserver_disturb_nobody_and_the_space_comes_back(kind: Kind) {
    let bench = Bench::new(kind);
    let (service, timeline) = pageserver(&bench);
    timeline.wait_opened(SOON).unwrap();
    let done = AtomicBool::new(false);
    let (mut collected, mut restored) = (0, 0);
    let runs = std::sync::atomic::AtomicU32::new(0);
    let checkpoints = std::thread::scope(|scope| {
        let collecting = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let run = bench.run("gc --json --remote {url} --execute --retention 0s");
                // Before the first checkpoint there is no timeline.
                if run.code == Some(0) {
                    let json = run.json();
                    let result = &json["timelines"][0]["result"];
                    collected += result["deleted"].as_u64().unwrap_or(0);
                    assert_eq!(result["repacked_layers"].as_u64().unwrap_or(0), 0, "{json}");
                } else {
                    assert!(matches!(run.code, Some(4 | 6)) && collected == 0, "{run:?}");
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let restoring = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let number = runs.fetch_add(1, Ordering::Relaxed);
                let run = bench.run(&format!("restore --json --workdir {{b{number}}} --remote {{url}}"));
                if run.code == Some(0) {
                    assert_was_a_state(&files(&bench.path(&format!("b{number}"))));
                    restored += 1;
                } else {
                    assert!(matches!(run.code, Some(4 | 6)) && restored == 0, "{run:?}");
                }
            }
        });
        let enough = || runs.load(Ordering::Relaxed) >= 12;
        let checkpoints = write(&bench, &timeline, enough);
        done.store(true, Ordering::Relaxed);
        collecting.join().unwrap();
        restoring.join().unwrap();
        checkpoints
    });
    let status = timeline.status();
    assert!(matches!(status.phase, Phase::Idle | Phase::Working), "{status:?}");
    assert!(checkpoints < CHECKPOINTS.end && restored >= 5, "{checkpoints} checkpoints, {restored} restores");
    assert!(collected + status.written.deleted > 10, "{collected} and {status:?}");
    assert!(status.written.repacked > 0, "{status:?}");
    assert!(service.shutdown(SOON).iter().all(|(_, report)| report.released));
    // What lives, what came since, and claims.
    bench.run("gc --remote {url} --execute --retention 0s").expect(0);
    let json = bench.run("status --json --remote {url}").expect(0).json();
    let timeline = &json["timelines"][0];
    let bytes = |name: &str| timeline["space"][name].as_u64().unwrap();
    assert!(bytes("stored_bytes") < bytes("live_bytes") * 3 / 2 + (64 << 10), "{json}");
    bench.run("verify --deep --remote {url}").expect(0);
    bench.run("restore --workdir {b} --remote {url}").expect(0);
    assert_same(&files(&bench.path("a").join("tenants")), &files(&bench.path("b").join("tenants")));
}
