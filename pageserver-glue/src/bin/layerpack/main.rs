//! The `layerpack` program. `session` opens what a command works on, each command is a module of its own, and
//! `output` says how it went.

mod args;
mod backup;
mod cat;
mod config;
mod copy;
mod copy_tenant;
mod damage;
mod delete;
mod dry_run;
mod exit;
mod fetch;
mod gc;
mod inspect;
mod layers;
mod ls;
mod output;
mod past;
mod progress;
mod repair;
mod restore;
mod rm;
mod session;
mod status;
mod verify;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::{Arguments, Command, Global};
use crate::exit::{Exit, Failure};
use crate::output::{Format, Outcome, Quiet, Style, explain_failure};
use crate::session::Session;

/// How long work that cannot be broken off is waited for when the program is interrupted.
const GRACE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    ExitCode::from(run().code())
}

fn run() -> Exit {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    let style = style_of(&arguments);
    start_log(&arguments.global);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return style.fail(Exit::Failed, &format!("cannot start threads: {error}")),
    };
    let session = match Session::new(&arguments, style) {
        Ok(session) => session,
        Err(failure) => return style.fail(failure.exit(), &explain_failure(&failure)),
    };
    let ended = runtime.block_on(async {
        // A write beyond the file size limit then fails, as on a full disk, and does not kill the process.
        let _xfsz = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()));
        tokio::select! {
            ended = execute(&session, &arguments) => ended,
            failure = interrupted() => Err(failure),
        }
    });
    let exit = style.finish(ended, &session.cost());
    runtime.shutdown_timeout(GRACE);
    exit
}

async fn execute(session: &Session, arguments: &Arguments) -> Result<Outcome, Failure> {
    match &arguments.command {
        Command::Backup(backup) => backup::run(session, backup).await,
        Command::Restore(restore) => restore::run(session, restore).await,
        Command::Status(status) => status::run(session, status).await,
        Command::Ls(ls) => ls::run(session, ls).await,
        Command::Inspect(inspect) => inspect::run(session, inspect).await,
        Command::Fetch(fetch) => fetch::run(session, fetch).await,
        Command::Cat(cat) => cat::run(session, cat).await,
        Command::Rm(rm) => rm::run(session, rm).await,
        Command::Gc(gc) => gc::run(session, gc).await,
        Command::Copy(copy) => copy::run(session, copy).await,
        Command::Delete(delete) => delete::run(session, delete).await,
        Command::Verify(verify) => verify::run(session, verify).await,
    }
}

fn style_of(arguments: &Arguments) -> Style {
    let format = match (arguments.global.json, &arguments.command) {
        (false, _) => Format::Text,
        (true, Command::Cat(_)) => Format::JsonOnStderr,
        (true, _) => Format::Json,
    };
    Style::new(format, if arguments.global.quiet { Quiet::Yes } else { Quiet::No })
}

/// Says what is wrong with the command line, or prints the help that was asked for.
fn refuse(error: &clap::Error) -> Exit {
    let mut words = std::env::args_os().skip(1);
    if error.use_stderr() && words.any(|word| word == "--json") {
        let message = error.to_string();
        let lines = message.trim_start_matches("error: ").lines().map(str::trim);
        let message: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
        let cat = std::env::args_os().nth(1).is_some_and(|command| command == "cat");
        let format = if cat { Format::JsonOnStderr } else { Format::Json };
        return Style::new(format, Quiet::Yes).fail(Exit::Usage, &message.join(" "));
    }
    // Where nobody reads it there is nobody to tell.
    let _ = error.print();
    if error.use_stderr() { Exit::Usage } else { Exit::Done }
}

/// Waits for a signal that asks the program to end.
async fn interrupted() -> Failure {
    let streams = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = streams else {
        // Without handlers the signals end the process by themselves.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => Failure::Interrupted,
        _ = terminate.recv() => Failure::Terminated,
    }
}

fn start_log(global: &Global) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => LevelFilter::ERROR,
        // The one object says it all, and may be on stderr.
        (_, 0) if global.json => LevelFilter::OFF,
        (_, 0) => LevelFilter::WARN,
        (_, 1) => LevelFilter::INFO,
        (_, 2) => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    // A second log in one process is a bug that a log cannot tell.
    let _ = tracing_subscriber::registry().with(layer.with_filter(logged(level))).try_init();
}

/// What is logged: this project's own crates, at most at `level`, whatever the environment says. Others may log secrets:
/// the AWS SDK's `trace` has the headers of requests and what their signatures are made of.
fn logged(level: LevelFilter) -> Targets {
    let ours = [
        "layerpack",
        "layer_archive",
        "pageserver_glue",
        "storage_api",
        "storage_localfs",
        "storage_s3",
        "sync_engine",
    ];
    ours.into_iter().fold(Targets::new(), |targets, name| targets.with_target(name, level))
}
