//! The layers of a manifest as columns.
//!
//! A layer costs its name's new part, 20 bytes of hashes, and little else: the frames are a table of their own,
//! sorted by place, where a range that begins at the end of the one before it costs its length and checksum only;
//! and so are the LSN ranges, of which there are fewer than layers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::column::{Column, from_deltas, to_deltas};
use crate::{
    BundleId, Crc32c, Digest, FormatError, LayerEntry, LayerName, Location, Lsn, LsnRange, Place, RawDigest,
    limits,
};

/// Three tables (extents, LSN ranges, layers), their row counts, and a column per field.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct LayersV1 {
    extents: u32,
    lsn_ranges: u32,
    layers: u32,
    /// Extents: distinct frame ranges, sorted by (bundle, start). Which of the manifest's bundles, as deltas.
    extent_bundle: Column,
    /// Distance from the end of the extent before it, if that is in the same bundle; else from 0. Modulo 2^64.
    extent_gap: Column,
    extent_len: Column,
    extent_crc32c: Vec<u8>,
    /// Distinct LSN ranges, sorted: their starts, as deltas.
    lsn_start: Column,
    lsn_len: Column,
    /// Layers, sorted by name: how many bytes of the name before it a name begins with, and the rest of it.
    name_shared: Column,
    name_rest_len: Column,
    name_rest: Vec<u8>,
    /// Which LSN range, counted from 1, or 0 for none.
    lsn: Column,
    raw_size: Column,
    /// Which extent.
    extent: Column,
    /// Offset of the layer in the plain text of its first frame.
    offset: Column,
    /// The layer's part of the extent's stored bytes plus 1, or 0 for all of them.
    share: Column,
    raw_crc32c: Vec<u8>,
    raw_blake3: Vec<u8>,
}

type ExtentKey = (u32, u64, u64, Crc32c);

fn malformed(why: &str) -> FormatError {
    FormatError::malformed("manifest layers", why)
}

fn count(len: usize) -> Result<u32, FormatError> {
    FormatError::check_limit("layers", len as u64, limits::READ_ROWS_MAX as u64)?;
    u32::try_from(len).map_err(|_| malformed("too many rows"))
}

fn numbers(what: &'static str, column: &Column, rows: u32) -> Result<Vec<u64>, FormatError> {
    column.decode(what, usize::try_from(rows).unwrap_or(usize::MAX))
}

/// The `N`-byte values that lie side by side in `bytes`, of which there must be `rows`.
fn chunks<const N: usize>(bytes: &[u8], rows: u32) -> Result<&[[u8; N]], FormatError> {
    match bytes.as_chunks::<N>() {
        (chunks, []) if chunks.len() as u64 == u64::from(rows) => Ok(chunks),
        _ => Err(malformed("a column that is not as long as the others")),
    }
}

fn narrow(what: &'static str, value: u64) -> Result<u32, FormatError> {
    u32::try_from(value).map_err(|_| FormatError::Limit { what, value, limit: u64::from(u32::MAX) })
}

fn extent_key(layer: &LayerEntry, bundles: &BTreeMap<BundleId, u32>) -> Result<ExtentKey, FormatError> {
    let Location { start, stored_len, crc32c, offset: _ } = layer.place.location;
    let bundle = bundles.get(&layer.place.bundle).ok_or_else(|| malformed("a layer in an unknown bundle"))?;
    Ok((*bundle, start, stored_len, crc32c))
}

/// Numbers the keys in their order.
fn number<K: Ord>(keys: impl IntoIterator<Item = K>) -> BTreeMap<K, u64> {
    let mut numbers: BTreeMap<K, u64> = keys.into_iter().map(|key| (key, 0)).collect();
    for (number, value) in (0..).zip(numbers.values_mut()) {
        *value = number;
    }
    numbers
}

impl LayersV1 {
    /// Columns of `layers`, which are sorted by name; `bundles` numbers the manifest's bundles.
    pub(super) fn encode(
        layers: &[LayerEntry],
        bundles: &BTreeMap<BundleId, u32>,
    ) -> Result<Self, FormatError> {
        let keys: Vec<ExtentKey> =
            layers.iter().map(|layer| extent_key(layer, bundles)).collect::<Result<_, _>>()?;
        let extents = number(keys.iter().copied());
        let ranges = number(layers.iter().filter_map(|layer| layer.lsn_range));
        let mut columns = Self {
            extents: count(extents.len())?,
            lsn_ranges: count(ranges.len())?,
            layers: count(layers.len())?,
            ..Self::default()
        };
        columns.encode_extents(&extents);
        columns.lsn_start = Column::encode(&to_deltas(ranges.keys().map(|range| range.start().0)));
        columns.lsn_len = column(ranges.keys(), |range| range.end().0 - range.start().0);
        columns.encode_names(layers);
        columns.lsn =
            column(layers, |layer| layer.lsn_range.and_then(|range| ranges.get(&range)).map_or(0, |n| n + 1));
        columns.raw_size = column(layers, |layer| layer.raw.size);
        columns.extent = column(&keys, |key| extents.get(key).copied().unwrap_or_default());
        columns.offset = column(layers, |layer| u64::from(layer.place.location.offset));
        columns.share = column(layers, |layer| {
            let whole = layer.stored_bytes == layer.place.location.stored_len;
            if whole { 0 } else { layer.stored_bytes.saturating_add(1) }
        });
        for layer in layers {
            columns.raw_crc32c.extend_from_slice(&layer.raw.crc32c.0.to_le_bytes());
            columns.raw_blake3.extend_from_slice(&layer.raw.blake3.0);
        }
        Ok(columns)
    }

    fn encode_extents(&mut self, extents: &BTreeMap<ExtentKey, u64>) {
        let (mut gaps, mut before) = (Vec::with_capacity(extents.len()), (0, 0));
        for (bundle, start, len, crc32c) in extents.keys() {
            let base = if before.0 == *bundle { before.1 } else { 0 };
            gaps.push(start.wrapping_sub(base));
            self.extent_crc32c.extend_from_slice(&crc32c.0.to_le_bytes());
            before = (*bundle, start.wrapping_add(*len));
        }
        self.extent_bundle = Column::encode(&to_deltas(extents.keys().map(|key| u64::from(key.0))));
        self.extent_gap = Column::encode(&gaps);
        self.extent_len = column(extents.keys(), |key| key.2);
    }

    fn encode_names(&mut self, layers: &[LayerEntry]) {
        let (mut shared_lens, mut rest_lens) = (Vec::new(), Vec::new());
        let mut last = "";
        for layer in layers {
            let name = layer.name.as_str();
            let shared = last.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
            let rest = &name.as_bytes()[shared..];
            shared_lens.push(shared as u64);
            rest_lens.push(rest.len() as u64);
            self.name_rest.extend_from_slice(rest);
            last = name;
        }
        self.name_shared = Column::encode(&shared_lens);
        self.name_rest_len = Column::encode(&rest_lens);
    }

    /// The layers again; `bundles` are the manifest's bundles in order.
    pub(super) fn decode(self, bundles: &[BundleId]) -> Result<Vec<LayerEntry>, FormatError> {
        let rows = self.layers;
        let places = self.decode_extents(bundles)?;
        let ranges = self.decode_lsn_ranges()?;
        let lsns = numbers("LSN column", &self.lsn, rows)?;
        let raw_sizes = numbers("raw size column", &self.raw_size, rows)?;
        let extents = numbers("extent column", &self.extent, rows)?;
        let offsets = numbers("offset column", &self.offset, rows)?;
        let shares = numbers("share column", &self.share, rows)?;
        let (crcs, digests) = (chunks::<4>(&self.raw_crc32c, rows)?, chunks::<16>(&self.raw_blake3, rows)?);
        let mut layers = Vec::with_capacity(raw_sizes.len());
        for (row, name) in self.decode_names()?.into_iter().enumerate() {
            let lsn_range = match lsns[row] {
                0 => None,
                number => Some(*at(&ranges, number - 1, "a layer in no LSN range")?),
            };
            let Place { bundle, location } = *at(&places, extents[row], "a layer in no extent")?;
            let location = Location { offset: narrow("offset", offsets[row])?, ..location };
            let crc32c = Crc32c(u32::from_le_bytes(crcs[row]));
            layers.push(LayerEntry {
                name,
                lsn_range,
                raw: RawDigest { size: raw_sizes[row], crc32c, blake3: Digest(digests[row]) },
                stored_bytes: shares[row].checked_sub(1).unwrap_or(location.stored_len),
                place: Place { bundle, location },
            });
        }
        Ok(layers)
    }

    /// The distinct places, their offsets 0.
    fn decode_extents(&self, bundles: &[BundleId]) -> Result<Vec<Place>, FormatError> {
        let rows = self.extents;
        let owners = from_deltas(numbers("extent bundle column", &self.extent_bundle, rows)?);
        let gaps = numbers("extent gap column", &self.extent_gap, rows)?;
        let lens = numbers("extent length column", &self.extent_len, rows)?;
        let crcs = chunks::<4>(&self.extent_crc32c, rows)?;
        let mut places = Vec::with_capacity(owners.len());
        let mut before: (u64, u64) = (0, 0);
        for (row, crc) in crcs.iter().enumerate() {
            let (owner, stored_len) = (owners[row], lens[row]);
            let base = if before.0 == owner { before.1 } else { 0 };
            let start = base.wrapping_add(gaps[row]);
            let end = start.checked_add(stored_len).ok_or_else(|| malformed("an extent beyond all bytes"))?;
            let bundle = *at(bundles, owner, "an extent in no bundle")?;
            let crc32c = Crc32c(u32::from_le_bytes(*crc));
            places.push(Place { bundle, location: Location { start, stored_len, crc32c, offset: 0 } });
            before = (owner, end);
        }
        Ok(places)
    }

    fn decode_lsn_ranges(&self) -> Result<Vec<LsnRange>, FormatError> {
        let starts = from_deltas(numbers("LSN start column", &self.lsn_start, self.lsn_ranges)?);
        let lens = numbers("LSN length column", &self.lsn_len, self.lsn_ranges)?;
        let range = |(start, len): (u64, u64)| {
            let end = start.checked_add(len).map(Lsn);
            end.and_then(|end| LsnRange::new(Lsn(start), end)).ok_or_else(|| malformed("an empty LSN range"))
        };
        starts.into_iter().zip(lens).map(range).collect()
    }

    fn decode_names(&self) -> Result<Vec<LayerName>, FormatError> {
        let shared_lens = numbers("shared name column", &self.name_shared, self.layers)?;
        let rest_lens = numbers("name column", &self.name_rest_len, self.layers)?;
        let mut names: Vec<LayerName> = Vec::with_capacity(shared_lens.len());
        let mut texts = &*self.name_rest;
        for (shared, rest_len) in shared_lens.into_iter().zip(rest_lens) {
            let last = names.last().map_or(&[][..], |name| name.as_str().as_bytes());
            let shared = usize::try_from(shared).ok().and_then(|len| last.get(..len));
            let split = usize::try_from(rest_len).ok().and_then(|len| texts.split_at_checked(len));
            let (Some(shared), Some((rest, next))) = (shared, split) else {
                return Err(malformed("a name longer than the one before it, or than all names"));
            };
            texts = next;
            FormatError::check_limit("name", (shared.len() + rest.len()) as u64, LayerName::LEN_MAX as u64)?;
            let name =
                String::from_utf8([shared, rest].concat()).map_err(|_| malformed("a name not UTF-8"))?;
            names.push(LayerName::new(name).map_err(|error| malformed(&error.to_string()))?);
        }
        if texts.is_empty() { Ok(names) } else { Err(malformed("more names than layers")) }
    }
}

fn column<T>(rows: impl IntoIterator<Item = T>, value: impl Fn(T) -> u64) -> Column {
    Column::encode(&rows.into_iter().map(value).collect::<Vec<_>>())
}

fn at<'a, T>(table: &'a [T], index: u64, why: &str) -> Result<&'a T, FormatError> {
    usize::try_from(index).ok().and_then(|index| table.get(index)).ok_or_else(|| malformed(why))
}
