//! Which checks were skipped, and which may be.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use storage_api::conformance::SKIPS_VARIABLE;

use crate::repository::Repository;

/// The checks that may be skipped: `name: why that is fine` on each line, and comments that start with `#`.
pub(crate) const ALLOWED_FILE: &str = ".ci/skips-allowed.txt";

/// Names of checks, each with a reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SkipList(BTreeMap<String, String>);

/// The checks that may be skipped here.
pub(crate) fn allowed(repository: &Repository) -> Result<SkipList> {
    read_list(&repository.root().join(ALLOWED_FILE))
}

/// Runs tests by `run`, which is given their command, and lists what they skipped, also where they failed.
pub(crate) fn recorded<T>(mut tests: Command, run: impl FnOnce(Command) -> T) -> Result<(T, SkipList)> {
    let record = tempfile::NamedTempFile::new().context("making a file for the skipped checks")?;
    tests.env(SKIPS_VARIABLE, record.path());
    let ran = run(tests);
    Ok((ran, read_list(record.path())?))
}

/// Reads the list in the file at `path`.
fn read_list(path: &Path) -> Result<SkipList> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    SkipList::parse(&text).with_context(|| format!("reading {}", path.display()))
}

impl SkipList {
    fn parse(text: &str) -> Result<Self> {
        let mut list = BTreeMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.split_once(':') {
                Some((name, reason)) if !reason.trim().is_empty() => {
                    list.insert(name.trim().to_owned(), reason.trim().to_owned());
                }
                _ => bail!("`{line}` is not `name: reason`"),
            }
        }
        Ok(Self(list))
    }

    /// `name: reason` for each entry.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(name, reason)| format!("{name}: {reason}"))
    }

    /// Takes the entries of another list in.
    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Refuses a list that holds a name which is not in `allowed`.
    pub(crate) fn require_within(&self, allowed: &Self) -> Result<()> {
        let unexpected: Vec<&str> =
            self.0.keys().filter(|name| !allowed.0.contains_key(*name)).map(String::as_str).collect();
        if !unexpected.is_empty() {
            bail!(
                "skipped, and not in {ALLOWED_FILE}: {}; let them run here, or add them there with a reason",
                unexpected.join(", ")
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> SkipList {
        SkipList::parse(text).unwrap()
    }

    #[test]
    fn a_planted_skip_is_refused_by_name() {
        let allowed = list("# Allowed.\n\npostgres_image: not everybody has PostgreSQL\n");
        assert!(list("postgres_image: no initdb: sorry\n").require_within(&allowed).is_ok());
        assert!(list("").require_within(&allowed).is_ok());
        let error =
            list("postgres_image: no initdb\nserver: no docker\n").require_within(&allowed).unwrap_err();
        assert!(error.to_string().contains(": server;"), "{error}");
    }

    #[test]
    fn a_line_without_a_reason_is_refused() {
        assert!(SkipList::parse("postgres_image\n").is_err());
        assert!(SkipList::parse("postgres_image: \n").is_err());
    }
}
