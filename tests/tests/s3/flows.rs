//! Whole backups and restores through faults on the wire: byte for byte equal, and not one object more than without.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use layerpack_tests::{Fault, Remote, RequestKind, Rule, WireProxy};
use storage_api::conformance::skip;
use storage_api::{KeyPrefix, ObjectStoreExt};
use sync_engine::{Mirror, PackOptions};
use tempfile::TempDir;

use crate::stores::{decorated, open};
use crate::support::{assert_same, backup_packed, layer_files, restore};

const TIMELINE: &str = "tenants/1f8ae1ef8989d5601e73fd13ae3dcd26/timelines/88a4e0f55d55008138697fa10e7d97d3";
/// Small, so that there are payload objects; of the least size that a part may have.
const PACK: PackOptions =
    PackOptions { bundle_bytes_target: 4 << 20, part_bytes: 5 << 20, parts_in_flight: 2, compressors: 2 };

/// A work directory that takes every way of the engine: small layers, layers for several payload objects, and one that
/// goes up in three parts.
static IMAGE: LazyLock<TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let timeline = dir.path().join(TIMELINE);
    std::fs::create_dir_all(&timeline).unwrap();
    let bytes = noise(12 << 20);
    let lens = (0..50)
        .map(|number| 2_000 + 97 * number)
        .chain((0..4).map(|number| (2 << 20) + number))
        .chain([12 << 20]);
    for (number, len) in lens.enumerate() {
        // No two alike, or they would be stored once.
        put(&timeline.join(format!("layer-{number:02}")), &bytes[bytes.len() - len..]);
    }
    dir
});

fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let word = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // The high bytes are the good ones.
        let [first, second, third, fourth, ..] = state.to_be_bytes();
        [first, second, third, fourth]
    };
    (0..len / 4).flat_map(word).collect()
}

#[expect(clippy::disallowed_methods, reason = "test data need not survive a crash")]
fn put(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

/// The lengths of the objects below the remote by their keys, with the random term of payload objects left out.
async fn objects(remote: &Remote) -> BTreeMap<String, u64> {
    let listed = decorated(remote).await.list_all(&KeyPrefix::root()).await.unwrap();
    let name = |key: &str| match key.split_once("/payload/") {
        // <claim seq>-<term>-<n>.tar.zst
        Some((dir, name)) => {
            let parts: Vec<_> = name.split('-').collect();
            format!("{dir}/payload/{}-{}", parts[0], parts[2])
        }
        None => key.to_owned(),
    };
    listed.into_iter().map(|object| (name(object.key.as_str()), object.size)).collect()
}

/// Backs the image up and restores it through a proxy that breaks what `rules` choose.
async fn survive(name: &str, rules: Vec<Rule>) {
    let remote = Remote::fresh();
    let Some(endpoint) = &remote.endpoint else {
        return skip("s3_flows", "the remote's URL has no endpoint to put a proxy before");
    };
    let proxy = WireProxy::start(endpoint);
    let through = remote.by(&proxy.endpoint()).with("progress_timeout", "2");
    let wanted = rules.len();
    rules.into_iter().for_each(|rule| proxy.inject(rule));

    let back = tempfile::tempdir().unwrap();
    backup_packed(&open(&through).await, IMAGE.path(), Mirror::Off, PACK).await;
    restore(&open(&through).await, back.path()).await;
    assert!(proxy.broken().len() >= wanted, "{name}: only {:?} were broken", proxy.broken());
    assert_same(&layer_files(IMAGE.path()), &layer_files(back.path()));

    // One copy: the same objects as a backup on a good wire makes.
    let good = Remote::fresh();
    backup_packed(&open(&good).await, IMAGE.path(), Mirror::Off, PACK).await;
    let (there, expected) = (objects(&remote).await, objects(&good).await);
    assert_eq!(there.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{name}");
    let pending = decorated(&remote).await.multipart_list(&KeyPrefix::root()).await.unwrap();
    // A beginning whose answer was lost leaves an upload that nobody knows; a later writer aborts it.
    assert!(pending.len() <= usize::from(name.contains("begins")), "{name}: {pending:?}");
}

fn puts(place: &str, fault: &Fault) -> Rule {
    Rule::new(fault.clone()).of(RequestKind::Put).containing(place)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_whose_answer_is_lost_is_stored_once() {
    // The marker, the claim, the manifest, a payload object, the record.
    let places = [("layerpack.store", 0), ("/log/", 0), ("/manifest/", 0), ("/payload/", 0), ("/log/", 1)];
    for (place, skipped) in places {
        survive(place, vec![puts(place, &Fault::ResetAfter).skipping(skipped)]).await;
    }
    // Silence is waited for as long as a body may take: a minute for that of a payload object, and not tried with it.
    for (place, skipped) in &places[..3] {
        survive(place, vec![puts(place, &Fault::StallAfter).skipping(*skipped)]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_put_may_lose_its_answer() {
    survive("every put", vec![puts("", &Fault::ResetAfter).skipping(1).times(6)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_in_parts_survives() {
    let of = |text: &str, fault: Fault| Rule::new(fault).of(RequestKind::Multipart).containing(text);
    survive("begins", vec![of("uploads", Fault::ResetAfter)]).await;
    for fault in [Fault::ResetAfter, Fault::ResetBefore, Fault::FlipInRequest(1 << 20)] {
        survive("part", vec![of("partNumber=2", fault)]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_whose_answer_is_lost_is_found_out() {
    // It is neither a part nor a beginning: the third kind of request that names the upload.
    let complete =
        Rule::new(Fault::ResetAfter).of(RequestKind::Multipart).containing("uploadId=").skipping(3);
    survive("completion", vec![complete]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_break_off_are_resumed() {
    let gets = |fault: Fault| vec![Rule::new(fault).of(RequestKind::Get).containing("/payload/").times(2)];
    for fault in [Fault::ResetInBody(500_000), Fault::CloseInBody(500_000), Fault::StallInBody(500_000)] {
        survive("read", gets(fault)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_corrupted_are_read_again() {
    for place in ["/payload/", "/log/", "/manifest/"] {
        let corrupt = Rule::new(Fault::FlipInAnswer(1_000)).of(RequestKind::Get).containing(place);
        survive(place, vec![corrupt]).await;
    }
    survive("corrupt puts", vec![puts("/log/", &Fault::FlipInRequest(10)).times(2)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_busy_is_waited_for() {
    let busy = |kind| Rule::new(Fault::error(503, "SlowDown")).of(kind).times(3);
    let kinds = [RequestKind::Put, RequestKind::Get, RequestKind::List, RequestKind::Multipart];
    survive("busy", kinds.map(busy).to_vec()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_not_waited_for_for_ever() {
    let silent = |kind| Rule::new(Fault::StallBefore).of(kind).skipping(1);
    let kinds = [RequestKind::Get, RequestKind::List];
    let flow = survive("silent", kinds.map(silent).to_vec());
    assert!(tokio::time::timeout(Duration::from_secs(60), flow).await.is_ok(), "it waits for ever");
}
