//! `cargo xtask s3-servers`: its arguments, and what they do.
#![expect(clippy::print_stdout, reason = "a command-line program")]

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use tokio::signal::ctrl_c;
use tokio::signal::unix::{SignalKind, signal};

use super::{Running, Server, Target, install, start, test};
use crate::repository::Repository;

/// What to do with servers.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Install them below the target folder.
    Install,
    /// Start one, print the environment that the suites need to run on it, and stop it at ctrl-C.
    Run {
        /// Which.
        #[arg(long, value_enum, default_value_t = Server::Seaweedfs)]
        server: Server,
    },
    /// Run the suites on each server, or on any endpoint.
    Test(TestArguments),
}

/// What to test on.
#[derive(Debug, Args)]
pub struct TestArguments {
    /// Only this server; with `--url`, what kind of server that is [default: every server].
    #[arg(long, value_enum)]
    server: Option<Server>,
    /// A remote that is there already, `s3://bucket/prefix?endpoint=...`; credentials come from the AWS environment
    /// variables. What the tests store below the prefix stays there.
    #[arg(long)]
    url: Option<String>,
    /// For the test programs, such as a part of the names of the tests to run.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Does it. `progress` is told what goes on.
///
/// # Errors
/// When a server cannot be installed or started, or a suite fails.
pub fn run(repository: &Repository, task: Task, progress: fn(&str)) -> Result<()> {
    match task {
        Task::Install => install(repository, &Server::ALL, progress),
        Task::Run { server } => {
            install(repository, &[server], progress)?;
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(serve(repository, server, progress))
        }
        Task::Test(TestArguments { server, url, arguments }) => {
            let targets = match (server, url) {
                (server, Some(url)) => vec![Target::Remote { url, server }],
                (Some(server), None) => vec![Target::Started(server)],
                (None, None) => Target::all(),
            };
            let needed: Vec<Server> = targets.iter().filter_map(Target::to_start).collect();
            install(repository, &needed, progress)?;
            let report = test(repository, &targets, &arguments, progress)?;
            for line in report.skipped_lines() {
                println!("SKIPPED {line}");
            }
            println!("{report}");
            report.require_passed()
        }
    }
}

/// Runs a server until we are told to end.
async fn serve(repository: &Repository, server: Server, progress: fn(&str)) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    let serving = async {
        let running = start(repository, server).await?;
        println!("{}", exports(&running));
        progress(&format!("{} runs; ctrl-C stops it", server.name()));
        // Never ends by itself.
        let () = std::future::pending().await;
        drop(running);
        anyhow::Ok(())
    };
    tokio::select! {
        ended = serving => ended,
        interrupted = ctrl_c() => interrupted.context("cannot listen for ctrl-C"),
        _ = terminate.recv() => Ok(()),
    }
}

/// What a shell is told.
fn exports(running: &Running) -> String {
    let export = |(name, value): (&str, String)| format!("export {name}='{value}'");
    running.environment().into_iter().map(export).collect::<Vec<_>>().join("\n")
}
