//! Numbers of a fixed width and spelling, so that a name has one reading and a reading one name.

use layer_archive::Lsn;

/// How many hex digits spell an LSN.
pub(super) const LSN_DIGITS: usize = 16;

/// The value of one upper-case hex digit.
pub(super) fn upper_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// The LSN that exactly 16 upper-case hex digits spell.
pub(super) fn lsn(digits: &str) -> Option<Lsn> {
    (digits.len() == LSN_DIGITS && is_upper(digits)).then(|| u64::from_str_radix(digits, 16).ok().map(Lsn))?
}

/// The number that exactly 8 lower-case hex digits spell.
pub(super) fn lower_u32(digits: &str) -> Option<u32> {
    let lower = digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    (digits.len() == 8 && lower).then(|| u32::from_str_radix(digits, 16).ok())?
}

/// The number that at least 4 upper-case hex digits spell, with no more leading zeros than that takes.
pub(super) fn padded_u32(digits: &str) -> Option<u32> {
    let canonical = digits.len() == 4 || (digits.len() > 4 && !digits.starts_with('0'));
    (canonical && is_upper(digits)).then(|| u32::from_str_radix(digits, 16).ok())?
}

/// The number that decimal digits spell without leading zeros or a sign.
pub(super) fn decimal<T: std::str::FromStr>(digits: &str) -> Option<T> {
    let canonical = digits == "0" || !digits.starts_with('0');
    (canonical && digits.bytes().all(|digit| digit.is_ascii_digit())).then(|| digits.parse().ok())?
}

fn is_upper(digits: &str) -> bool {
    digits.bytes().all(|digit| upper_digit(digit).is_some())
}
