//! What a backup and a restore of an image cost on the wire.

use std::path::Path;

use layerpack_tests::{Remote, RequestKind, WireProxy, WireRequest};
use storage_api::conformance::skip;
use sync_engine::Mirror;
use xtask::image::{ImageOptions, Installation, Source, create};

use crate::stores::open;
use crate::support::{assert_same, backup, layer_files, restore};

/// The requests that `work` makes on `remote` through a proxy of its own, kinds that no backup needs excluded.
async fn wire(remote: &Remote, work: impl AsyncFnOnce(&Remote)) -> Option<Vec<WireRequest>> {
    let proxy = WireProxy::start(remote.endpoint.as_deref()?);
    work(&remote.by(&proxy.endpoint())).await;
    let log = proxy.log();
    let noise: Vec<_> =
        log.iter().filter(|request| matches!(request.kind, RequestKind::Head | RequestKind::Other)).collect();
    assert!(noise.is_empty(), "{noise:?}");
    // Nothing was tried twice: a request that fails is none of a backup's but the two that must.
    let failed: Vec<_> = log.iter().filter(|request| request.status >= Some(400)).collect();
    let expected = |request: &&&WireRequest| {
        request.path.ends_with("/layerpack.store") && request.status == Some(404)
            || request.path.ends_with("/layerpack.probe") && request.status == Some(412)
    };
    assert_eq!(failed.iter().filter(expected).count(), failed.len(), "{failed:?}");
    Some(log)
}

async fn back_up(remote: &Remote, image: &Path) {
    backup(&open(remote).await, image, Mirror::Off).await;
}

/// Backs an image up and restores it, within the budgets.
async fn stay_within_budgets(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let (image, back) = (dir.path().join("image"), dir.path().join("back"));
    let summary = create(&ImageOptions { source, seed: 7, progress: |_| {} }, &image).unwrap();

    let remote = Remote::fresh();
    let Some(new) = wire(&remote, async |remote| back_up(remote, &image).await).await else {
        return skip("s3_budgets", "the remote's URL has no endpoint to put a proxy before");
    };
    assert!(new.len() <= 9, "a new store: {new:?}");
    let sent: u64 = new.iter().map(|request| request.bytes_up).sum();
    let record = new.iter().filter(|request| request.path.contains("/log/")).map(|request| request.bytes_up);
    assert!(record.max() < Some(1_000_000), "a record under 1.0 MB");
    assert!(sent < 1_100_000, "{sent} bytes were sent");

    let nothing = wire(&remote, async |remote| back_up(remote, &image).await).await.unwrap();
    assert!(nothing.iter().all(|request| matches!(request.kind, RequestKind::Get | RequestKind::List)));

    let down = wire(&remote, async |remote| {
        restore(&open(remote).await, &back).await;
    });
    let down = down.await.unwrap();
    assert!(down.len() <= 4, "restore: {down:?}");
    assert_same(&layer_files(&image), &layer_files(&back));

    let existing = Remote::fresh();
    drop(open(&existing).await);
    let old = wire(&existing, async |remote| back_up(remote, &image).await).await.unwrap();
    assert!(old.len() <= 6, "an existing store: {old:?}");
    println!(
        "{}: {} layers, {} raw, {sent} bytes up; requests {} new, {} existing, {} restore",
        summary.source,
        summary.layers,
        summary.bytes,
        new.len(),
        old.len(),
        down.len(),
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
            skip("s3_budgets_postgres", error.to_string().lines().next().unwrap_or("no PostgreSQL"));
        }
    }
}
