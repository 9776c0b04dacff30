//! Manifests come back as they were.

use std::collections::BTreeMap;

use layer_archive::{
    Ancestor, BundleEntry, BundleId, Crc32c, Digest, LayerEntry, LayerName, Location, Lsn, LsnRange,
    Manifest, PayloadId, Place, RawDigest, Seq, Term, TimelineMetadata, limits,
};
use proptest::prelude::*;

use crate::samples;

fn bundle_id() -> impl Strategy<Value = BundleId> {
    prop_oneof![
        any::<u64>().prop_map(|seq| BundleId::Record(Seq(seq))),
        (1u64..50).prop_map(|seq| BundleId::Record(Seq(seq))),
        (any::<u64>(), any::<u64>(), any::<u32>()).prop_map(|(claim, term, number)| {
            BundleId::Payload(PayloadId { claim: Seq(claim), term: Term(term), number })
        }),
    ]
}

fn bundles() -> impl Strategy<Value = Vec<BundleEntry>> {
    let fields = (any::<u64>(), 1u64 << 20..limits::READ_OBJECT_BYTES_MAX, any::<u64>(), any::<u32>());
    prop::collection::btree_map(bundle_id(), fields, 1..12).prop_map(|bundles| {
        let entry = |(id, (named_by, stored_bytes, live_bytes, tail_len))| BundleEntry {
            id,
            named_by: Seq(named_by),
            stored_bytes,
            live_bytes,
            tail_len,
        };
        bundles.into_iter().map(entry).collect()
    })
}

/// Places that are often the same, or side by side.
fn location() -> impl Strategy<Value = Location> {
    let number = || prop_oneof![Just(0u64), Just(100), Just(200), 0u64..1 << 19];
    (number(), number(), 0u32..3, any::<u32>()).prop_map(|(start, stored_len, crc32c, offset)| Location {
        start,
        stored_len,
        crc32c: Crc32c(crc32c),
        offset,
    })
}

fn layers(bundles: Vec<BundleEntry>) -> impl Strategy<Value = Vec<LayerEntry>> {
    let name = prop_oneof!["[ab]{1,9}", "[0-9A-F]{91}", "[0-9]{250,255}", "[äå語]{1,80}"];
    let range = (any::<u64>(), any::<u64>()).prop_map(|(a, b)| LsnRange::new(Lsn(a % 4), Lsn(b)));
    let raw = (0..=limits::LAYER_RAW_BYTES_MAX, any::<u32>(), any::<[u8; 16]>());
    let stored = prop::option::of(any::<u32>());
    let fields = (range, raw, prop::sample::select(bundles), location(), stored);
    prop::collection::btree_map(name, fields, 0..40).prop_map(|layers: BTreeMap<String, _>| {
        let entry = |(name, (lsn_range, (size, crc32c, blake3), bundle, location, stored)): (
            _,
            (_, _, BundleEntry, Location, Option<u32>),
        )| LayerEntry {
            name: LayerName::new(name as String).unwrap(),
            lsn_range,
            raw: RawDigest { size, crc32c: Crc32c(crc32c), blake3: Digest(blake3) },
            place: Place { bundle: bundle.id, location },
            stored_bytes: stored.map_or(location.stored_len, u64::from),
        };
        layers.into_iter().map(entry).collect()
    })
}

fn manifest() -> impl Strategy<Value = Manifest> {
    let state = bundles().prop_flat_map(|bundles| (Just(bundles.clone()), layers(bundles)));
    (state, any::<(u64, u64, bool, bool)>(), prop::option::of(prop::collection::vec(any::<u8>(), 0..99)))
        .prop_map(|((bundles, layers), (seq, term, released, deleted), metadata)| Manifest {
            seq: Seq(seq),
            term: Term(term),
            released,
            deleted,
            metadata: metadata.map(|bytes| TimelineMetadata { file_name: samples::name("metadata"), bytes }),
            ancestor: released
                .then(|| Ancestor { timeline: samples::PARENT.parse().unwrap(), lsn: Lsn(term) }),
            bundles,
            layers,
            ..samples::manifest()
        })
}

proptest! {
    #[test]
    fn what_is_encoded_comes_back(manifest in manifest()) {
        let object = manifest.encode().unwrap();
        prop_assert_eq!(&Manifest::decode(&object).unwrap(), &manifest);
        prop_assert_eq!(manifest.encode().unwrap(), object);
    }
}

#[test]
fn states_that_contradict_themselves_are_not_written() {
    let good = samples::manifest();
    good.encode().unwrap();
    let refused = |edit: &dyn Fn(&mut Manifest), why: &str| {
        let mut bad = good.clone();
        edit(&mut bad);
        let error = bad.encode().unwrap_err().to_string();
        assert!(error.contains(why), "{error:?} does not say {why:?}");
    };
    refused(&|bad| bad.layers.swap(0, 1), "not sorted");
    refused(&|bad| bad.layers[1].name = bad.layers[0].name.clone(), "two have one name");
    refused(&|bad| bad.bundles.swap(0, 1), "not sorted");
    refused(&|bad| bad.branch_points.swap(0, 1), "not sorted");
    refused(&|bad| bad.layers[0].place.bundle = BundleId::Record(Seq(77)), "not listed");
    refused(&|bad| bad.layers[0].place.location.start = 4_001, "outside its bundle");
    refused(&|bad| bad.layers[0].place.location.start = u64::MAX, "end of a layer");
    refused(&|bad| bad.layers[0].raw.size = u64::MAX, "layer is");
    refused(&|bad| bad.metadata.as_mut().unwrap().bytes = vec![0; 65_537], "timeline metadata");
}

#[test]
fn a_bundle_is_found_by_its_id() {
    let manifest = samples::manifest();
    for bundle in &manifest.bundles {
        assert_eq!(manifest.bundle(bundle.id), Some(bundle));
    }
    assert_eq!(manifest.bundle(BundleId::Record(Seq(1))), None);
}
