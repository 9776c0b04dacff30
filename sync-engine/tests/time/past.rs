//! What only older points in time need: whoever loses it is told which points cannot be restored, and nobody is told of
//! what no point needs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use layer_archive::{BundleWriter, Seq};
use storage_api::{Body, GetRange, Key, ObjectStore, ObjectStoreExt, Operation, PutMode};
use sync_engine::gc::{GcPolicy, collect};
use sync_engine::{
    At, Draft, Error, Finding, TakeOver, TimelineView, TimelineWriter, VerifyDepth, VerifyReport,
    execute_delete, plan_delete, verify_timeline,
};

use crate::bench::{Bench, DAY, Layers, NONE, contents as read, keeping, put_payload};
use crate::repair::{Damage, damage, local, repair};
use crate::spy::{Fate, Spy};
use crate::support::{contents, name, open, tenant, timeline, writer_options};

/// The manifests of [`three_days`].
const MANIFESTS: [u64; 3] = [3, 7, 12];

/// The newest record of [`three_days`].
const NEWEST: u64 = 15;

/// Keeps the second day and what follows.
fn two_days() -> GcPolicy {
    keeping(DAY * 3 / 2)
}

pub(crate) async fn put_manifest(bench: &Bench, writer: &TimelineWriter) {
    let state = &writer.view().state;
    let key = writer.view().keys.manifest(state.seq()).unwrap();
    let bytes = state.to_manifest().encode().unwrap();
    bench.objects.put(&key, Body::new(bytes), PutMode::Create).await.unwrap();
}

/// Every day a layer that stays, one beside it that goes, one in a payload object that goes, a manifest, and one that
/// comes and goes between manifests. The third day is of another writer.
async fn three_days() -> Bench {
    let mut bench = Bench::new().await;
    let mut writer = bench.writer("first").await;
    for day in 0..3u64 {
        if day == 2 {
            writer = bench.writer("second").await;
        }
        let bytes = |n: u64| contents(day * 10 + n, 5000);
        let [keep, gone, brief, large] =
            ["keep", "gone", "brief", "large"].map(|layer| format!("{layer} {day}"));
        bench.commit(&mut writer, &[(&keep, &bytes(0)), (&gone, &bytes(1))], &[]).await;
        let (payload, added) = put_payload(&mut writer, &[(&large, &bytes(2))]).await;
        writer
            .append(Draft { payloads: vec![payload], added, ..Draft::default() }, BundleWriter::new())
            .await
            .unwrap();
        bench.layers.insert(large.clone(), bytes(2));
        put_manifest(&bench, &writer).await;
        bench.commit(&mut writer, &[(&brief, &bytes(3))], &[&gone]).await;
        bench.commit(&mut writer, &[], &[&brief, &large]).await;
        bench.clock.advance(DAY);
    }
    writer.append(Draft { released: true, ..Draft::default() }, BundleWriter::new()).await.unwrap();
    let there: Vec<u64> = bench.listing().await.manifests.keys().map(|seq| seq.0).collect();
    assert_eq!((there, writer.view().state.seq()), (MANIFESTS.to_vec(), Seq(NEWEST)));
    bench
}

/// The same with what is dead at the first manifest collected.
async fn collected() -> Bench {
    let bench = three_days().await;
    let plan = bench.plan(&keeping(DAY * 5 / 2)).await;
    assert_eq!((plan.floor, plan.objects.len()), (Some(Seq(3)), 1), "{plan:?}");
    collect(&bench.store, &plan).await.unwrap();
    bench
}

async fn verify(bench: &Bench, depth: VerifyDepth) -> Result<VerifyReport, Error> {
    let view = TimelineView::open(&bench.store, &tenant(), &timeline(), None).await?;
    verify_timeline(&bench.store, &view, depth).await
}

/// What a point in time restores to, where all of it can be read.
async fn at(bench: &Bench, seq: u64) -> Option<Layers> {
    let id = (tenant(), timeline());
    let past = TimelineView::open_at(&bench.store, (&id.0, &id.1), At::Seq(Seq(seq)), None).await.ok()?;
    let reader = sync_engine::TimelineReader::new(&bench.store, past, Arc::default());
    let mut layers = Layers::new();
    for layer in reader.view().state.layers().keys() {
        layers.insert(layer.to_string(), reader.read_at(layer, 0..u64::MAX).await.ok()?.to_vec());
    }
    Some(layers)
}

/// The points from the first manifest on that cannot be restored.
async fn broken(bench: &Bench) -> BTreeSet<u64> {
    let mut broken = BTreeSet::new();
    for seq in MANIFESTS[0]..=NEWEST {
        if at(bench, seq).await.is_none() {
            broken.insert(seq);
        }
    }
    broken
}

fn points(findings: &[Finding]) -> BTreeSet<u64> {
    let points = findings.iter().filter_map(|finding| finding.points);
    points.flat_map(|points| points.oldest.0..=points.newest.0).collect()
}

async fn objects(bench: &Bench) -> Vec<Key> {
    let objects = bench.objects().await.into_iter().map(|info| info.key);
    objects.filter(|key| key.as_str().starts_with("tenants/")).collect()
}

const KINDS: [Damage; 6] = [
    Damage::Deleted,
    Damage::CutBy(1),
    Damage::CutBy(700),
    Damage::FlippedAt(5),
    Damage::FlippedAt(60),
    Damage::FlippedAt(99),
];

/// What restoring says is what verification must say: of every point that cannot be restored any more, and of no other.
#[tokio::test]
async fn every_object_lost_names_the_points_that_cannot_be_restored_and_no_others() {
    let (mut past, mut now, mut noted, mut unseen) = (0, 0, 0, BTreeSet::new());
    for is_collected in [false, true] {
        let make = || async { if is_collected { collected().await } else { three_days().await } };
        let template = make().await;
        assert_eq!(verify(&template, VerifyDepth::Deep).await.unwrap().findings, []);
        assert_eq!(broken(&template).await, BTreeSet::new());
        for (number, kind) in (0..objects(&template).await.len()).flat_map(|n| KINDS.map(|kind| (n, kind))) {
            let bench = make().await;
            let key = objects(&bench).await[number].clone();
            damage(&bench, &key, kind).await;
            let what = format!("{key} {kind:?} {is_collected}");
            let mut broken = broken(&bench).await;
            let ends = [format!("{NEWEST:016x}.tar.zst"), format!("manifest/{:016x}", MANIFESTS[0])];
            if kind == Damage::Deleted && ends.iter().any(|end| key.as_str().ends_with(end)) {
                // Without the last record, or the first manifest, there are no such points.
                broken.clear();
            }
            let report = match verify(&bench, VerifyDepth::Deep).await {
                Ok(report) => report,
                // It cannot even be opened, and says so.
                Err(error) => {
                    assert!(error.to_string().contains(key.as_str()), "{what}: {error}");
                    continue;
                }
            };
            let names = |findings: &[Finding]| findings.iter().any(|finding| finding.object == key.as_str());
            let lost: BTreeSet<_> = report.findings.iter().flat_map(|finding| &finding.layers).collect();
            let claimed = points(&report.findings);
            // An object of another length is given up as a whole, though parts of it may read.
            if matches!(kind, Damage::CutBy(_)) && !lost.is_empty() {
                assert!(broken.is_subset(&(3..=NEWEST).collect()));
            } else if lost.is_empty() {
                let claims_more = matches!(kind, Damage::CutBy(_)) && claimed.is_superset(&broken);
                assert!(claimed == broken || claims_more, "{what}: {report:?}");
                past += usize::from(!broken.is_empty());
            } else {
                // What the newest state has lost no point has that had it.
                assert!(claimed.is_subset(&broken) && broken.contains(&NEWEST), "{what}: {report:?}");
                now += 1;
            }
            if names(&report.unneeded) {
                assert!(broken.is_empty() && report.findings.is_empty(), "{what}: {report:?}");
                noted += 1;
            } else if !names(&report.findings) {
                // What leaves no trace, and was of no use.
                assert_eq!((kind, &broken), (Damage::Deleted, &BTreeSet::new()), "{what}");
                unseen.insert(key.as_str().rsplit_once('/').unwrap().1.to_owned());
            }
            assert_mended(&bench, &what).await;
        }
    }
    assert!(past > 80 && now > 15 && noted > 40, "{past} {now} {noted}");
    // The first claim, a record at the first manifest, the manifests, and the last record.
    let expected = ["0000000000000001.tar.zst", "0000000000000003.tar.zst", "000000000000000f.tar.zst"];
    let manifests = MANIFESTS.map(|seq| format!("{seq:016x}"));
    assert_eq!(unseen, expected.map(str::to_owned).into_iter().chain(manifests).collect());
}

/// A store whose times say nothing: those of a copy that was made object by object, in one moment or in any order.
async fn copied(bench: &Bench, backwards: bool) {
    let keys = objects(bench).await;
    for (number, key) in (0..).zip(&keys) {
        if backwards {
            bench.clock.set(bench.now() - Duration::from_secs(number));
        }
        let bytes = bench.objects.get_bytes(key, GetRange::Full, 1 << 20).await.unwrap().1;
        bench.objects.put(key, Body::new(bytes), PutMode::Overwrite).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_damaged_in_a_store_that_was_copied_is_found_whatever_its_times_say() {
    let mut past = 0;
    for (is_collected, backwards) in [(false, false), (false, true), (true, false), (true, true)] {
        let make = || async {
            let bench = if is_collected { collected().await } else { three_days().await };
            copied(&bench, backwards).await;
            bench
        };
        let template = make().await;
        assert_eq!(verify(&template, VerifyDepth::Deep).await.unwrap().findings, []);
        for number in 0..objects(&template).await.len() {
            let bench = make().await;
            let key = objects(&bench).await[number].clone();
            damage(&bench, &key, Damage::FlippedAt(60)).await;
            let (broken, report) = (broken(&bench).await, verify(&bench, VerifyDepth::Deep).await);
            let Ok(report) = report else { continue };
            let is_of_the_past = report.findings.iter().all(|finding| finding.layers.is_empty());
            if is_of_the_past {
                assert_eq!(points(&report.findings), broken, "{key}: {report:?}");
                past += usize::from(!broken.is_empty());
            }
        }
    }
    assert!(past > 20, "{past}");
}

/// A repair from the newest layers leaves nothing but older points that are lost, and a collection ends that too.
async fn assert_mended(bench: &Bench, what: &str) {
    let (_dir, files) = local(&bench.layers);
    let report = match repair(bench, &files, TakeOver::No).await {
        Err(Error::Held { .. }) => repair(bench, &files, TakeOver::Yes).await.unwrap(),
        report => report.unwrap(),
    };
    assert!(report.is_whole(), "{what}: {report:?}");
    let after = verify(bench, VerifyDepth::Deep).await.unwrap();
    assert!(after.findings.iter().all(|finding| finding.layers.is_empty()), "{what}: {after:?}");
    // Nothing more is to be done.
    assert!(!repair(bench, &files, TakeOver::No).await.unwrap().wrote, "{what}");
    for _ in 0..2 {
        let report = bench.gc(&NONE, TakeOver::No).await;
        assert_eq!(report.damage, [], "{what}");
    }
    bench.assert_whole().await;
}

#[tokio::test]
async fn without_a_damaged_byte_in_it_a_lost_object_is_found_at_every_depth() {
    for depth in [VerifyDepth::Listing, VerifyDepth::Stored, VerifyDepth::Deep] {
        let bench = three_days().await;
        let keys = open(&bench.store).await.keys;
        // Between the first two manifests, and what is only live there: the record, and what it was about.
        bench.delete(keys.record(Seq(5)).unwrap()).await;
        let report = verify(&bench, depth).await.unwrap();
        assert_eq!(points(&report.findings), BTreeSet::from([5, 6]), "{report:?}");
        assert!(report.findings[0].object.ends_with("0000000000000005.tar.zst"));
        let bench = three_days().await;
        let payload = bench.listing().await.payloads.keys().next().copied().unwrap();
        bench.delete(keys.bundle(layer_archive::BundleId::Payload(payload)).unwrap()).await;
        let report = verify(&bench, depth).await.unwrap();
        assert_eq!(points(&report.findings), BTreeSet::from([3, 4]), "{report:?}");
    }
}

/// Collects the first day, and returns the manifest of it that was deleted.
async fn first_day_collected(bench: &Bench) -> (Key, Vec<u8>) {
    let key = open(&bench.store).await.keys.manifest(Seq(MANIFESTS[0])).unwrap();
    let bytes = bench.objects.get_bytes(&key, GetRange::Full, 1 << 20).await.unwrap().1.to_vec();
    let plan = bench.plan(&two_days()).await;
    assert_eq!(plan.floor, Some(Seq(MANIFESTS[1])));
    collect(&bench.store, &plan).await.unwrap();
    (key, bytes)
}

#[tokio::test]
async fn a_manifest_that_came_late_makes_no_damage_of_what_was_collected() {
    let mut torn_late = 0;
    for torn in [false, true] {
        let bench = three_days().await;
        let written =
            bench.listing().await.manifests.into_iter().map(|(seq, info)| (seq.0, info.last_modified));
        let written: BTreeMap<u64, _> = written.collect();
        let (key, mut bytes) = first_day_collected(&bench).await;
        if torn {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        let now = bench.now();
        // Late, and in the same moment as the one by which gc judged.
        for late in [now, written[&MANIFESTS[1]]] {
            bench.clock.set(late);
            bench.objects.put(&key, Body::new(bytes.clone()), PutMode::Overwrite).await.unwrap();
            bench.clock.set(now);
            let report = verify(&bench, VerifyDepth::Deep).await.unwrap();
            assert_eq!(report.findings, [], "{torn}");
            torn_late += report.unneeded.len();
        }
        // In time: then it is the log behind it that was lost.
        bench.clock.set(written[&MANIFESTS[1]] - Duration::from_secs(1));
        bench.objects.put(&key, Body::new(bytes), PutMode::Overwrite).await.unwrap();
        bench.clock.set(now);
        let report = verify(&bench, VerifyDepth::Deep).await.unwrap();
        assert_eq!(points(&report.findings), BTreeSet::from([3, 4, 5, 6]), "{report:?}");
    }
    assert_eq!(torn_late, 2);
}

#[tokio::test]
async fn what_gc_deletes_meanwhile_is_not_lost() {
    for at in MANIFESTS {
        let bench = three_days().await;
        let plan = bench.plan(&two_days()).await;
        let view = open(&bench.store).await;
        let manifest = view.keys.manifest(Seq(at)).unwrap();
        // Between the list and the reading of a manifest.
        let (store, mut is_done) = (bench.store.clone(), false);
        let spy = Spy::new(&bench.objects, move |operation, keys| {
            if operation == Operation::Get
                && keys.contains(&manifest)
                && !std::mem::replace(&mut is_done, true)
            {
                collect(&store, &plan).now_or_never().unwrap().unwrap();
            }
            Fate::Done
        });
        let through = bench.through(spy as Arc<dyn ObjectStore>).await.unwrap();
        let report = verify_timeline(&through, &view, VerifyDepth::Deep).await.unwrap();
        assert_eq!(report.findings, [], "{at}");
        assert_eq!(bench.listing().await.manifests.len(), 2);
    }
}

#[tokio::test]
async fn a_claim_that_does_not_read_is_noted_and_the_newest_one_is_damage() {
    let bench = three_days().await;
    let keys = open(&bench.store).await.keys;
    let [first, newest] = [1, 10].map(|seq| keys.record(Seq(seq)).unwrap());
    damage(&bench, &first, Damage::FlippedAt(60)).await;
    let report = verify(&bench, VerifyDepth::Deep).await.unwrap();
    assert_eq!((&report.findings[..], report.unneeded.len()), (&[][..], 1));
    assert_eq!(report.unneeded[0].object, first.as_str());
    damage(&bench, &newest, Damage::FlippedAt(60)).await;
    let report = verify(&bench, VerifyDepth::Deep).await.unwrap();
    assert!(report.findings.iter().any(|finding| finding.object == newest.as_str()), "{report:?}");
    assert_eq!(read(&bench.store, &open(&bench.store).await.state).await, bench.layers);
    assert!(
        bench.layers.contains_key("keep 0")
            && open(&bench.store).await.state.layers().contains_key(&name("keep 2"))
    );
}

#[tokio::test]
async fn a_deleted_timeline_promises_its_past_until_it_is_collected() {
    let bench = crate::lived().await;
    bench.clock.advance(DAY);
    let before = open(&bench.store).await;
    let plan = plan_delete(&bench.store, before.clone()).await.unwrap();
    let deletion = execute_delete(&bench.store, plan, TakeOver::No, writer_options("delete")).await.unwrap();
    assert_eq!(verify(&bench, VerifyDepth::Deep).await.unwrap().findings, []);
    // A record before the tombstone is the deletion's claim.
    let large = before.keys.bundle(before.state.layers()[&name("large")].place.bundle).unwrap();
    bench.delete(large).await;
    let report = verify(&bench, VerifyDepth::Listing).await.unwrap();
    let lost: BTreeSet<u64> = (before.state.seq().0..deletion.seq.0).collect();
    assert_eq!((points(&report.findings), report.findings.len()), (lost, 1), "{report:?}");
    assert!(report.findings[0].is_of_the_past());
    bench.gc(&NONE, TakeOver::No).await;
    assert_eq!(verify(&bench, VerifyDepth::Deep).await.unwrap().findings, []);
}

#[tokio::test]
async fn an_older_manifest_that_does_not_read_is_made_again_as_it_was() {
    let bench = three_days().await;
    let keys = open(&bench.store).await.keys;
    let [first, second, _] = MANIFESTS.map(|seq| keys.manifest(Seq(seq)).unwrap());
    let bytes = async |key: &Key| bench.objects.get_bytes(key, GetRange::Full, 1 << 20).await.unwrap().1;
    let before = [bytes(&first).await, bytes(&second).await];
    for key in [&first, &second] {
        damage(&bench, key, Damage::FlippedAt(60)).await;
    }
    // No point needs them as long as the log is whole, but gc finds no floor among them.
    let report = verify(&bench, VerifyDepth::Deep).await.unwrap();
    assert_eq!((&report.findings[..], report.unneeded.len()), (&[][..], 2));
    assert_eq!(bench.plan(&keeping(DAY * 5 / 2)).await.damage.len(), 1);
    let report = repair(&bench, &BTreeMap::new(), TakeOver::No).await.unwrap();
    assert_eq!((report.manifests, report.wrote), (vec![Seq(MANIFESTS[0]), Seq(MANIFESTS[1])], false));
    assert_eq!([bytes(&first).await, bytes(&second).await], before);
    assert_eq!(verify(&bench, VerifyDepth::Deep).await.unwrap().unneeded, []);
    // They are as old as their objects are.
    assert_eq!(bench.plan(&two_days()).await.floor, None);
    bench.clock.advance(DAY * 2);
    assert_eq!(first_day_collected(&bench).await.0, first);
    // What the log does not tell any more is not made up: newer ones let gc past it.
    damage(&bench, &second, Damage::FlippedAt(60)).await;
    let damaged = bytes(&second).await;
    let report = repair(&bench, &BTreeMap::new(), TakeOver::No).await.unwrap();
    assert_eq!((report.manifests, report.wrote), (vec![], true));
    assert_eq!(bytes(&second).await, damaged);
    bench.gc(&NONE, TakeOver::No).await;
    assert_eq!(bench.gc(&NONE, TakeOver::No).await.damage, []);
    bench.assert_whole().await;
}

#[tokio::test]
async fn a_newest_manifest_that_does_not_read_is_followed_and_then_made_again() {
    let bench = three_days().await;
    let newest = open(&bench.store).await.keys.manifest(Seq(MANIFESTS[2])).unwrap();
    let bytes = async || bench.objects.get_bytes(&newest, GetRange::Full, 1 << 20).await.unwrap().1;
    let before = bytes().await;
    damage(&bench, &newest, Damage::FlippedAt(60)).await;
    let report = repair(&bench, &BTreeMap::new(), TakeOver::No).await.unwrap();
    assert_eq!((report.manifests, report.wrote), (vec![Seq(MANIFESTS[2])], true));
    assert_eq!(bytes().await, before);
    let report = verify(&bench, VerifyDepth::Deep).await.unwrap();
    assert_eq!((report.findings, report.unneeded), (vec![], vec![]));
}
