//! Checks of what the compiler does not check: who may depend on whom, sizes of files, headers, paths.

mod cli_free;
mod headers;
mod layering;
mod paths;
mod ratchet;
mod tests_run;

use std::fmt;

use anyhow::{Context, Result};

use crate::repository::{Repository, SourceFile, output};

/// Where the size ratchet is kept, below the root.
const RATCHET_FILE: &str = "xtask/size-ratchet.toml";

/// A rule broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which check found it.
    pub check: &'static str,
    /// The file or crate, with its line where there is one.
    pub place: String,
    /// What is wrong and what to do about it.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { check, place, message } = self;
        write!(f, "{place}: {message} [{check}]")
    }
}

/// Runs every check.
///
/// # Errors
/// When a check cannot be made: git or cargo fails, or a file cannot be read or parsed.
pub fn check(repository: &Repository) -> Result<Vec<Violation>> {
    let files = repository.text_files()?;
    let mut violations = layering::check(&metadata(repository)?)?;
    violations.extend(cli_free::check(&library_tree(repository)?));
    violations.extend(ratchet::check(&files, &ratchet(&files)?));
    violations.extend(headers::check(&files));
    violations.extend(paths::check(&files));
    violations.extend(tests_run::check(&files));
    Ok(violations)
}

/// Lowers the numbers of the size ratchet to what the files have become, and drops those that no longer need one.
/// It never raises a number: that is edited by hand, for a reviewer to see.
///
/// # Errors
/// When the ratchet cannot be read, parsed or written.
pub fn bless(repository: &Repository) -> Result<()> {
    let files = repository.text_files()?;
    let blessed = ratchet(&files)?.blessed(&files);
    let path = repository.root().join(RATCHET_FILE);
    #[expect(
        clippy::disallowed_methods,
        reason = "git keeps the version before; nothing durable is at stake"
    )]
    std::fs::write(&path, blessed.to_toml()?).with_context(|| format!("writing {}", path.display()))
}

fn ratchet(files: &[SourceFile]) -> Result<ratchet::Ratchet> {
    let file = files.iter().find(|file| file.path == RATCHET_FILE);
    let file = file.with_context(|| format!("{RATCHET_FILE} is missing: restore it from git"))?;
    ratchet::Ratchet::parse(&file.text).with_context(|| format!("reading {RATCHET_FILE}"))
}

fn metadata(repository: &Repository) -> Result<String> {
    let mut cargo = repository.cargo();
    cargo.args(["metadata", "--format-version", "1", "--no-deps"]);
    output(cargo)
}

fn library_tree(repository: &Repository) -> Result<String> {
    let mut cargo = repository.cargo();
    // With every backend, as a pageserver links it.
    cargo.args(["tree", "--package", cli_free::LIBRARY, "--edges", "normal"]);
    cargo.args(["--prefix", "none"]);
    output(cargo)
}
