//! The archive inspector: prints what is in one bundle or manifest.
//!
//! ```text
//! cargo run -p sync-engine --example inspect -- FILE [--check] [--json] [--svg FILE]
//! cargo run -p sync-engine --example inspect -- --store DIRECTORY KEY [--check] [--json] [--svg FILE]
//! ```

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use storage_api::Key;
use storage_localfs::LocalStore;
use sync_engine::inspect::{Inspected, Problem, Report, Subject, check, draw_bundle, inspect};

const USAGE: &str = "usage: inspect (FILE | --store DIRECTORY KEY) [--check] [--json] [--svg FILE]";

type AnyError = Box<dyn std::error::Error>;

#[derive(Default)]
struct Arguments {
    store: Option<PathBuf>,
    subject: Option<String>,
    svg: Option<PathBuf>,
    check: bool,
    json: bool,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, AnyError> {
        let mut arguments = Self::default();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--check" => arguments.check = true,
                "--json" => arguments.json = true,
                "--store" => arguments.store = Some(words.next().ok_or(USAGE)?.into()),
                "--svg" => arguments.svg = Some(words.next().ok_or(USAGE)?.into()),
                _ if word.starts_with('-') || arguments.subject.is_some() => return Err(USAGE.into()),
                _ => arguments.subject = Some(word),
            }
        }
        Ok(arguments)
    }

    fn subject(&self) -> Result<Subject, AnyError> {
        let subject = self.subject.as_deref().ok_or(USAGE)?;
        Ok(match &self.store {
            Some(root) => Subject::Object(Arc::new(LocalStore::open(root)?), Key::new(subject)?),
            None => Subject::File(subject.into()),
        })
    }
}

async fn run(arguments: Arguments) -> Result<Vec<Problem>, AnyError> {
    let subject = arguments.subject()?;
    let inspected = inspect(&subject).await?;
    let problems = if arguments.check { check(&subject, &inspected).await? } else { Vec::new() };
    if let (Some(path), Inspected::Bundle(index)) = (&arguments.svg, &inspected) {
        File::create(path)?.write_all(draw_bundle(index).as_bytes())?;
    }
    let report = Report::from(&inspected);
    if arguments.json {
        let checked = arguments.check.then_some(&problems);
        print(&format!("{}\n", serde_json::json!({ "object": report, "problems": checked })))?;
        return Ok(problems);
    }
    let mut text = report.to_string();
    if arguments.check {
        writeln!(text, "\nchecked: {} problems", problems.len())?;
    }
    for Problem { layer, offset, problem } in &problems {
        let place = layer.clone().or(offset.map(|at| format!("at {at}"))).unwrap_or_default();
        writeln!(text, "  {place}: {problem}")?;
    }
    print(&text)?;
    Ok(problems)
}

/// Prints, and does not mind that whoever reads has seen enough.
fn print(text: &str) -> std::io::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => run(arguments).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(problems) if problems.is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(3),
        Err(error) => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                text.push_str(&format!(": {cause}"));
                source = cause.source();
            }
            let _ = writeln!(std::io::stderr(), "error: {text}");
            ExitCode::FAILURE
        }
    }
}
