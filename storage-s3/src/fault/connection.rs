//! Failures before there is an answer: no credentials, no connection, a broken one.

use std::error::Error as StdError;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ConnectorError, SdkError};
use storage_api::ErrorKind;

use super::{Fault, Place, chain, innermost, quoted};

/// Where credentials come from.
const SOURCES: &str = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile (AWS_PROFILE, or profile=... \
                       in the URL), or run with a web identity, a container's or an instance's role";

/// No credentials could be had.
pub(super) fn no_credentials(wrong: &CredentialsError) -> Fault {
    let is_unreachable = chain(wrong).any(|error| error.downcast_ref::<ConnectorError>().is_some());
    let (kind, text) = match wrong {
        CredentialsError::CredentialsNotLoaded(_) => {
            (ErrorKind::Unauthenticated, format!("there are no credentials: {SOURCES}"))
        }
        CredentialsError::ProviderTimedOut(_) => {
            (ErrorKind::Timeout, format!("what gives out credentials does not answer: {SOURCES}"))
        }
        CredentialsError::ProviderError(_) if is_unreachable => {
            let why = quoted(&innermost(wrong));
            (ErrorKind::Connection, format!("what gives out credentials cannot be reached: {why}"))
        }
        // A profile file's line, or a process's output, may be in what follows it in the chain.
        _ => {
            let text = format!("the configured credentials cannot be had ({wrong}): {SOURCES}");
            (ErrorKind::Unauthenticated, text)
        }
    };
    Fault::new(kind, text)
}

/// Whether this error is of a body that did not come to its end.
pub(super) fn is_broken_body(error: &(dyn StdError + 'static)) -> bool {
    // The types of the HTTP library, hyper, are not at hand here; its words for it are.
    let known =
        ["error reading a body", "end of file before message length", "connection closed before message"];
    let text = error.to_string();
    known.iter().any(|known| text.contains(known)) || error.downcast_ref::<std::io::Error>().is_some()
}

/// No answer came, or the request was never sent.
pub(super) fn failed<E: StdError + 'static>(error: &SdkError<E>, place: &Place) -> Fault {
    let at = &place.at;
    let last = quoted(&innermost(error));
    let says = |words: &[&str]| {
        chain(error).any(|error| {
            let text = error.to_string().to_lowercase();
            words.iter().any(|word| text.contains(word))
        })
    };
    let is_timeout = match error {
        SdkError::TimeoutError(_) => true,
        SdkError::DispatchFailure(failure) => failure.is_timeout(),
        _ => false,
    };
    let (kind, text) = if is_timeout {
        let text = format!("no connection to {at} came about in time: check the network and the endpoint");
        (ErrorKind::Timeout, text)
    } else if says(&["dns error", "failed to lookup"]) {
        let text =
            format!("the host of {at} cannot be found ({last}): check the endpoint's name and the resolver");
        (ErrorKind::Connection, text)
    } else if says(&["certificate", "tls handshake", "invalidcontenttype", "corrupt message"]) {
        let text = format!(
            "there is no secure connection to {at} ({last}): check that the endpoint speaks https, and that this \
             system trusts its certificate (SSL_CERT_FILE names others)"
        );
        (ErrorKind::Connection, text)
    } else if says(&["tcp connect error", "connection refused"]) {
        let text = format!("{at} cannot be reached ({last}): check the endpoint, and that the store runs");
        (ErrorKind::Connection, text)
    } else if let SdkError::ConstructionFailure(_) = error {
        let text = format!("the request cannot be made ({last}): check the bucket's name and the endpoint");
        (ErrorKind::Invalid, text)
    } else {
        let text = format!(
            "the connection to {at} broke before an answer came ({last}): check the endpoint and the network"
        );
        (ErrorKind::Connection, text)
    };
    Fault::new(kind, text)
}
