//! The steps, in the order in which they are run: what is quick and often wrong comes first.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::skipped::{self, SkipList};
use super::{Step, cargo_deny, readme, run_command};
use crate::repository::{Repository, output};
use crate::servers::{self, Server};
use crate::tidy;

/// Every step.
pub(super) const STEPS: [Step; 9] = [
    Step { name: "fmt", run: fmt },
    Step { name: "lock", run: lock },
    Step { name: "tidy", run: check_tidy },
    Step { name: "clippy", run: clippy },
    Step { name: "doc", run: doc },
    Step { name: "test", run: test },
    Step { name: "s3-servers", run: s3_servers },
    Step { name: "demo", run: demo },
    Step { name: "deny", run: deny },
];

fn fmt(repository: &Repository) -> Result<()> {
    run_cargo(repository, &["fmt", "--all", "--check"])
}

/// The lock file is up to date, so that the commands of the README, which do not say `--locked`, leave it alone.
fn lock(repository: &Repository) -> Result<()> {
    let mut cargo = repository.cargo();
    cargo.args(["metadata", "--locked", "--format-version", "1"]);
    output(cargo).map(drop).context("Cargo.lock is not up to date: build once and commit it")
}

fn check_tidy(repository: &Repository) -> Result<()> {
    let violations = tidy::check(repository)?;
    if !violations.is_empty() {
        let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
        bail!("{} violations:\n{}", violations.len(), lines.join("\n"));
    }
    Ok(())
}

fn clippy(repository: &Repository) -> Result<()> {
    let targets = ["clippy", "--locked", "--workspace", "--all-targets", "--all-features"];
    run_cargo(repository, &[&targets[..], &["--", "-D", "warnings"]].concat())
}

fn doc(repository: &Repository) -> Result<()> {
    let mut cargo = repository.cargo();
    cargo
        .args(["doc", "--locked", "--workspace", "--all-features", "--no-deps"])
        .env("RUSTDOCFLAGS", "-D warnings");
    run_command(cargo)
}

/// The README's test command. What its tests skip must be what is allowed to be skipped.
fn test(repository: &Repository) -> Result<()> {
    let command = readme::test_command(&readme_text(repository)?)?;
    let (ran, skipped) = skipped::recorded(cargo_command(repository, &command), run_command)?;
    ran?;
    require_allowed(repository, &skipped)
}

/// The suites on servers of other people's making.
fn s3_servers(repository: &Repository) -> Result<()> {
    servers::install(repository, &Server::ALL, super::print)?;
    let report = servers::test(repository, &servers::Target::all(), &[], super::print)?;
    super::print(&report.to_string());
    report.require_passed()?;
    require_allowed(repository, report.skipped())
}

fn require_allowed(repository: &Repository, skipped: &SkipList) -> Result<()> {
    for line in skipped.lines() {
        super::print(&format!("SKIPPED {line}"));
    }
    skipped.require_within(&skipped::allowed(repository)?)
}

/// The README's first command.
fn demo(repository: &Repository) -> Result<()> {
    run_command(cargo_command(repository, &readme::first_command(&readme_text(repository)?)?))
}

fn deny(repository: &Repository) -> Result<()> {
    let mut deny = repository.command(cargo_deny::find_or_install(repository)?);
    deny.args(["--locked", "check", "licenses", "bans", "sources"]);
    run_command(deny)
}

fn readme_text(repository: &Repository) -> Result<String> {
    let path = repository.root().join("README.md");
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

fn run_cargo(repository: &Repository, arguments: &[&str]) -> Result<()> {
    run_command(cargo_command(repository, arguments))
}

fn cargo_command<S: AsRef<str>>(repository: &Repository, arguments: &[S]) -> Command {
    let mut cargo = repository.cargo();
    cargo.args(arguments.iter().map(AsRef::as_ref));
    cargo
}
