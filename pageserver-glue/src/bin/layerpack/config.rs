//! The configuration file: defaults that options on the command line and in URLs go before.

#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use storage_s3::S3Config;
use toml::Value;

use crate::exit::Failure;

/// What the file says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) remote: Option<String>,
    pub(crate) workdir: Option<PathBuf>,
    pub(crate) bundle_bytes_target: Option<u64>,
    pub(crate) parts_in_flight: Option<usize>,
    pub(crate) create_store: Option<bool>,
    pub(crate) retention: Option<String>,
    #[serde(default)]
    pub(crate) s3: S3Section,
}

/// The table `[s3]`.
#[derive(Debug, Default, Deserialize)]
#[serde(try_from = "toml::Table")]
pub(crate) struct S3Section {
    /// Options of S3 URLs, in the order of their names.
    pub(crate) options: Vec<(String, String)>,
    pub(crate) requests_in_flight: Option<NonZeroUsize>,
    pub(crate) retry_for: Option<Duration>,
}

/// Requests in flight that make sense: more only wait for the network.
const REQUESTS_IN_FLIGHT: std::ops::RangeInclusive<usize> = 1..=1000;

impl Config {
    /// Reads the file.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let failed = |source| Failure::Config { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.into()))?;
        Self::parse(&text).map_err(|why| failed(why.into()))
    }

    /// In the words of `toml`, which would show the line itself: that may hold a secret.
    fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| {
            let line =
                error.span().map(|span| text.get(..span.start).unwrap_or(text).matches('\n').count() + 1);
            let message = error.message().replace('\n', " ");
            line.map_or_else(|| message.clone(), |line| format!("line {line}: {message}"))
        })
    }
}

impl TryFrom<toml::Table> for S3Section {
    type Error = String;

    fn try_from(table: toml::Table) -> Result<Self, String> {
        let mut section = Self::default();
        // Where the bucket is does not matter to whether an option is one.
        let mut scratch = S3Config::new("bucket");
        for (name, value) in table {
            let text = match value {
                Value::String(text) => text,
                Value::Integer(number) => number.to_string(),
                Value::Float(number) => number.to_string(),
                Value::Boolean(switch) => switch.to_string(),
                _ => return Err(format!("[s3] {name} must be a text, a number, true or false")),
            };
            match name.as_str() {
                "requests_in_flight" => {
                    let number = text.parse().ok().filter(|number| REQUESTS_IN_FLIGHT.contains(number));
                    let number = number.and_then(NonZeroUsize::new);
                    let (min, max) = (REQUESTS_IN_FLIGHT.start(), REQUESTS_IN_FLIGHT.end());
                    section.requests_in_flight =
                        Some(number.ok_or_else(|| format!("[s3] {name} is {text:?}: {min} to {max} work"))?);
                }
                "retry_for" => {
                    let wrong = |error| format!("[s3] {name} is {text:?}: {error} (90s and 1h work)");
                    section.retry_for = Some(humantime::parse_duration(&text).map_err(wrong)?);
                }
                _ => {
                    scratch.set(&name, &text).map_err(|error| {
                        format!("[s3] {error}; in the file also requests_in_flight and retry_for")
                    })?;
                    section.options.push((name, text));
                }
            }
        }
        Ok(section)
    }
}
