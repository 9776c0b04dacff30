//! What servers are known to do otherwise than the contract, as data.

use layerpack_tests::ServerKind;
use storage_api::conformance::Exemption;

/// The conformance cases that the server under test cannot pass.
pub(crate) fn exemptions() -> &'static [Exemption] {
    match ServerKind::under_test() {
        ServerKind::InProcess | ServerKind::Other => &[],
        ServerKind::SeaweedFs => &[
            Exemption {
                case: "keys_below_a_separator_are_rolled_up",
                reason: "SeaweedFS lists directories that have become empty as common prefixes for a while",
            },
            Exemption {
                case: "a_backslash_is_no_separator",
                reason: "SeaweedFS takes a backslash in a key for a slash",
            },
        ],
        ServerKind::MiniStack => &[Exemption {
            case: "a_part_that_is_too_small_is_refused",
            reason: "MiniStack takes parts of any size",
        }],
    }
}
