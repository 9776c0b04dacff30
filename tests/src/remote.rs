//! The S3 remote that the suites run on: one of the environment's, or a server in this process.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::s3_server::{BUCKET, KeyPair, READ_WRITE, S3Server, s3_url};

/// The environment variable that names the remote to test on, `s3://bucket/prefix?endpoint=http://host:port&...`;
/// credentials come from the AWS variables. What tests store there, below `prefix/test-...`, they leave there. Without
/// it they start a server in their own process.
pub const URL_VARIABLE: &str = "LAYERPACK_TEST_S3_URL";
/// The environment variable that says which server that is, for what it is known to do otherwise: `seaweedfs`,
/// `seaweedfs-cluster`, `ministack` or, as without it, `other`.
pub const SERVER_VARIABLE: &str = "LAYERPACK_TEST_S3_SERVER";

/// Which server the suites run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerKind {
    /// An [`S3Server`] of this process.
    InProcess,
    /// SeaweedFS.
    SeaweedFs,
    /// MiniStack.
    MiniStack,
    /// Another one, of which nothing is known.
    Other,
}

impl ServerKind {
    /// The server that the environment names.
    ///
    /// # Panics
    /// If the environment names a server that is none of these.
    pub fn under_test() -> Self {
        if std::env::var_os(URL_VARIABLE).is_none() {
            return Self::InProcess;
        }
        match std::env::var(SERVER_VARIABLE).as_deref() {
            Ok("seaweedfs" | "seaweedfs-cluster") => Self::SeaweedFs,
            Ok("ministack") => Self::MiniStack,
            Err(_) | Ok("" | "other") => Self::Other,
            Ok(name) => panic!(
                "{SERVER_VARIABLE} is {name:?}: seaweedfs, seaweedfs-cluster, ministack and other work"
            ),
        }
    }
}

/// A place in a store that nothing else uses, as URL and credentials.
#[derive(Clone, Debug)]
pub struct Remote {
    /// The URL, `s3://bucket/prefix?...`.
    pub url: String,
    /// The endpoint in it, where it has one.
    pub endpoint: Option<String>,
    /// The credentials, where they are not the environment's.
    pub credentials: Option<KeyPair>,
}

impl Remote {
    /// A fresh prefix of the remote under test.
    ///
    /// # Panics
    /// If the remote of the environment is no `s3://` URL.
    pub fn fresh() -> Self {
        match std::env::var(URL_VARIABLE) {
            Ok(url) => Self::fresh_below(&url, None),
            Err(_) => Self::of(in_process()),
        }
    }

    /// A fresh prefix of the remote `url`, with the environment's credentials unless there are others.
    ///
    /// # Panics
    /// If it is no `s3://` URL.
    pub fn fresh_below(url: &str, credentials: Option<KeyPair>) -> Self {
        Self { credentials, ..Self::below(url, &fresh_prefix()) }
    }

    /// A fresh prefix of `server`.
    pub fn of(server: &S3Server) -> Self {
        let endpoint = server.endpoint();
        Self {
            url: s3_url(BUCKET, &fresh_prefix(), &endpoint),
            endpoint: Some(endpoint),
            credentials: Some(READ_WRITE),
        }
    }

    /// The prefix `prefix` below the environment's URL.
    fn below(url: &str, prefix: &str) -> Self {
        let (place, query) = url.split_once('?').unwrap_or((url, ""));
        assert!(place.starts_with("s3://"), "{URL_VARIABLE} is {url:?}, which does not begin with s3://");
        let endpoint = query.split('&').find_map(|pair| pair.strip_prefix("endpoint="));
        // An endpoint may be percent-encoded in the query.
        let endpoint = endpoint.map(|text| percent_encoding::percent_decode_str(text).decode_utf8_lossy());
        Self {
            url: format!("{}/{prefix}?{query}", place.trim_end_matches('/')),
            endpoint: endpoint.map(std::borrow::Cow::into_owned),
            credentials: None,
        }
    }

    /// The same place, reached by another endpoint: a [`WireProxy`](crate::WireProxy) before it.
    #[must_use]
    pub fn by(&self, endpoint: &str) -> Self {
        Self { endpoint: Some(endpoint.to_owned()), ..self.with("endpoint", endpoint) }
    }

    /// The same place, with the option `name` of the URL set to `value`, which needs no percent-encoding.
    #[must_use]
    pub fn with(&self, name: &str, value: &str) -> Self {
        let (place, query) = self.url.split_once('?').unwrap_or((&self.url, ""));
        let is_other = |pair: &&str| !pair.is_empty() && pair.split('=').next() != Some(name);
        let others = query.split('&').filter(is_other).map(str::to_owned);
        let query: Vec<_> = others.chain([format!("{name}={value}")]).collect();
        Self { url: format!("{place}?{}", query.join("&")), ..self.clone() }
    }

    /// The environment variables that a child process needs to use it, and to ask nobody else.
    pub fn environment(&self) -> Vec<(&'static str, &'static str)> {
        let mut variables = vec![("AWS_EC2_METADATA_DISABLED", "true")];
        if let Some(KeyPair { id, secret }) = self.credentials {
            variables.extend([("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", secret)]);
            // No profile of the person who runs the tests is to be mixed in.
            variables
                .extend([("AWS_CONFIG_FILE", "/dev/null"), ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")]);
        }
        variables
    }
}

/// The server that all tests of this process share.
fn in_process() -> &'static S3Server {
    static SERVER: OnceLock<S3Server> = OnceLock::new();
    SERVER.get_or_init(S3Server::start)
}

/// A prefix that no other test, process or earlier run uses.
fn fresh_prefix() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    // The standard library seeds every hasher at random.
    let random = RandomState::new().hash_one(number);
    format!("test-{}-{number}-{random:016x}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_of_the_environment_keeps_its_options() {
        let url = "s3://bucket/deep/?region=here&endpoint=http%3A%2F%2F127.0.0.1%3A8333&path_style=true";
        let remote = Remote::below(url, "x");
        assert_eq!(
            remote.url,
            "s3://bucket/deep/x?region=here&endpoint=http%3A%2F%2F127.0.0.1%3A8333&path_style=true"
        );
        assert_eq!(remote.endpoint.as_deref(), Some("http://127.0.0.1:8333"));
        let by = remote.by("http://127.0.0.1:1");
        assert_eq!(by.url, "s3://bucket/deep/x?region=here&path_style=true&endpoint=http://127.0.0.1:1");
    }

    #[test]
    fn no_two_remotes_are_the_same() {
        let urls: std::collections::BTreeSet<_> = (0..10).map(|_| fresh_prefix()).collect();
        assert_eq!(urls.len(), 10);
    }
}
