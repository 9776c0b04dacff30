//! A column of numbers as byte planes.

use serde::{Deserialize, Serialize};

use crate::{FormatError, limits};

/// Numbers as a byte that says in how many bytes each of them fits, then the lowest byte of every number, then the
/// second lowest of every number, and so on.
///
/// Bytes of one significance are alike, whatever the numbers: that is what zstd's entropy coder needs. Columns of
/// zeros cost nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Column(Vec<u8>);

impl Column {
    pub(super) fn encode(values: &[u64]) -> Self {
        let all_bits = values.iter().fold(0, |bits, value| bits | value);
        let width = (u64::BITS - all_bits.leading_zeros()).div_ceil(8);
        let mut bytes = Vec::with_capacity(1 + width as usize * values.len());
        bytes.push(width.to_le_bytes()[0]);
        for plane in 0..width as usize {
            bytes.extend(values.iter().map(|value| value.to_le_bytes()[plane]));
        }
        Self(bytes)
    }

    /// The numbers, of which there must be `count`.
    pub(super) fn decode(&self, what: &'static str, count: usize) -> Result<Vec<u64>, FormatError> {
        FormatError::check_limit(what, count as u64, limits::READ_ROWS_MAX as u64)?;
        let wrong = || FormatError::malformed(what, "a column that is not as long as the others");
        let (width, planes) = self.0.split_first().ok_or_else(wrong)?;
        if *width > 8 || planes.len() != usize::from(*width) * count {
            return Err(wrong());
        }
        let mut values = vec![0; count];
        if count == 0 {
            return Ok(values);
        }
        for (shift, plane) in (0..).step_by(8).zip(planes.chunks_exact(count)) {
            for (value, byte) in values.iter_mut().zip(plane) {
                *value |= u64::from(*byte) << shift;
            }
        }
        Ok(values)
    }
}

/// Numbers that mostly grow, as the distance of each from the one before, the first from 0; modulo 2^64.
pub(super) fn to_deltas(values: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let mut last = 0;
    values.into_iter().map(|value| value.wrapping_sub(std::mem::replace(&mut last, value))).collect()
}

/// What [`to_deltas`] was given.
pub(super) fn from_deltas(deltas: Vec<u64>) -> Vec<u64> {
    let mut last = 0u64;
    deltas
        .into_iter()
        .map(|delta| {
            last = last.wrapping_add(delta);
            last
        })
        .collect()
}
