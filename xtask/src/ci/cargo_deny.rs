//! The program that checks licences, bans and sources: the pinned version, found or installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{print, run_command};
use crate::repository::Repository;

const VERSION: &str = "0.20.2";

/// The path of a `cargo-deny` of the pinned version: the one on the `PATH`, or the one kept in `target/tools`, which
/// is installed if it is not there.
pub(super) fn find_or_install(repository: &Repository) -> Result<PathBuf> {
    let tools = repository.root().join("target").join("tools");
    let ours = tools.join("bin").join("cargo-deny");
    for candidate in [Path::new("cargo-deny"), &ours] {
        if version_of(candidate).as_deref() == Some(VERSION) {
            return Ok(candidate.to_owned());
        }
    }
    print(&format!("installing cargo-deny {VERSION}, which takes a minute or two"));
    let mut cargo = repository.cargo();
    cargo.args(["install", "cargo-deny", "--locked", "--debug", "--version", VERSION, "--root"]).arg(&tools);
    run_command(cargo).context("installing cargo-deny; without a network, put this version on the PATH")?;
    Ok(ours)
}

fn version_of(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    parse_version(&String::from_utf8(output.stdout).ok()?)
}

/// The version in `cargo-deny 0.20.2`.
fn parse_version(text: &str) -> Option<String> {
    text.trim().strip_prefix("cargo-deny ").map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_only_in_the_right_programs_words() {
        assert_eq!(parse_version("cargo-deny 0.20.2\n").as_deref(), Some("0.20.2"));
        assert_eq!(parse_version("cargo 0.20.2\n"), None);
    }
}
