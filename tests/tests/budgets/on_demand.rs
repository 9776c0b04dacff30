//! One layer, and one page, of a timeline that is in the store.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use pageserver_glue::WorkDir;
use sync_engine::{DurableDir, Mirror, TimelineReader, TimelineView};

use crate::bench::Bench;
use crate::support::timelines;

const PAGE_BYTES: u64 = 8192;
const LARGE_LAYER_BYTES: u64 = 64 << 20;
const TIMELINE: &str = "tenants/1f8ae1ef8989d5601e73fd13ae3dcd26/timelines/88a4e0f55d55008138697fa10e7d97d3";

/// Bytes that compress to about half, no two pages alike.
fn pages(bytes: u64) -> Vec<u8> {
    let mut state = 1u64;
    let word = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 32) & 0xffff_ffff).to_le_bytes()
    };
    (0..bytes / 8).flat_map(word).collect()
}

#[expect(clippy::disallowed_methods, reason = "test data need not survive a crash")]
fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_layer_is_one_ranged_get_and_a_page_of_a_large_one_is_little() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let large = pages(LARGE_LAYER_BYTES);
    put(&image.join(TIMELINE).join("large"), &large);
    for number in 0..200usize {
        put(&image.join(TIMELINE).join(format!("small-{number:03}")), &large[..3000 + 50 * number]);
    }
    let bench = Bench::default();
    bench.backup(&image, Mirror::Off).await;
    let (tenant, timeline) = timelines(&WorkDir::open(&image).unwrap()).remove(0);

    // A page, with nothing cached: opening the store and the timeline is in the count.
    let opened = bench.open().await;
    let view = TimelineView::open_existing(&opened.store, &tenant, &timeline, None).await.unwrap();
    // With nothing cached.
    let reader = || TimelineReader::new(&opened.store, view.clone(), Arc::default());
    let name = "large".parse().unwrap();
    for page in [0, 4097, LARGE_LAYER_BYTES / PAGE_BYTES - 1] {
        let before = opened.counts();
        let range = page * PAGE_BYTES..(page + 1) * PAGE_BYTES;
        let read = reader().read_at(&name, range.clone()).await.unwrap();
        let at = usize::try_from(range.start).unwrap();
        assert!(read == large[at..at + read.len()] && read.len() as u64 == PAGE_BYTES, "page {page}");
        let cost = opened.counts().since(&before);
        assert!(cost.requests() <= 2 && cost.get == cost.requests(), "page {page}: {cost:?}");
        let opening = before.bytes_received * u64::from(page == 0);
        let bytes = cost.bytes_received + opening;
        assert!(bytes < 400_000, "page {page}: {bytes} bytes");
        println!("page {page}: {} requests, {bytes} bytes", cost.requests());
    }

    // A layer, the timeline being open.
    let target = DurableDir::create(dir.path().join("fetched")).unwrap();
    for name in ["large", "small-000", "small-123"] {
        let entry = &view.state.layers()[&name.parse().unwrap()];
        let before = opened.counts();
        reader().fetch(&entry.name, &target, &Arc::default()).await.unwrap();
        let cost = opened.counts().since(&before);
        assert_eq!((cost.requests(), cost.get), (1, 1), "{name}: {cost:?}");
        assert_eq!(cost.bytes_received, entry.place.location.stored_len);
        let fetched = fs::read(target.path().join(name)).unwrap();
        assert!(fetched == fs::read(image.join(TIMELINE).join(name)).unwrap(), "{name} differs");
    }
}
