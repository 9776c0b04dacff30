//! The suites that run on servers, and what came of them.

use std::fmt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use layerpack_tests::{SERVER_VARIABLE, URL_VARIABLE};

use super::Server;
use crate::ci::run_command;
use crate::ci::skipped::{SkipList, recorded};
use crate::repository::Repository;

/// A test target that uses the remote of the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Suite {
    target: &'static str,
    /// Only the tests whose names have one of these in them; all where there is none.
    filters: &'static [&'static str],
}

/// The suites. This is the one place that names them: the storage contract and the engine through faults, and the flows of
/// the program that have S3 for their store.
const SUITES: [Suite; 2] = [
    Suite { target: "s3", filters: &[] },
    Suite { target: "cli", filters: &["s3::", "s3_wire", "s3_options"] },
];

/// What the suites run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A server that is started for them.
    Started(Server),
    /// A remote that is there already; credentials come from the environment.
    Remote {
        /// Its URL.
        url: String,
        /// Which server that is, where it is one whose ways are known.
        server: Option<Server>,
    },
}

impl Target {
    /// Every server that can be started.
    pub fn all() -> Vec<Self> {
        Server::ALL.map(Self::Started).to_vec()
    }

    /// The server that is to be started.
    pub(super) fn to_start(&self) -> Option<Server> {
        match self {
            Self::Started(server) => Some(*server),
            Self::Remote { .. } => None,
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Started(server) | Self::Remote { server: Some(server), .. } => server.name(),
            Self::Remote { server: None, .. } => "other",
        }
    }
}

/// What came of the suites.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<Row>,
    skipped: SkipList,
}

#[derive(Debug)]
struct Row {
    server: String,
    what: &'static str,
    time: Duration,
    passed: bool,
}

/// Runs every suite on every target, one after the other, and goes on where one fails. `arguments` are for the test
/// programs. `progress` is told what goes on.
///
/// # Errors
/// When a server does not start, or cargo cannot be run. That a suite failed is in the report.
pub fn test(
    repository: &Repository,
    targets: &[Target],
    arguments: &[String],
    progress: fn(&str),
) -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut report = Report::default();
    for target in targets {
        let started = crate::timer();
        let (environment, running) = match target {
            Target::Started(server) => {
                progress(&format!("starting {}", target.name()));
                let running = runtime.block_on(super::start(repository, *server))?;
                report.add(target, "start", started.elapsed(), true);
                (running.environment(), Some(running))
            }
            Target::Remote { url, .. } => {
                (vec![(URL_VARIABLE, url.clone()), (SERVER_VARIABLE, target.name().to_owned())], None)
            }
        };
        for suite in SUITES {
            progress(&format!("running the suite {} on {}", suite.target, target.name()));
            let started = crate::timer();
            let (ran, skipped) = recorded(command(repository, suite, &environment, arguments), run_command)?;
            if let Err(error) = &ran {
                progress(&format!("{error:#}"));
            }
            report.add(target, suite.target, started.elapsed(), ran.is_ok());
            report.skipped.extend(skipped);
        }
        drop(running);
    }
    Ok(report)
}

/// What `cargo test --workspace` has built is built with the same features here, and not again.
fn command(
    repository: &Repository,
    suite: Suite,
    environment: &[(&str, String)],
    arguments: &[String],
) -> Command {
    let mut cargo = repository.cargo();
    cargo.args(["test", "--locked", "--workspace", "--test", suite.target]);
    cargo.envs(environment.iter().map(|(name, value)| (name, value)));
    // What the caller asks for goes before what a suite has by itself.
    let filters = if arguments.is_empty() { suite.filters } else { &[] };
    cargo.arg("--").args(filters).args(arguments);
    cargo
}

impl Report {
    fn add(&mut self, target: &Target, what: &'static str, time: Duration, passed: bool) {
        self.rows.push(Row { server: target.name().to_owned(), what, time, passed });
    }

    /// What the suites skipped.
    pub(crate) fn skipped(&self) -> &SkipList {
        &self.skipped
    }

    /// `name: reason` for everything that the suites skipped.
    pub fn skipped_lines(&self) -> Vec<String> {
        self.skipped.lines().collect()
    }

    /// Refuses a report with a failure, by name.
    ///
    /// # Errors
    /// When a suite failed.
    pub fn require_passed(&self) -> Result<()> {
        let failed: Vec<_> = self.rows.iter().filter(|row| !row.passed).collect();
        if !failed.is_empty() {
            let names: Vec<_> = failed.iter().map(|row| format!("{} on {}", row.what, row.server)).collect();
            bail!("failed: {}", names.join(", "));
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Row { server, what, time, passed }) in self.rows.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            let outcome = if *passed { "passed" } else { "FAILED" };
            write!(f, "{end}{server:<20}{what:<12}{outcome}{:>8.1} s", time.as_secs_f64())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_named_and_the_rest_is_reported() {
        let mut report = Report::default();
        report.add(&Target::Started(Server::Seaweedfs), "s3", Duration::from_millis(1_500), true);
        let remote = Target::Remote { url: "s3://bucket".into(), server: None };
        assert!(report.require_passed().is_ok());
        report.add(&remote, "s3", Duration::ZERO, false);
        assert_eq!(report.require_passed().unwrap_err().to_string(), "failed: s3 on other");
        let text = report.to_string();
        let rows: Vec<Vec<_>> = text.lines().map(|row| row.split_whitespace().collect()).collect();
        assert_eq!(rows, [["seaweedfs", "s3", "passed", "1.5", "s"], ["other", "s3", "FAILED", "0.0", "s"]]);
    }

    #[test]
    fn the_suites_get_the_remote_and_the_arguments() {
        let environment = [(URL_VARIABLE, "s3://bucket".to_owned())];
        let command = command(&Repository::here(), SUITES[0], &environment, &["races".to_owned()]);
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
        assert!(
            arguments.ends_with(&["--test".into(), "s3".into(), "--".into(), "races".into()]),
            "{arguments:?}"
        );
        let variable = (URL_VARIABLE.as_ref(), Some("s3://bucket".as_ref()));
        assert!(command.get_envs().any(|pair| pair == variable));
    }
}
