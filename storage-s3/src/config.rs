//! Where a bucket is and how it is used, as a value and as a URL.

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use storage_api::KeyPrefix;
use url::{Host, Url};

/// The options that [`S3Config::set`] knows.
const OPTIONS: &str = "endpoint, region, profile, path_style, allow_http, storage_class, sse, sse_kms_key_id, tags, \
                       checksums, connect_timeout, progress_timeout, user_agent";

/// Where and how. Credentials come from the usual chain of the AWS SDK: environment, profile files, web identity,
/// container and instance roles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Config {
    /// The bucket.
    pub bucket: String,
    /// What all keys begin with.
    pub prefix: KeyPrefix,
    /// Another server than AWS's, with its scheme: `http://127.0.0.1:9000`.
    pub endpoint: Option<Url>,
    /// The region. Without it the environment's or the profile's is taken, and `us-east-1` where there is none.
    pub region: Option<String>,
    /// The profile of the AWS configuration files.
    pub profile: Option<String>,
    /// How the bucket's name is put into requests.
    pub addressing: Addressing,
    /// Where requests may go unencrypted.
    pub plain_http: PlainHttp,
    /// The storage class of new objects, the bucket's default without it.
    pub storage_class: Option<String>,
    /// How new objects are encrypted by the store.
    pub encryption: Encryption,
    /// Tags of new objects.
    pub tags: Vec<(String, String)>,
    /// Which checksums the store is asked to keep.
    pub checksums: Checksums,
    /// For how long a connection may take to be made.
    pub connect_timeout: Duration,
    /// For how long nothing may come. It is no bound on a whole transfer.
    pub progress_timeout: Duration,
    /// What the program calls itself to the store, besides the SDK's own words.
    pub user_agent: String,
    /// Credentials instead of the chain's; for tests and for callers that have their own way to get them.
    pub credentials: Option<StaticCredentials>,
}

/// How the bucket's name is put into requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Addressing {
    /// In the path where an endpoint is given, else in the host's name.
    #[default]
    Auto,
    /// In the path.
    Path,
    /// In the host's name.
    VirtualHosted,
}

/// Where requests may go unencrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlainHttp {
    /// To this machine only.
    #[default]
    Loopback,
    /// Anywhere: whoever is on the way can read and change what is stored.
    Anywhere,
}

/// How the store encrypts new objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// As the bucket says.
    #[default]
    Default,
    /// With the store's own keys (SSE-S3).
    SseS3,
    /// With a key of the key management service (SSE-KMS): this one, or the account's default.
    SseKms {
        /// The key's id or ARN.
        key_id: Option<String>,
    },
}

/// Which checksums the store is asked to check and keep. What is read is checked by Layerpack in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksums {
    /// The CRC32C of every put and part, and of the whole of an object that is uploaded in parts.
    #[default]
    Whole,
    /// The CRC32C of every put and part. For servers that do not know, or get wrong, that of the whole (`FULL_OBJECT`):
    /// MiniStack and moto expect a wrong value, Ceph before 20 knows none.
    Parts,
    /// None: for servers that refuse the header.
    None,
}

/// An access key. Its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct StaticCredentials {
    /// The access key's id.
    pub access_key_id: String,
    /// The secret.
    pub secret_access_key: String,
    /// The session's token, where there is a session.
    pub session_token: Option<String>,
}

impl fmt::Debug for StaticCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StaticCredentials { .. }")
    }
}

/// Why a URL is not that of an S3 remote. It never repeats what may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidS3Url(String);

/// Why an option cannot be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownOption {
    /// There is no such option.
    #[error("there is no option {name:?}: the options are {OPTIONS}")]
    Name {
        /// What was to be set.
        name: String,
    },
    /// Secrets have no place where they are stored and shown.
    #[error(
        "{name:?} looks like a credential: credentials come from the AWS environment variables or profile files"
    )]
    Credential {
        /// What was to be set.
        name: String,
    },
    /// The option does not take this value.
    #[error("{name} is {value:?}: {expected}")]
    Value {
        /// The option.
        name: String,
        /// What it was to be.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
}

impl S3Config {
    /// A bucket, with the defaults for everything else.
    pub fn new(bucket: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            prefix: KeyPrefix::root(),
            endpoint: None,
            region: None,
            profile: None,
            addressing: Addressing::Auto,
            plain_http: PlainHttp::Loopback,
            storage_class: None,
            encryption: Encryption::Default,
            tags: Vec::new(),
            checksums: Checksums::Whole,
            connect_timeout: Duration::from_millis(3_100),
            progress_timeout: Duration::from_secs(30),
            user_agent: concat!("layerpack-", env!("CARGO_PKG_VERSION")).to_owned(),
            credentials: None,
        }
    }

    /// The bucket that `s3://bucket/prefix?option=value&...` names. Every option that [`set`](Self::set) knows works.
    pub fn from_url(url: &Url) -> Result<Self, InvalidS3Url> {
        Self::from_url_with(url, [])
    }

    /// The same, with options of a configuration file, which those of the URL go before.
    pub fn from_url_with<'a>(
        url: &Url,
        defaults: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, InvalidS3Url> {
        let invalid = |why: String| InvalidS3Url(why);
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid(
                "it holds a user or password: credentials come from the AWS environment variables or profile files"
                    .into(),
            ));
        }
        if url.port().is_some() {
            return Err(invalid(
                "a port belongs into the endpoint: s3://bucket/prefix?endpoint=http://host:port".into(),
            ));
        }
        if url.fragment().is_some() {
            return Err(invalid("# is written %23".into()));
        }
        let bucket = url.host_str().filter(|bucket| !bucket.is_empty());
        let bucket = bucket.ok_or_else(|| invalid("it names no bucket".into()))?;
        let mut config = Self::new(bucket);
        let path = percent_encoding::percent_decode_str(url.path()).decode_utf8();
        let path = path.map_err(|_| invalid("its path is not UTF-8".into()))?;
        let path = path.trim_matches('/');
        if !path.is_empty() {
            config.prefix = KeyPrefix::new(format!("{path}/")).map_err(|error| invalid(error.to_string()))?;
        }
        for (name, value) in defaults {
            config.set(name, value).map_err(|error| invalid(error.to_string()))?;
        }
        for (name, value) in url.query_pairs() {
            config.set(&name, &value).map_err(|error| invalid(error.to_string()))?;
        }
        config.check_endpoint().map_err(invalid)?;
        Ok(config)
    }

    /// Sets an option by the name that it has in URLs and configuration files.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), UnknownOption> {
        let wrong = |expected| UnknownOption::Value { name: name.into(), value: value.into(), expected };
        let text = || Some(value.to_owned()).filter(|value| !value.is_empty());
        let switch = || match value {
            "true" | "1" | "" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(wrong("true or false work")),
        };
        let seconds = || {
            let seconds: f64 = value.trim_end_matches('s').parse().unwrap_or(0.0);
            let range = 0.05..=3600.0;
            let known = range.contains(&seconds).then(|| Duration::from_secs_f64(seconds));
            known.ok_or_else(|| wrong("a number of seconds from 0.05 to 3600 works"))
        };
        match name {
            "endpoint" => {
                let url = Url::parse(value).ok().filter(|url| {
                    matches!(url.scheme(), "http" | "https")
                        && url.has_host()
                        && url.username().is_empty()
                        && url.password().is_none()
                });
                // What is in the text may be a password; it is not repeated.
                let hidden = UnknownOption::Value {
                    name: name.into(),
                    value: "...".into(),
                    expected: "http://host:port or https://host works, without user and password",
                };
                self.endpoint = Some(url.ok_or(hidden)?);
            }
            "region" => self.region = text(),
            "profile" => self.profile = text(),
            "path_style" => {
                self.addressing = if switch()? { Addressing::Path } else { Addressing::VirtualHosted }
            }
            "allow_http" => {
                self.plain_http = if switch()? { PlainHttp::Anywhere } else { PlainHttp::Loopback }
            }
            "storage_class" => self.storage_class = text(),
            "sse" => {
                let key_id = match std::mem::take(&mut self.encryption) {
                    Encryption::SseKms { key_id } => key_id,
                    Encryption::Default | Encryption::SseS3 => None,
                };
                self.encryption = match value {
                    "AES256" => Encryption::SseS3,
                    "aws:kms" => Encryption::SseKms { key_id },
                    _ => return Err(wrong("AES256 and aws:kms work")),
                };
            }
            "sse_kms_key_id" => self.encryption = Encryption::SseKms { key_id: text() },
            "tags" => {
                let tag =
                    |tag: &str| tag.split_once(':').map(|(key, value)| (key.to_owned(), value.to_owned()));
                let tags: Option<Vec<_>> = value.split(',').filter(|tag| !tag.is_empty()).map(tag).collect();
                self.tags = tags.ok_or_else(|| wrong("name:value,name:value works"))?;
            }
            "checksums" => {
                self.checksums = match value {
                    "whole" => Checksums::Whole,
                    "parts" => Checksums::Parts,
                    "none" => Checksums::None,
                    _ => return Err(wrong("whole, parts and none work")),
                };
            }
            "connect_timeout" => self.connect_timeout = seconds()?,
            "progress_timeout" => self.progress_timeout = seconds()?,
            "user_agent" => self.user_agent = value.to_owned(),
            _ => {
                let lower = name.to_ascii_lowercase();
                let secret = ["secret", "key", "token", "password", "credential", "signature"];
                let name = name.to_owned();
                return Err(match secret.iter().any(|word| lower.contains(word)) {
                    true => UnknownOption::Credential { name },
                    false => UnknownOption::Name { name },
                });
            }
        }
        Ok(())
    }

    /// Refuses an endpoint where requests would go unencrypted over a network.
    pub(crate) fn check_endpoint(&self) -> Result<(), String> {
        let Some(endpoint) = &self.endpoint else { return Ok(()) };
        if endpoint.scheme() == "https" || self.plain_http == PlainHttp::Anywhere || is_loopback(endpoint) {
            return Ok(());
        }
        Err(format!(
            "the endpoint {endpoint} is plain http and not on this machine, so that what is stored could be read and changed on the way: use https, or add allow_http=true"
        ))
    }

    /// Whether the bucket is named in the path.
    pub(crate) fn is_path_style(&self) -> bool {
        match self.addressing {
            Addressing::Path => true,
            Addressing::VirtualHosted => false,
            Addressing::Auto => self
                .endpoint
                .as_ref()
                .is_some_and(|endpoint| !endpoint.host_str().unwrap_or_default().ends_with(".amazonaws.com")),
        }
    }

    /// What messages call the place: where it is asked, without anything secret.
    pub(crate) fn place(&self) -> String {
        match &self.endpoint {
            Some(endpoint) => endpoint.as_str().trim_end_matches('/').to_owned(),
            None => "AWS".to_owned(),
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}
