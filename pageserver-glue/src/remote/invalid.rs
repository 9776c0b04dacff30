//! What is said of a text that is no URL of a remote, and of URLs in general: nothing that may be a secret.

use std::borrow::Cow;

/// Why a text is not the URL of a remote. It repeats nothing of the text that may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the URL of a remote: {why} (a remote is file:///dir or s3://bucket/prefix)")]
pub struct InvalidRemoteUrl {
    text: String,
    why: String,
}

impl InvalidRemoteUrl {
    pub(super) fn new(text: &str, why: impl Into<String>) -> Self {
        Self { text: without_secrets(text).into_owned(), why: why.into() }
    }
}

/// `text`, which was meant for a URL, without what may be a secret in it: a user and password, the query, the fragment.
pub fn without_secrets(text: &str) -> Cow<'_, str> {
    let is_file = text.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("file:"));
    if text.contains('@') && !is_file {
        // Where a password ends is not clear in a text that is no URL.
        let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
        return format!("{scheme}://...").into();
    }
    match text.find(['?', '#']) {
        Some(at) => format!("{}...", &text[..=at]).into(),
        None => text.into(),
    }
}
