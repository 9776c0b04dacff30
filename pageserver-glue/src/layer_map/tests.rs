//! The map against a model that looks at one key and one LSN at a time.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// So few keys and LSNs that the layers meet.
const KEYS: u8 = 8;
const LSNS: u64 = 12;

fn key(number: u8) -> LayerKey {
    let mut key = LayerKey::MIN;
    key.0[17] = number;
    key
}

fn keys(range: std::ops::Range<u8>) -> KeyRange {
    KeyRange::new(key(range.start)..key(range.end)).unwrap()
}

fn image(range: std::ops::Range<u8>, lsn: u64) -> LayerName {
    LayerName::new(format!("{}-{}__{lsn:016X}-v1-00000001", key(range.start), key(range.end))).unwrap()
}

fn delta(range: std::ops::Range<u8>, lsns: std::ops::Range<u64>) -> LayerName {
    let (start, end) = (key(range.start), key(range.end));
    LayerName::new(format!("{start}-{end}__{:016X}-{:016X}-v1-00000001", lsns.start, lsns.end)).unwrap()
}

/// A layer of the model.
#[derive(Clone, Debug)]
struct Layer {
    keys: std::ops::Range<u8>,
    lsns: std::ops::Range<u64>,
    is_image: bool,
}

impl Layer {
    fn name(&self) -> LayerName {
        match self.is_image {
            true => image(self.keys.clone(), self.lsns.start),
            false => delta(self.keys.clone(), self.lsns.clone()),
        }
    }
}

fn layers() -> impl Strategy<Value = Vec<Layer>> {
    let layer = (0..KEYS, 1..=KEYS, 1..LSNS, 1..LSNS, any::<bool>()).prop_map(
        |(from, width, lsn, height, is_image)| Layer {
            keys: from..from.saturating_add(width).min(KEYS),
            lsns: lsn..if is_image { lsn + 1 } else { (lsn + height).min(LSNS) },
            is_image,
        },
    );
    let layer = layer.prop_filter("a layer that holds something", |layer| {
        !layer.keys.is_empty() && !layer.lsns.is_empty()
    });
    prop::collection::vec(layer, 0..14)
}

/// What a read needs, found by going down from its LSN, one at a time, until an image has the rest.
fn model_read(layers: &[Layer], key: u8, lsn: u64) -> (Option<LayerName>, BTreeSet<LayerName>) {
    let mut deltas = BTreeSet::new();
    for at in (0..=lsn).rev() {
        let here = |layer: &&Layer| layer.keys.contains(&key) && layer.lsns.contains(&at);
        let images = layers.iter().filter(here).filter(|layer| layer.is_image).map(Layer::name);
        if let Some(image) = images.max() {
            return (Some(image), deltas);
        }
        deltas.extend(layers.iter().filter(here).filter(|layer| !layer.is_image).map(Layer::name));
    }
    (None, deltas)
}

/// Whether other layers of its kind hold all of it, found one key and one LSN at a time.
fn model_holds(layers: &[Layer], layer: &Layer) -> bool {
    let is_there = |key: u8, lsn: u64| {
        layers.iter().any(|other| {
            other.is_image == layer.is_image
                && other.name() != layer.name()
                && other.keys.contains(&key)
                && other.lsns.contains(&lsn)
        })
    };
    layer.keys.clone().all(|key| layer.lsns.clone().all(|lsn| is_there(key, lsn)))
}

fn found(layers: &ReadLayers<'_>) -> (Option<LayerName>, BTreeSet<LayerName>) {
    (layers.image.cloned(), layers.deltas.iter().copied().cloned().collect())
}

proptest! {
    #[test]
    fn a_read_needs_what_a_walk_down_from_its_lsn_meets(layers in layers(), lsn in 0..LSNS) {
        let names: Vec<LayerName> = layers.iter().map(Layer::name).collect();
        let map = LayerMap::new(&names);
        let parts = map.read_range(keys(0..KEYS), lsn_of(lsn));
        for number in 0..KEYS {
            let expected = model_read(&layers, number, lsn);
            prop_assert_eq!(&found(&map.read_key(key(number), lsn_of(lsn))), &expected);
            let part = parts.iter().filter(|part| part.keys.contains(key(number))).collect::<Vec<_>>();
            prop_assert_eq!(part.len(), 1);
            prop_assert_eq!(&found(&part[0].layers), &expected);
        }
        for pair in parts.windows(2) {
            prop_assert_eq!(pair[0].keys.end(), pair[1].keys.start());
            prop_assert_ne!(&pair[0].layers, &pair[1].layers);
        }
    }

    #[test]
    fn what_a_layer_holds_is_in_others_where_every_cell_of_it_is(layers in layers()) {
        let names: Vec<LayerName> = layers.iter().map(Layer::name).collect();
        let map = LayerMap::new(&names);
        for layer in &layers {
            prop_assert_eq!(map.holds(&layer.name()), model_holds(&layers, layer), "{:?}", layer);
        }
    }
}

fn lsn_of(lsn: u64) -> Lsn {
    Lsn(lsn)
}

fn name(text: &str) -> LayerName {
    LayerName::new(text).unwrap()
}

#[test]
fn what_compaction_leaves_is_held_and_what_was_collected_is_not() {
    // Three flushes of all keys are written anew as two halves of the keys.
    let left = [delta(0..4, 10..40), delta(4..8, 10..40), image(0..8, 40)];
    let map = LayerMap::new(&left);
    for flushed in [delta(0..8, 10..20), delta(0..8, 20..30), delta(0..8, 30..40)] {
        assert!(map.holds(&flushed));
    }
    // A read at 40 or later has no need of these; a branch at 5 has.
    assert!(!map.holds(&delta(0..8, 1..10)));
    assert!(!map.holds(&image(0..8, 5)));
    assert!(!map.holds(&name("of another time")));
    // An image that was cut in two.
    assert!(LayerMap::new(&[image(0..3, 5), image(3..8, 5)]).holds(&image(0..8, 5)));
    assert!(!LayerMap::new(&[image(0..3, 5), image(4..8, 5)]).holds(&image(0..8, 5)));
    // A layer does not hold itself.
    assert!(!LayerMap::new(&[image(0..3, 5)]).holds(&image(0..3, 5)));
}

#[test]
fn per_relation_names_are_read_by_segment_and_opaque_ones_always() {
    let relation = "rel_1663_13010_2610_0_0";
    let other = "rel_1663_13010_2610_0_1_00000000014FED58";
    let [first, second] = [format!("{relation}_00000000014FED58"), format!("{relation}_0000000001600000")];
    let [early, late] = [
        format!("{relation}_00000000014FED58_0000000001580000"),
        format!("{relation}_0000000001600000_0000000001700000"),
    ];
    let names: Vec<LayerName> =
        [&*first, &second, &early, &late, other, "opaque"].into_iter().map(name).collect();
    let map = LayerMap::new(&names);
    assert_eq!(map.opaque().map(LayerName::as_str).collect::<Vec<_>>(), ["opaque"]);
    let Ok(ParsedLayerName::Relish(parsed)) = first.parse() else { panic!("{first}") };
    let read = |lsn| found(&map.read_segment(&parsed, Lsn(lsn)));
    assert_eq!(read(0x0150_0000), (Some(name(&first)), BTreeSet::from([name(&early)])));
    assert_eq!(read(0x0165_0000), (Some(name(&second)), BTreeSet::from([name(&late)])));
    assert_eq!(read(0x0100_0000), (None, BTreeSet::new()));
    assert!(!map.holds(&name(&first)));
    let whole = format!("{relation}_0000000001500000_0000000001570000");
    assert!(map.holds(&name(&whole)), "a part of another delta");
}
