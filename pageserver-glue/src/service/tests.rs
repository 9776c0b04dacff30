//! The service as a pageserver uses it: from plain threads, on a directory, with a store on the disk.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use layer_archive::{LayerName, Lsn, RemovalReason, WriterInfo};
use storage_api::{MemoryStore, ObjectStore, SystemClock};
use sync_engine::service::{CreateStore, Event, Observer, ServiceOptions};
use sync_engine::{ReadOptions, TimelineView};
use tempfile::TempDir;

use super::{CheckpointError, Service, ServiceConfig, ServiceError};

const ID: &str = "1f8ae1ef8989d5601e73fd13ae3dcd26";
const IMAGE: &str =
    "000000000000000000000000000000000000-000000067F00000001000004DF0000000006__00000000014FED58";
/// Long enough for a loaded machine: nothing is asserted of the time that something takes.
const SOON: Duration = Duration::from_secs(60);

fn name(name: &str) -> LayerName {
    LayerName::new(name).unwrap()
}

fn config(objects: &Arc<dyn ObjectStore>, workdir: &Path) -> ServiceConfig {
    let writer = WriterInfo { host: "test".into(), pid: 1, program: "pageserver".into() };
    ServiceConfig {
        objects: Arc::clone(objects),
        url: "memory".into(),
        create: CreateStore::IfMissing,
        workdir: workdir.to_owned(),
        hash_cache: Some(workdir.join("digests")),
        threads: 2,
        options: ServiceOptions::new(writer, Arc::new(SystemClock)),
        reads: ReadOptions::default(),
    }
}

fn put(dir: &Path, name: &str, bytes: &[u8]) {
    let mut file = fs::File::create(dir.join(name)).unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
}

#[test]
fn a_pageserver_hands_over_waits_removes_detaches_and_finds_what_is_remote() {
    let objects: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let workdir = TempDir::new().unwrap();
    let dir = workdir.path().join("tenants").join(ID).join("timelines").join(ID);
    fs::create_dir_all(&dir).unwrap();
    put(&dir, "opaque", b"was there at the start");
    let (tenant, timeline) = (ID.parse().unwrap(), ID.parse().unwrap());
    let told = Arc::new(Mutex::new(0));
    let mut config = config(&objects, workdir.path());
    let committed = Arc::clone(&told);
    config.options.observer = Observer::new(move |_, event| {
        *committed.lock().unwrap() += usize::from(matches!(event, Event::Committed { .. }));
    });
    let service = Service::start(config).unwrap();
    let attached = service.attach(&tenant, &timeline, None).unwrap();
    assert!(matches!(service.attach(&tenant, &timeline, None), Err(ServiceError::Attach(_))));
    assert_eq!(attached.wait_opened(SOON).unwrap().missing_remotely, [name("opaque")]);

    put(&dir, IMAGE, &[7; 100_000]);
    let ticket = attached.checkpoint(&[name(IMAGE)], Some(b"opaque".to_vec()), Some(Lsn(0x10))).unwrap();
    attached.wait(ticket, SOON).unwrap();
    attached.wait_durable(Lsn(0x10), SOON).unwrap();
    assert_eq!(attached.remote_consistent_lsn(), Some(Lsn(0x10)));
    let missing = attached.checkpoint(&[name("missing")], None, None).unwrap_err();
    assert!(
        matches!(&missing, CheckpointError::Layer { path, .. } if path.ends_with("missing")),
        "{missing}"
    );
    attached.remove(&[name("opaque")], RemovalReason::Collected).unwrap();

    let metrics = service.metrics().to_string();
    let line = format!("layerpack_remote_consistent_lsn{{tenant=\"{ID}\",timeline=\"{ID}\"}} 16\n");
    assert!(metrics.contains(&line), "{metrics}");
    assert!(metrics.contains("layerpack_requests_total{kind=\"put\"}"), "{metrics}");
    // In a pageserver's registry they are read anew each time.
    let registry = prometheus::Registry::new();
    registry.register(Box::new(service.collector().unwrap())).unwrap();
    let gathered = || prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    // But for what passes with the time.
    let sorted = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with("layerpack_lag_seconds"));
        lines.map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(sorted(&gathered()), sorted(&service.metrics().to_string()));
    let report = service.detach(&tenant, &timeline, SOON).unwrap();
    assert!(report.is_complete() && report.released, "{report:?}");
    assert!(!gathered().contains("layerpack_lag_bytes") && gathered().contains("layerpack_requests_total"));
    assert!(*told.lock().unwrap() >= 2);

    // A new start in an empty directory: everything is remote.
    fs::remove_file(dir.join(IMAGE)).unwrap();
    fs::remove_file(dir.join("opaque")).unwrap();
    let attached = service.attach(&tenant, &timeline, None).unwrap();
    let reconciliation = attached.wait_opened(SOON).unwrap();
    let remote: Vec<_> = reconciliation.remote_only.iter().map(|layer| layer.name.as_str()).collect();
    assert_eq!(remote, [IMAGE]);
    let range = reconciliation.remote_only[0].lsn_range.unwrap();
    assert_eq!(range.start(), Lsn(0x14F_ED58), "the name's LSN goes along");

    // Read from the store until it is fetched, and again after it was evicted.
    assert_eq!(attached.read_at(&name(IMAGE), 10..20, SOON).unwrap(), [7; 10].as_slice());
    assert!(!dir.join(IMAGE).try_exists().unwrap());
    assert_eq!(attached.fetch(&name(IMAGE), SOON).unwrap(), dir.join(IMAGE));
    assert_eq!(fs::read(dir.join(IMAGE)).unwrap(), [7; 100_000]);
    let requests = service.metrics().requests;
    assert_eq!(attached.read_at(&name(IMAGE), 0..1, SOON).unwrap(), [7].as_slice());
    assert_eq!(service.metrics().requests, requests, "it is on the disk");
    fs::remove_file(dir.join(IMAGE)).unwrap();
    attached.evicted(&name(IMAGE));
    assert_eq!(attached.read_at(&name(IMAGE), 99_999..200_000, SOON).unwrap(), [7].as_slice());
    // What was handed over since is known to be here.
    put(&dir, "later", b"later");
    attached.checkpoint(&[name("later")], None, None).unwrap();
    assert_eq!(attached.read_at(&name("later"), 0..5, SOON).unwrap(), b"later".as_slice());
    let missing = attached.fetch(&name("opaque"), SOON).unwrap_err();
    assert!(missing.to_string().contains("not in timeline"), "{missing}");
    attached.prefetch(vec![name(IMAGE)]);
    let reports = service.shutdown(SOON);
    assert!(reports.iter().all(|(_, report)| report.is_complete()), "{reports:?}");
}

#[test]
fn a_cache_among_the_layers_and_a_directory_that_is_none_are_refused() {
    let objects: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let workdir = TempDir::new().unwrap();
    assert!(matches!(Service::start(config(&objects, workdir.path())), Err(ServiceError::WorkDir(_))));
    fs::create_dir(workdir.path().join("tenants")).unwrap();
    let inside = ServiceConfig {
        hash_cache: Some(workdir.path().join("tenants/digests")),
        ..config(&objects, workdir.path())
    };
    assert!(matches!(Service::start(inside), Err(ServiceError::HashCacheInside(_))));
    // A file in the place of a timeline's directory is not an empty timeline.
    let timelines = workdir.path().join("tenants").join(ID).join("timelines");
    fs::create_dir_all(&timelines).unwrap();
    put(&timelines, ID, b"not a directory");
    let service = Service::start(config(&objects, workdir.path())).unwrap();
    let attached = service.attach(&ID.parse().unwrap(), &ID.parse().unwrap(), None);
    assert!(matches!(attached, Err(ServiceError::WorkDir(_))), "{attached:?}");
}

#[test]
fn a_directory_of_an_older_point_is_not_attached() {
    let objects: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let workdir = TempDir::new().unwrap();
    let dir = workdir.path().join("tenants").join(ID).join("timelines").join(ID);
    let mark = workdir.path().join(".layerpack/past").join(ID);
    fs::create_dir_all(&dir).unwrap();
    fs::create_dir_all(&mark).unwrap();
    put(&mark, ID, b"record 7 of store x\n");
    let service = Service::start(config(&objects, workdir.path())).unwrap();
    let refused = service.attach(&ID.parse().unwrap(), &ID.parse().unwrap(), None).unwrap_err();
    let said = refused.to_string();
    assert!(said.contains("record 7 of store x") && said.contains("copy --at"), "{said}");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

const BRANCH: &str = "88a4e0f55d55008138697fa10e7d97d3";

/// Metadata of a branch of [`ID`] that left it at 0/1500000, durable up to 0/1600000.
fn metadata_of_branch() -> Vec<u8> {
    let mut bytes = vec![0; 512];
    bytes[..8].copy_from_slice(&0x0160_0000_u64.to_be_bytes());
    // No previous record, and an ancestor.
    bytes[9] = 1;
    for (at, byte) in bytes[10..26].iter_mut().enumerate() {
        *byte = u8::from_str_radix(&ID[at * 2..at * 2 + 2], 16).unwrap();
    }
    bytes[26..34].copy_from_slice(&0x0150_0000_u64.to_be_bytes());
    let crc = storage_api::Crc32c::of(&bytes[..508]).0;
    bytes[508..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn a_pageserver_is_told_which_branches_its_own_gc_must_spare_and_says_when_they_end() {
    let objects: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let workdir = TempDir::new().unwrap();
    let timelines = workdir.path().join("tenants").join(ID).join("timelines");
    for timeline in [ID, BRANCH] {
        fs::create_dir_all(timelines.join(timeline)).unwrap();
        put(&timelines.join(timeline), IMAGE, &[7; 10_000]);
    }
    let service = Service::start(config(&objects, workdir.path())).unwrap();
    let attach =
        |timeline: &str| service.attach(&ID.parse().unwrap(), &timeline.parse().unwrap(), None).unwrap();
    let main = attach(ID);
    let ticket = main.checkpoint(&[name(IMAGE)], None, None).unwrap();
    main.wait(ticket, SOON).unwrap();
    assert_eq!(main.branch_points(), []);
    // The branch begins to run, and says where it comes from with its first metadata.
    let branch = attach(BRANCH);
    let ticket = branch.checkpoint(&[name(IMAGE)], Some(metadata_of_branch()), None).unwrap();
    branch.wait(ticket, SOON).unwrap();
    let point = layer_archive::BranchPoint {
        tenant: ID.parse().unwrap(),
        timeline: BRANCH.parse().unwrap(),
        lsn: Lsn(0x0150_0000),
    };
    assert_eq!(main.branch_points(), std::slice::from_ref(&point));
    // What is collected all the same stays for the branch, until it has ended.
    let is_there = || {
        let ticket = main.remove(&[name(IMAGE)], RemovalReason::Collected).unwrap();
        main.wait(ticket, SOON).unwrap();
        let stored = async {
            let store = service.uploads().store().await.unwrap();
            let (tenant, timeline) = (ID.parse().unwrap(), ID.parse().unwrap());
            TimelineView::open(store, &tenant, &timeline, None).await.unwrap().state
        };
        runtime().block_on(stored).layers().contains_key(&name(IMAGE))
    };
    assert!(is_there());
    main.end_branch(point, SOON).unwrap();
    assert_eq!(main.branch_points(), []);
    assert!(!is_there());
    // One whose metadata does not tell says it itself.
    let other = attach(&BRANCH.replace('8', "9"));
    let ancestor = layer_archive::Ancestor { timeline: ID.parse().unwrap(), lsn: Lsn(0x0150_0001) };
    other.wait(other.branched_from(ancestor).unwrap(), SOON).unwrap();
    assert_eq!(main.branch_points().len(), 1);
    assert!(service.shutdown(SOON).iter().all(|(_, report)| report.is_complete()));
}

/// An image of key 1, at an LSN.
fn image_at(lsn: u64) -> String {
    format!("{:036X}-{:036X}__{lsn:016X}", 1, 2)
}

#[test]
fn a_branch_reads_and_fetches_what_its_ancestor_has_below_it_whatever_is_on_the_disk() {
    let objects: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let workdir = TempDir::new().unwrap();
    let timelines = workdir.path().join("tenants").join(ID).join("timelines");
    let (below, above, own) = (image_at(0x0140_0000), image_at(0x0155_0000), image_at(0x0158_0000));
    for (timeline, layer, byte) in [(ID, &below, 1), (ID, &above, 2), (BRANCH, &own, 3)] {
        fs::create_dir_all(timelines.join(timeline)).unwrap();
        put(&timelines.join(timeline), layer, &[byte; 10_000]);
    }
    put(&timelines.join(ID), "metadata", b"opaque");
    put(&timelines.join(BRANCH), "metadata", &metadata_of_branch());
    let ids = [ID, BRANCH].map(|id| id.parse().unwrap());
    let run = |workdir: &Path, use_branch: &dyn Fn(&super::AttachedTimeline)| {
        let service = Service::start(config(&objects, workdir)).unwrap();
        let attached = ids.each_ref().map(|id| service.attach(&ID.parse().unwrap(), id, None).unwrap());
        attached.iter().for_each(|attached| drop(attached.wait_opened(SOON).unwrap()));
        attached.iter().for_each(|attached| runtime().block_on(attached.handle().flush()).unwrap());
        use_branch(&attached[1]);
        assert!(service.shutdown(SOON).iter().all(|(_, report)| report.is_complete()));
    };
    run(workdir.path(), &|branch| {
        assert_eq!(branch.read_at(&name(&own), 0..1, SOON).unwrap(), [3].as_slice());
        assert_eq!(branch.read_at(&name(&below), 0..1, SOON).unwrap(), [1].as_slice());
    });
    // Without the branch's directory, without the ancestor's, with nothing.
    for lost in [&[BRANCH][..], &[ID], &[ID, BRANCH]] {
        let there = TempDir::new().unwrap();
        let dir = there.path().join("tenants").join(ID).join("timelines");
        fs::create_dir_all(&dir).unwrap();
        for timeline in [ID, BRANCH].iter().filter(|timeline| !lost.contains(*timeline)) {
            fs::create_dir(dir.join(timeline)).unwrap();
            for entry in fs::read_dir(timelines.join(timeline)).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), dir.join(timeline).join(entry.file_name())).unwrap();
            }
        }
        run(there.path(), &|branch| {
            let ancestors = branch.ancestors(SOON).unwrap();
            assert_eq!(ancestors.len(), 1);
            assert_eq!((ancestors[0].timeline.as_str(), ancestors[0].lsn), (ID, Lsn(0x0150_0000)));
            assert_eq!(ancestors[0].metadata.as_ref().unwrap().bytes, b"opaque");
            assert_eq!(ancestors[0].layers.len(), 2);
            for (layer, byte) in [(&own, 3), (&below, 1)] {
                let read = branch.read_at(&name(layer), 9_999..20_000, SOON).unwrap();
                assert_eq!(read, [byte].as_slice());
            }
            // What the ancestor did after it was left is no past of the branch.
            let above = branch.read_at(&name(&above), 0..1, SOON).unwrap_err();
            assert!(above.to_string().contains("not in timeline"), "{above}");
            assert_eq!(branch.fetch(&name(&own), SOON).unwrap(), dir.join(BRANCH).join(&own));
            assert_eq!(branch.fetch(&name(&below), SOON).unwrap(), dir.join(ID).join(&below));
            assert_eq!(fs::read(dir.join(ID).join(&below)).unwrap(), [1; 10_000]);
            assert!(!dir.join(BRANCH).join(&below).try_exists().unwrap());
        });
    }
}

#[test]
fn an_ancestor_that_was_out_of_reach_is_looked_for_again_and_listed_as_it_is_now() {
    let objects: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let workdir = TempDir::new().unwrap();
    let timelines = workdir.path().join("tenants").join(ID).join("timelines");
    let (below, more) = (image_at(0x0140_0000), image_at(0x0141_0000));
    fs::create_dir_all(timelines.join(ID)).unwrap();
    fs::create_dir_all(timelines.join(BRANCH)).unwrap();
    put(&timelines.join(ID), &below, &[1; 10_000]);
    let service = Service::start(config(&objects, workdir.path())).unwrap();
    let attach = |id: &str| service.attach(&ID.parse().unwrap(), &id.parse().unwrap(), None).unwrap();
    let main = attach(ID);
    main.wait(main.checkpoint(&[name(&below)], None, None).unwrap(), SOON).unwrap();
    let branch = attach(BRANCH);
    branch.wait(branch.checkpoint(&[], Some(metadata_of_branch()), None).unwrap(), SOON).unwrap();
    // Its claim is what every opening needs.
    let key =
        storage_api::Key::new(format!("tenants/{ID}/timelines/{ID}/log/0000000000000001.tar.zst")).unwrap();
    let claim = runtime().block_on(storage_api::ObjectStoreExt::get_bytes(
        &*objects,
        &key,
        storage_api::GetRange::Full,
        1 << 20,
    ));
    runtime().block_on(objects.delete(std::slice::from_ref(&key))).unwrap();
    let lost = branch.read_at(&name(&below), 0..1, SOON).unwrap_err();
    assert!(lost.to_string().contains("ancestor"), "{lost}");
    assert!(branch.ancestors(SOON).is_err());
    let claim = storage_api::Body::new(claim.unwrap().1);
    runtime().block_on(objects.put(&key, claim, storage_api::PutMode::Create)).unwrap();
    assert_eq!(branch.read_at(&name(&below), 0..1, SOON).unwrap(), [1].as_slice());
    put(&timelines.join(ID), &more, &[2; 10_000]);
    main.wait(main.checkpoint(&[name(&more)], None, None).unwrap(), SOON).unwrap();
    assert_eq!(branch.ancestors(SOON).unwrap()[0].layers.len(), 2);
    assert_eq!(branch.read_at(&name(&more), 0..1, SOON).unwrap(), [2].as_slice());
}
