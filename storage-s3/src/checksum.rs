//! CRC32C as S3 writes it: base64 of its four bytes, the high one first.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use storage_api::Crc32c;

pub(crate) fn encode(crc32c: Crc32c) -> String {
    STANDARD.encode(crc32c.0.to_be_bytes())
}

/// The checksum of a whole object; `None` for what is none, a checksum of the parts' checksums (`...-3`) for one.
pub(crate) fn decode(text: Option<&str>) -> Option<Crc32c> {
    let bytes = STANDARD.decode(text?).ok()?;
    Some(Crc32c(u32::from_be_bytes(bytes.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_written_as_s3_does() {
        // RFC 3720 gives the CRC32C of 32 zeros as the bytes aa 36 91 8a, the low one first.
        let zeros = Crc32c::of(&[0; 32]);
        assert_eq!(encode(zeros), "ipE2qg==");
        assert_eq!(decode(Some("ipE2qg==")), Some(zeros));
        for other in [None, Some(""), Some("ipE2qg==-2"), Some("ipE2"), Some("?")] {
            assert_eq!(decode(other), None, "{other:?}");
        }
    }
}
