//! A timeline of 26,690 layers, as a large one of the fleet has, that arrive five at a time: what its index costs while
//! it grows, and what opening it costs.

use std::sync::Arc;

use layer_archive::{
    BundleWriter, FrameCompressor, LayerName, Level, PackedLayer, RawDigest, WriterInfo, limits,
    member_header, padding_len,
};
use pageserver_glue::ParsedLayerName;
use storage_api::{KeyPrefix, MemoryStore, Metered, ObjectStoreExt, SystemClock};
use sync_engine::{Draft, Store, TimelineView, TimelineWriter, WriterOptions};
use xtask::image::generated_names;

const LAYERS: u32 = 26_690;
const LAYERS_A_CHECKPOINT: usize = 5;

/// A bundle of empty-handed layers: what is measured is what is said of layers, not they.
fn checkpoint(names: &[String], compressor: &mut FrameCompressor) -> BundleWriter {
    let mut bundle = BundleWriter::new();
    let (mut plain, mut layers) = (Vec::new(), Vec::new());
    for name in names {
        // Different contents, so that the digests cost what they cost.
        let bytes = name.as_bytes();
        let parsed: ParsedLayerName = name.parse().unwrap();
        let layer = LayerName::new(name.clone()).unwrap();
        plain.extend(member_header(&layer, bytes.len() as u64).unwrap());
        plain.extend(bytes);
        plain.resize(plain.len() + padding_len(bytes.len() as u64), 0);
        let (lsn_range, raw) = (Some(parsed.lsn_range()), RawDigest::of(bytes));
        layers.push(PackedLayer { name: layer, lsn_range, raw });
    }
    bundle.push_frame(&compressor.compress(&plain, Level::DELTA).unwrap()).unwrap();
    for layer in layers {
        bundle.push_layer(layer).unwrap();
    }
    bundle
}

#[tokio::test]
async fn an_index_that_grows_in_small_steps_costs_little_and_is_opened_with_few_requests() {
    let memory = Arc::new(MemoryStore::new());
    let objects = Arc::new(Metered::new(Arc::clone(&memory)));
    let metrics = Arc::clone(objects.metrics());
    let (store, _) = Store::open_or_create(objects, "memory").await.unwrap();
    let (tenant, timeline) = (
        "0000000000000000000000000000000a".parse().unwrap(),
        "0000000000000000000000000000000b".parse().unwrap(),
    );
    let writer = WriterInfo { host: "host".into(), pid: 1, program: "tests".into() };
    let options = WriterOptions { writer, generation: None, clock: Arc::new(SystemClock) };
    let view = TimelineView::open(&store, &tenant, &timeline, None).await.unwrap();
    let mut writer = TimelineWriter::claim(&store, view, options).await.unwrap();
    let names = generated_names(LAYERS, 1);
    let mut compressor = FrameCompressor::new().unwrap();
    let (before, mut index_bytes, mut manifests) = (metrics.snapshot(), 0, 0);
    for names in names.chunks(LAYERS_A_CHECKPOINT) {
        let record = writer.append(Draft::default(), checkpoint(names, &mut compressor)).await.unwrap();
        index_bytes += record.tail_len();
        if let Some(manifest) = writer.put_manifest_if_due().await.unwrap() {
            index_bytes += manifest.stored_bytes;
            manifests += 1;
        }
    }
    let released = Draft { released: true, ..Draft::default() };
    writer.append(released, BundleWriter::new()).await.unwrap();
    if let Some(manifest) = writer.detach().await.unwrap() {
        index_bytes += manifest.stored_bytes;
        manifests += 1;
    }
    let written = metrics.snapshot().since(&before);
    let checkpoints = names.len().div_ceil(LAYERS_A_CHECKPOINT) as u64;
    assert_eq!(written.put, checkpoints + 1 + manifests, "a checkpoint is one request");
    assert_eq!(written.requests(), written.put);
    assert!(index_bytes < 20_000_000, "{index_bytes} bytes of index");

    // More than a page of the list: three of them, one manifest, and a small GET for each record since.
    let before = metrics.snapshot();
    let view = TimelineView::open_existing(&store, &tenant, &timeline, None).await.unwrap();
    let opened = metrics.snapshot().since(&before);
    let manifest = view.manifest.unwrap();
    assert_eq!(view.state.layers().len(), names.len());
    assert!(manifest.stored_bytes < 1_400_000, "the manifest has {} bytes", manifest.stored_bytes);
    // Whoever has replayed something lists the manifests once more.
    let lists = 3 + u64::from(view.replayed > 0);
    assert_eq!((opened.list, opened.get), (lists, 1 + view.replayed), "{opened:?}");
    let tails = view.replayed * limits::TAIL_READ_BYTES;
    assert!(opened.bytes_received < 1_400_000 + tails);
    let objects = memory.list_all(&KeyPrefix::root()).await.unwrap().len();
    println!(
        "{} layers in {checkpoints} checkpoints: {index_bytes} bytes of index, {manifests} manifests, {objects} objects; \
         opened with {} requests, {} bytes, a manifest of {}, {} records replayed",
        names.len(),
        opened.requests(),
        opened.bytes_received,
        manifest.stored_bytes,
        view.replayed,
    );
}
