//! `cargo xtask bench`: its arguments.
#![expect(clippy::print_stdout, reason = "a command-line program")]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::{BenchOptions, On, run};
use crate::repository::Repository;
use crate::servers::Server;

/// What to measure.
#[derive(Debug, Args)]
pub struct BenchArguments {
    /// A pageserver's work directory, which is only read [default: an image of a fresh PostgreSQL cluster, or like one].
    #[arg(long, value_name = "DIR")]
    image: Option<PathBuf>,
    /// Start this server [default: one in this process, which keeps everything in memory].
    #[arg(long, value_enum, conflicts_with = "url")]
    server: Option<Server>,
    /// Measure on this remote, `s3://bucket/prefix?endpoint=http://...`; credentials come from the AWS environment
    /// variables. What is stored below the prefix stays there.
    #[arg(long)]
    url: Option<String>,
    /// What every request takes longer than it does; can be given more than once [default: 0 and 20ms].
    #[arg(long, value_name = "DURATION", value_parser = latency)]
    latency: Vec<Duration>,
    /// How often each way is measured.
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// `20ms`, `1s`, `0`.
pub(super) fn latency(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number = number.parse().ok().filter(|number| *number <= 60_000);
    match (number, unit) {
        (Some(number), "ms") => Ok(Duration::from_millis(number)),
        (Some(number), "s") => Ok(Duration::from_secs(number)),
        _ => Err("a time such as 20ms or 1s works".to_owned()),
    }
}

/// Measures and prints. `progress` is told what goes on.
///
/// # Errors
/// As [`run`].
pub fn run_command(repository: &Repository, arguments: BenchArguments, progress: fn(&str)) -> Result<()> {
    let BenchArguments { image, server, url, mut latency, runs, json } = arguments;
    let on = match (server, url) {
        (Some(server), _) => On::Server(server),
        (None, Some(url)) => On::Remote(url),
        (None, None) => On::InProcess,
    };
    if latency.is_empty() {
        latency = vec![Duration::ZERO, Duration::from_millis(20)];
    }
    let options = BenchOptions { image, on, latencies: latency, runs: runs.into() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(run(repository, &options, progress))?;
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    Ok(())
}
