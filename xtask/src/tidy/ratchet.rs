//! Files stay small enough to read: a limit, and a list of exceptions whose numbers only ever go down.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{SourceFile, Violation};

const COMMENT: &str = "\
# Lines of the Rust files that are not tests. `cargo xtask tidy --bless` lowers the exceptions to what the files have
# become and drops those that are within the limit; a number goes up, or an exception comes in, only by hand.

";

/// The limit and the exceptions to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ratchet {
    /// Most lines of a file that is not listed.
    lines_max: usize,
    /// Exact lines of each longer file, by path.
    exceptions: BTreeMap<String, usize>,
}

impl Ratchet {
    pub(super) fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).context("not a limit and a table of exceptions")
    }

    pub(super) fn to_toml(&self) -> Result<String> {
        Ok(format!("{COMMENT}{}", toml::to_string(self)?))
    }

    /// The ratchet after files have shrunk.
    pub(super) fn blessed(&self, files: &[SourceFile]) -> Self {
        let lines = counted(files);
        let mut exceptions = self.exceptions.clone();
        exceptions.retain(|path, recorded| match lines.get(path.as_str()) {
            Some(lines) => {
                *recorded = *lines.min(recorded);
                *lines > self.lines_max
            }
            None => false,
        });
        Self { lines_max: self.lines_max, exceptions }
    }
}

/// Checks that no file is longer than it may be, and that the list says what is.
pub(super) fn check(files: &[SourceFile], ratchet: &Ratchet) -> Vec<Violation> {
    let lines = counted(files);
    let too_long = lines.iter().filter_map(|(path, lines)| {
        let allowed = ratchet.exceptions.get(*path).copied().unwrap_or(ratchet.lines_max);
        let message =
            format!("has {lines} lines, {allowed} are allowed: split it by what its parts are about");
        (*lines > allowed).then(|| violation(path, message))
    });
    let outdated = ratchet.exceptions.iter().filter_map(|(path, recorded)| {
        let lines = lines.get(path.as_str()).copied().unwrap_or(0);
        let message =
            format!("is listed with {recorded} lines and has {lines}: run `cargo xtask tidy --bless`");
        (lines < *recorded || lines <= ratchet.lines_max).then(|| violation(path, message))
    });
    too_long.chain(outdated).collect()
}

/// The lines of every Rust file that is not a test.
fn counted(files: &[SourceFile]) -> BTreeMap<&str, usize> {
    let counted = files.iter().filter(|file| file.path.ends_with(".rs") && !is_test(&file.path));
    counted.map(|file| (file.path.as_str(), file.text.lines().count())).collect()
}

fn is_test(path: &str) -> bool {
    path.split('/').any(|part| part == "tests" || part == "tests.rs" || part == "benches")
}

fn violation(path: &str, message: String) -> Violation {
    Violation { check: "size-ratchet", place: path.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, lines: usize) -> SourceFile {
        SourceFile { path: path.to_owned(), text: "x\n".repeat(lines) }
    }

    fn ratchet(exceptions: &[(&str, usize)]) -> Ratchet {
        let exceptions = exceptions.iter().map(|(path, lines)| ((*path).to_owned(), *lines)).collect();
        Ratchet { lines_max: 500, exceptions }
    }

    fn places(files: &[SourceFile], exceptions: &[(&str, usize)]) -> Vec<String> {
        check(files, &ratchet(exceptions)).into_iter().map(|violation| violation.place).collect()
    }

    #[test]
    fn planted_sizes_are_found() {
        assert_eq!(places(&[file("a.rs", 501)], &[]), ["a.rs"], "over the limit");
        assert_eq!(places(&[file("a.rs", 601)], &[("a.rs", 600)]), ["a.rs"], "grown");
        assert_eq!(places(&[file("a.rs", 599)], &[("a.rs", 600)]), ["a.rs"], "shrunk and not recorded");
        assert_eq!(places(&[file("a.rs", 500)], &[("a.rs", 500)]), ["a.rs"], "needs no exception");
        assert_eq!(places(&[], &[("a.rs", 600)]), ["a.rs"], "gone");
    }

    #[test]
    fn files_within_their_numbers_pass() {
        let files = [
            file("a.rs", 500),
            file("b.rs", 600),
            file("c/tests.rs", 900),
            file("c/tests/d.rs", 900),
            file("e.md", 900),
        ];
        assert_eq!(places(&files, &[("b.rs", 600)]), [""; 0]);
    }

    #[test]
    fn blessing_lowers_and_never_raises() {
        let files = [file("shrunk.rs", 550), file("grown.rs", 700), file("small.rs", 10)];
        let before = ratchet(&[("shrunk.rs", 600), ("grown.rs", 600), ("small.rs", 600), ("gone.rs", 600)]);
        let after = before.blessed(&files);
        assert_eq!(after, ratchet(&[("shrunk.rs", 550), ("grown.rs", 600)]));
        assert_eq!(Ratchet::parse(&after.to_toml().unwrap()).unwrap(), after);
    }
}
