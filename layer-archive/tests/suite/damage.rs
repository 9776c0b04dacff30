//! Every single-bit flip, every truncation and every extension is noticed.

use layer_archive::{BundleChecker, BundleIndex, FormatError, LayerDecoder, LayerEntry, Manifest, TailParse};

use crate::samples;

/// Opens a bundle and reads everything in it.
pub(crate) fn read_everything(object: &[u8]) -> Result<BundleIndex, FormatError> {
    let index = BundleIndex::parse_object(object)?;
    check_frames(&index, object)?;
    Ok(index)
}

/// Compares the frames of `object` with `index`.
fn check_frames(index: &BundleIndex, object: &[u8]) -> Result<(), FormatError> {
    let mut checker = BundleChecker::new(index)?;
    for frame in index.frames() {
        let range = frame.stored_range();
        checker.push_frame(&object[range.start as usize..range.end as usize])?;
    }
    match checker.finish()?.into_iter().next() {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

/// Decodes a layer by nothing but its entry.
pub(crate) fn decode(entry: &LayerEntry, object: &[u8]) -> Result<Vec<u8>, FormatError> {
    let (mut decoder, mut bytes) = (LayerDecoder::new(entry), Vec::new());
    let location = entry.place.location;
    let stored = &object[location.start as usize..location.end() as usize];
    decoder.push(stored, |raw| {
        bytes.extend_from_slice(raw);
        Ok::<_, FormatError>(())
    })?;
    decoder.finish().map(|()| bytes)
}

#[test]
fn every_flipped_bit_of_a_bundle_is_noticed() {
    let packed = samples::record();
    let mut object = packed.object;
    let index = read_everything(&object).unwrap();
    let data_end = object.len() - index.tail_len() as usize;
    for at in 0..object.len() {
        for bit in 0..8 {
            object[at] ^= 1 << bit;
            if at >= data_end {
                assert!(BundleIndex::parse_object(&object).is_err(), "bit {bit} of tail byte {at}");
            } else {
                // The index does not change, so that it need not be parsed a thousand times.
                assert!(check_frames(&index, &object).is_err(), "bit {bit} of data byte {at}");
            }
            object[at] ^= 1 << bit;
        }
    }
    read_everything(&object).unwrap();
}

#[test]
fn every_flipped_bit_of_a_layers_frames_is_noticed_with_its_entry_alone() {
    let packed = samples::record();
    let mut object = packed.object;
    let entries = packed.index.entries(packed.index.origin().bundle);
    let mut covered = 0;
    for at in 0..object.len() as u64 {
        let holds =
            |entry: &&LayerEntry| (entry.place.location.start..entry.place.location.end()).contains(&at);
        let touched: Vec<_> = entries.iter().filter(holds).collect();
        covered += usize::from(!touched.is_empty());
        for bit in 0..8 {
            object[at as usize] ^= 1 << bit;
            for entry in &touched {
                assert!(decode(entry, &object).is_err(), "bit {bit} of byte {at}, layer {}", entry.name);
            }
            object[at as usize] ^= 1 << bit;
        }
    }
    let layer_frames: u64 = packed.index.frames()[..3].iter().map(|frame| u64::from(frame.stored_len)).sum();
    assert_eq!(covered as u64, layer_frames, "the shared frame and two slices");
    for (entry, frame) in entries.iter().zip(packed.index.layers()) {
        assert_eq!(decode(entry, &object).unwrap().len() as u64, frame.raw.size);
    }
}

#[test]
fn every_truncation_of_a_bundle_is_noticed() {
    let object = samples::record().object;
    for len in 0..object.len() {
        assert!(BundleIndex::parse_object(&object[..len]).is_err(), "cut at {len}");
        // An answer that says the right length and comes short.
        match BundleIndex::parse_tail(&object[..len], object.len() as u64) {
            Ok(TailParse::NeedMore(needed)) => assert!(needed > len as u64, "cut at {len}: {needed}"),
            Ok(TailParse::Complete(_)) => panic!("cut at {len}"),
            Err(_) => {}
        }
    }
}

#[test]
fn every_extension_of_a_bundle_is_noticed() {
    let object = samples::record().object;
    let seek_table = &object[object.len() - 17 - 8 * 7..];
    for byte in 0..=u8::MAX {
        assert!(BundleIndex::parse_object(&[&*object, &[byte]].concat()).is_err(), "byte {byte}");
    }
    for extra in [&object[object.len() - 9..], seek_table, &object, &[0; 512]] {
        assert!(BundleIndex::parse_object(&[&*object, extra].concat()).is_err(), "{} bytes", extra.len());
        assert!(BundleIndex::parse_object(&[extra, &*object].concat()).is_err(), "{} in front", extra.len());
    }
}

#[test]
fn every_damage_of_a_manifest_is_noticed() {
    let mut object = samples::manifest().encode().unwrap();
    for at in 0..object.len() {
        for bit in 0..8 {
            object[at] ^= 1 << bit;
            assert!(Manifest::decode(&object).is_err(), "bit {bit} of byte {at}");
            object[at] ^= 1 << bit;
        }
        assert!(Manifest::decode(&object[..at]).is_err(), "cut at {at}");
    }
    for byte in 0..=u8::MAX {
        assert!(Manifest::decode(&[&*object, &[byte]].concat()).is_err(), "byte {byte}");
    }
    assert!(Manifest::decode(&[&*object, &object].concat()).is_err());
    assert_eq!(Manifest::decode(&object).unwrap(), samples::manifest());
}
