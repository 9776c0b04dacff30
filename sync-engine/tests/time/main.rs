//! Points in time, copies, deletion and repair: one binary, a module a subject.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ancestry;
#[expect(dead_code, reason = "shared with the collector's tests, which use the rest")]
#[path = "../gc/bench.rs"]
mod bench;
mod copy;
mod copy_branches;
mod copy_tenant;
mod delete;
mod family;
mod never_begun;
mod past;
mod points;
mod rebuild;
mod repair;
#[expect(dead_code, reason = "shared with the collector's tests, which use the rest")]
#[path = "../gc/spy.rs"]
mod spy;
#[expect(dead_code, reason = "shared with the engine's tests, which use the rest")]
#[path = "../engine/support/mod.rs"]
mod support;
mod uncommitted;

use std::sync::Arc;

use layer_archive::{BundleWriter, Lsn, TimelineMetadata};
use storage_api::ObjectStore;
use sync_engine::{Draft, TimelineWriter};

use crate::bench::{Bench, append};
use crate::spy::{Fate, Spy};
use crate::support::name;

/// Appends a record with metadata at an LSN.
async fn put_metadata(writer: &mut TimelineWriter, lsn: u64) {
    let metadata = TimelineMetadata { file_name: name("metadata"), bytes: lsn.to_be_bytes().to_vec() };
    let (metadata, disk_consistent_lsn) = (Some(metadata), Some(Lsn(lsn)));
    let draft = Draft { metadata, disk_consistent_lsn, ..Draft::default() };
    writer.append(draft, BundleWriter::new()).await.unwrap();
}

/// A timeline with three records of layers, a payload object, removals and metadata, released, with a manifest.
async fn lived() -> Bench {
    let mut bench = Bench::new().await;
    let mut writer = bench.writer("first").await;
    for record in 0..3 {
        let layers: Vec<(String, Vec<u8>)> = [4000, 4500, 5000, 5500, 6000, 6500]
            .into_iter()
            .zip(0..)
            .map(|(len, n)| (format!("{record}-{n}"), support::contents(record * 10 + n, len)))
            .collect();
        let add: Vec<(&str, &[u8])> = layers.iter().map(|(layer, bytes)| (&**layer, &**bytes)).collect();
        bench.commit(&mut writer, &add, &[]).await;
    }
    let large = support::contents(99, 90_000);
    let (payload, added) = bench::put_payload(&mut writer, &[("large", &large)]).await;
    let draft = Draft { payloads: vec![payload], added, ..Draft::default() };
    writer.append(draft, BundleWriter::new()).await.unwrap();
    bench.layers.insert("large".into(), large);
    bench.commit(&mut writer, &[], &["0-0", "1-0"]).await;
    put_metadata(&mut writer, 70).await;
    bench.release(writer).await;
    bench
}

/// More records behind the manifest of [`lived`], the last of which releases.
async fn went_on(bench: &mut Bench) {
    let mut writer = bench.writer("second").await;
    let bytes = support::contents(200, 7000);
    append(&mut writer, &[("later", &bytes)], &["2-1"]).await.unwrap();
    bench.layers.insert("later".into(), bytes);
    bench.layers.remove("2-1");
    put_metadata(&mut writer, 80).await;
    writer.append(Draft { released: true, ..Draft::default() }, BundleWriter::new()).await.unwrap();
}

/// Adds a layer and removes it, so that there is something worth collecting.
async fn churned(bench: &mut Bench) {
    let mut writer = bench.writer("third").await;
    bench.commit(&mut writer, &[("short-lived", &support::contents(300, 50_000))], &[]).await;
    bench.commit(&mut writer, &[], &["short-lived"]).await;
    bench.release(writer).await;
}

/// A store that dies at request number `at` and stays dead.
fn killed_at(objects: &Arc<dyn ObjectStore>, at: usize, fate: Fate) -> Arc<Spy> {
    let mut number = 0;
    Spy::new(objects, move |_, _| {
        number += 1;
        match number - 1 {
            n if n < at => Fate::Done,
            n if n == at => fate.clone(),
            _ => Fate::Lost,
        }
    })
}
