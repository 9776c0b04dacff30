//! The image of a fresh PostgreSQL cluster: requests, bytes, and every byte back.

use storage_api::RequestCounts;
use sync_engine::Mirror;
use xtask::image::{ImageOptions, Installation, Source, create};

use crate::bench::Bench;
use crate::support::{assert_same, layer_files};

fn options(source: Source) -> ImageOptions {
    ImageOptions { source, seed: 7, progress: |_| {} }
}

/// Backs an image up and restores it, within the budgets.
async fn stay_within_budgets(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let (image, back) = (dir.path().join("image"), dir.path().join("back"));
    let summary = create(&options(source), &image).unwrap();

    let bench = Bench::default();
    let (reports, new) = bench.backup(&image, Mirror::Off).await;
    assert_eq!((reports.len(), reports[0].layers as u64), (1, summary.layers));
    assert_eq!(reports[0].raw_bytes, summary.bytes);
    assert!(new.requests() <= 9, "a new store: {new:?}");

    let objects = bench.objects();
    let len =
        |part: &str| objects.iter().filter(|(key, _)| key.contains(part)).map(|(_, len)| *len).max().unwrap();
    let (record, manifest) = (len("/log/"), len("/manifest/"));
    assert!(record < 1_000_000, "the record has {record} bytes");
    assert!(record + manifest < 1_050_000, "the record has {record} bytes, the manifest {manifest}");

    let (_, nothing) = bench.backup(&image, Mirror::Off).await;
    assert_eq!((nothing.put, nothing.delete, nothing.multipart), (0, 0, 0), "nothing was new");
    assert_eq!(bench.objects(), objects);

    let (restored, down) = bench.restore(&back).await;
    assert!(down.requests() <= 4, "restore: {down:?}");
    assert_eq!(restored[0].layers as u64, summary.layers);
    assert_same(&layer_files(&image), &layer_files(&back));

    let old_store = Bench::default();
    drop(old_store.open().await);
    let (_, old) = old_store.backup(&image, Mirror::Off).await;
    assert!(old.requests() <= 6, "an old store: {old:?}");
    let RequestCounts { bytes_sent, .. } = old;
    println!(
        "{}: {} layers, {} raw, record {record}, manifest {manifest}, sent {bytes_sent}; requests {} new, {} old, {} restore",
        summary.source,
        summary.layers,
        summary.bytes,
        new.requests(),
        old.requests(),
        down.requests(),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synthetic_image_stays_within_the_budgets() {
    stay_within_budgets(Source::Synthetic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_image_stays_within_the_budgets() {
    match Installation::find() {
        Ok(_) => stay_within_budgets(Source::Postgres { pgbench_scale: None }).await,
        Err(error) => {
            xtask::skip("budgets_postgres", error.to_string().lines().next().unwrap_or("no PostgreSQL"));
        }
    }
}
