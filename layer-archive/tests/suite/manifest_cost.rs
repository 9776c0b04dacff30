//! What a manifest costs for each layer, on names and sizes like those of real timelines.

use std::collections::BTreeSet;
use std::time::Instant;

use layer_archive::{
    BundleEntry, BundleId, Crc32c, Digest, Epoch, LayerEntry, LayerName, Location, Lsn, LsnRange, Manifest,
    Place, RawDigest, Seq, Term, UnixMillis, WriterInfo,
};

/// A small generator of numbers that are always the same.
struct Numbers(u64);

impl Numbers {
    /// The next number: splitmix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// About log-normal: the sum of twelve even numbers is nearly normal.
    fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        let normal: f64 = (0..12).map(|_| self.below(1 << 24) as f64 / f64::from(1 << 24)).sum::<f64>() - 6.0;
        median * (sigma * normal).exp()
    }

    fn digest(&mut self) -> Digest {
        Digest((u128::from(self.next()) << 64 | u128::from(self.next())).to_le_bytes())
    }
}

/// The key of block `block` of relation `relation`, as pageservers write it.
fn key(relation: u64, block: u64) -> String {
    format!("000000067F00000005{relation:08X}{:010X}", block)
}

/// Layers of a timeline that is written for long: 5 layers to a record, images and deltas over some hundred LSNs.
fn long_timeline(layers: usize) -> Manifest {
    let mut numbers = Numbers(1);
    let mut lsns: Vec<u64> = (0..400).map(|_| 0x0150_0000 + numbers.below(1 << 32)).collect();
    lsns.sort_unstable();
    let mut names = BTreeSet::new();
    let mut named = Vec::new();
    let mut step = 0;
    while names.len() < layers {
        let relation = 0x4014_0000 + numbers.below(600) * 0x100;
        let (from, to) = (numbers.below(1 << 16), 0x1_0000 + numbers.below(1 << 16));
        let at = (step / 5) * lsns.len() / layers.div_ceil(5);
        let at = at.min(lsns.len() - 2);
        step += 1;
        let keys = format!("{}-{}", key(relation, from), key(relation, to));
        let (name, range) = if numbers.below(3) == 0 {
            (format!("{keys}__{:016X}-v1-00000002", lsns[at]), LsnRange::at(Lsn(lsns[at])))
        } else {
            let (start, end) = (lsns[at], lsns[at + 1]);
            (format!("{keys}__{start:016X}-{end:016X}-v1-00000001"), LsnRange::new(Lsn(start), Lsn(end)))
        };
        if names.insert(name.clone()) {
            named.push((name, range));
        }
    }
    manifest(named, 5, |numbers| numbers.log_normal(2e6, 2.0) as u64 / 8192 * 8192, &mut numbers)
}

/// Packs the layers, `per_record` to a record, as the engine would: small ones share the record's first frame.
fn manifest(
    named: Vec<(String, Option<LsnRange>)>,
    per_record: usize,
    size: impl Fn(&mut Numbers) -> u64,
    numbers: &mut Numbers,
) -> Manifest {
    let (mut layers, mut bundles) = (Vec::new(), Vec::new());
    for (seq, chunk) in (2..).zip(named.chunks(per_record)) {
        let id = BundleId::Record(Seq(seq));
        let shared = (60_000 + numbers.below(60_000), Crc32c(numbers.next() as u32));
        let mut end = shared.0;
        let mut offset = 1536;
        for (name, lsn_range) in chunk {
            let size = size(numbers);
            let small = size <= 256 << 10;
            let location = if small {
                Location { start: 0, stored_len: shared.0, crc32c: shared.1, offset }
            } else {
                let stored_len = size / 3 + numbers.below(1 + size / 8);
                let start = end;
                end += stored_len;
                Location { start, stored_len, crc32c: Crc32c(numbers.next() as u32), offset: 1536 }
            };
            if small {
                offset += size as u32 + 1536;
            }
            let raw = RawDigest { size, crc32c: Crc32c(numbers.next() as u32), blake3: numbers.digest() };
            let stored_bytes =
                if small { location.stored_len * size / (1 << 20) } else { location.stored_len };
            let place = Place { bundle: id, location };
            let name = LayerName::new(name.clone()).unwrap();
            layers.push(LayerEntry { name, lsn_range: *lsn_range, raw, place, stored_bytes });
        }
        let tail_len = 700 + numbers.below(200) as u32;
        let stored_bytes = end + 200 + u64::from(tail_len);
        bundles.push(BundleEntry { id, named_by: Seq(seq), stored_bytes, live_bytes: end, tail_len });
    }
    layers.sort_by(|a, b| a.name.cmp(&b.name));
    Manifest {
        tenant: "1f8ae1ef8989d5601e73fd13ae3dcd26".parse().unwrap(),
        timeline: "2f8ae1ef8989d5601e73fd13ae3dcd26".parse().unwrap(),
        seq: Seq(bundles.len() as u64 + 1),
        history: numbers.digest(),
        claim: Seq(1),
        term: Term(numbers.next()),
        epoch: Epoch(1),
        generation: None,
        writer: WriterInfo { host: "pageserver-1".into(), pid: 4242, program: "layerpack 0.1.0".into() },
        time: UnixMillis(1_700_000_000_000),
        released: false,
        deleted: false,
        metadata: None,
        disk_consistent_lsn: Some(Lsn(0x1_5000_0000)),
        ancestor: None,
        branch_points: Vec::new(),
        bundles,
        layers,
    }
}

/// Bytes of the encoded manifest; its times go to the output.
#[expect(clippy::disallowed_methods, reason = "the times are only shown")]
fn cost(what: &str, manifest: &Manifest) -> usize {
    let started = Instant::now();
    let object = manifest.encode().unwrap();
    let encoded = started.elapsed();
    let started = Instant::now();
    assert_eq!(&Manifest::decode(&object).unwrap(), manifest);
    let decoded = started.elapsed();
    let each = object.len() as f64 / manifest.layers.len() as f64;
    println!(
        "{what}: {} layers, {} bytes, {each:.1} a layer, {encoded:?} to encode, {decoded:?} to decode",
        manifest.layers.len(),
        object.len()
    );
    object.len()
}

#[test]
fn a_manifest_of_26_690_layers_takes_at_most_48_bytes_a_layer() {
    let manifest = long_timeline(26_690);
    assert_eq!(manifest.bundles.len(), 5_338);
    assert!(cost("long timeline", &manifest) <= 48 * 26_690);
}

#[test]
fn a_manifest_of_a_fresh_cluster_is_a_small_part_of_it() {
    let mut numbers = Numbers(2);
    let named = (0..954u64)
        .map(|n| {
            let (database, relation) = ([1, 13_989, 13_990][n as usize % 3], 1_200 + n / 3 * 7);
            let lsn = 0x0169_C348;
            (format!("rel_1663_{database}_{relation}_0_0_{lsn:016X}"), LsnRange::at(Lsn(lsn)))
        })
        .collect();
    let size = |numbers: &mut Numbers| [0, 8192, 8192, 8192, 16_384, 32_768][numbers.below(6) as usize];
    let manifest = manifest(named, 954, size, &mut numbers);
    assert!(cost("fresh cluster", &manifest) <= 48 * 954);
}
