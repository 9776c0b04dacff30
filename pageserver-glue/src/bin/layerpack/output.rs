//! What people and scripts get to see: results on stdout, errors, warnings and progress on stderr.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use serde_json::{Map, Value, json};
use sync_engine::FailedLayer;

use crate::exit::{Exit, Failure, advice};

#[cfg(test)]
mod tests;

/// Names that are listed before the rest is only counted.
pub(crate) const LISTED_MAX: usize = 5;

/// How a run talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Style {
    pub(crate) format: Format,
    pub(crate) chatter: Chatter,
}

/// Of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    /// One object on stdout.
    Json,
    /// One object on stderr, because stdout is the data.
    JsonOnStderr,
}

/// What goes to stderr besides errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chatter {
    /// Nothing.
    None,
    /// Warnings and lines of progress.
    Lines,
    /// Warnings and a progress bar.
    Bar,
}

/// What a command has to say.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// For scripts.
    pub(crate) json: Map<String, Value>,
    /// For people: whole lines.
    pub(crate) text: String,
    /// Oddities, a line each.
    pub(crate) warnings: Vec<String>,
    /// What went wrong although the command went on, a line each.
    pub(crate) problems: Vec<String>,
    /// How it ended.
    pub(crate) exit: Exit,
}

impl Outcome {
    /// An outcome that `json` says, and then what it cost.
    pub(crate) fn new(json: &impl Serialize, cost: &impl Serialize) -> Self {
        let mut object = Map::new();
        for part in [serde_json::to_value(json), serde_json::to_value(cost)] {
            match part {
                Ok(Value::Object(fields)) => object.extend(fields),
                Ok(other) => drop(object.insert("value".into(), other)),
                Err(error) => drop(object.insert("error".into(), error.to_string().into())),
            }
        }
        let (text, warnings, problems) = (String::new(), Vec::new(), Vec::new());
        Self { json: object, text, warnings, problems, exit: Exit::Done }
    }
}

impl Style {
    /// Where stderr is a terminal and nothing else was asked for, progress is a bar.
    pub(crate) fn new(format: Format, quiet: Quiet) -> Self {
        let chatter = match (format, quiet) {
            (Format::Json | Format::JsonOnStderr, _) | (_, Quiet::Yes) => Chatter::None,
            (Format::Text, Quiet::No) if io::stderr().is_terminal() => Chatter::Bar,
            (Format::Text, Quiet::No) => Chatter::Lines,
        };
        Self { format, chatter }
    }

    /// Prints how a command ended, and what it had cost by then, and returns what to exit with.
    pub(crate) fn finish(self, ended: Result<Outcome, Failure>, cost: &impl Serialize) -> Exit {
        match ended {
            Ok(outcome) => {
                let exit = outcome.exit;
                let printed = match self.format {
                    Format::Text => self.print_text(&outcome),
                    _ => self.print_json(outcome.json, exit),
                };
                printed.map_or_else(|error| unprinted(&error, exit), |()| exit)
            }
            Err(failure) => {
                let message = explain_failure(&failure);
                let json = Outcome::new(&json!({ "error": message }), cost).json;
                self.print_failure(failure.exit(), &message, json)
            }
        }
    }

    /// Prints why a command could not begin.
    pub(crate) fn fail(self, exit: Exit, message: &str) -> Exit {
        self.print_failure(exit, message, Map::from_iter([("error".to_owned(), json!(message))]))
    }

    fn print_failure(self, exit: Exit, message: &str, json: Map<String, Value>) -> Exit {
        let printed = match self.format {
            Format::Text => print_errors("error", &[message.to_owned()]),
            _ => self.print_json(json, exit),
        };
        printed.map_or_else(|error| unprinted(&error, exit), |()| exit)
    }

    fn print_text(self, outcome: &Outcome) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(outcome.text.as_bytes())?;
        stdout.flush()?;
        if self.chatter != Chatter::None {
            print_errors("warning", &outcome.warnings)?;
        }
        print_errors("error", &outcome.problems)
    }

    fn print_json(self, mut object: Map<String, Value>, exit: Exit) -> io::Result<()> {
        object.insert("exit_code".into(), exit.code().into());
        let mut line = Value::Object(object).to_string();
        line.push('\n');
        if self.format == Format::JsonOnStderr {
            return io::stderr().lock().write_all(line.as_bytes());
        }
        let mut stdout = io::stdout().lock();
        stdout.write_all(line.as_bytes())?;
        stdout.flush()
    }
}

/// Whether `-q` was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quiet {
    No,
    Yes,
}

/// What to exit with where the result could not be printed. A reader that has seen enough is no failure.
fn unprinted(error: &io::Error, exit: Exit) -> Exit {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return exit;
    }
    // Where stderr is gone too there is nobody to tell.
    let _ = print_errors("error", &[format!("cannot write the result: {error}")]);
    exit.or_worse(Exit::Failed)
}

fn print_errors(label: &str, lines: &[String]) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    lines.iter().try_for_each(|line| writeln!(stderr, "{label}: {}", printable(line)))
}

/// An error and its causes, in one line.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some foreign errors repeat their source.
        if !text.ends_with(&more) {
            let _ = write!(text, ": {more}");
        }
        cause = error.source();
    }
    text
}

/// Why a command failed and what to do about it, in one line.
pub(crate) fn explain_failure(failure: &Failure) -> String {
    with_advice(chain(failure), failure.advice())
}

/// Why the engine failed and what to do about it, in one line.
pub(crate) fn explain(error: &sync_engine::Error) -> String {
    with_advice(chain(error), advice(error))
}

fn with_advice(text: String, advice: Option<&str>) -> String {
    match advice {
        Some(advice) => format!("{text}: {advice}"),
        None => text,
    }
}

/// Text from a store or a disk, without characters that do something to a terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

/// Bytes in a unit that people read: powers of 1000.
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// A number of things: `1 layer`, `2 layers`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// A line about several names: the first few, and how many more.
pub(crate) fn names_line<S: AsRef<str>>(names: &[S]) -> String {
    let listed: Vec<&str> = names.iter().take(LISTED_MAX).map(AsRef::as_ref).collect();
    let more = names.len() - listed.len();
    let listed = listed.join(", ");
    if more == 0 { listed } else { format!("{listed} and {more} more") }
}

/// Lines about layers that failed, one for each cause; of many causes the first few. `what` says what was being done to
/// them.
pub(crate) fn failed_lines(what: &str, failed: &[FailedLayer]) -> Vec<String> {
    let mut by_cause: Vec<(String, Vec<&str>)> = Vec::new();
    let mut unlisted = 0;
    for layer in failed {
        let cause = explain(&layer.error);
        match by_cause.iter().position(|(known, _)| *known == cause) {
            Some(known) => by_cause[known].1.push(layer.name.as_str()),
            None if by_cause.len() < LISTED_MAX => by_cause.push((cause, vec![layer.name.as_str()])),
            None => unlisted += 1,
        }
    }
    let line = |(cause, names): (String, Vec<&str>)| {
        format!("could not {what} {} ({}): {cause}", counted(names.len(), "layer"), names_line(&names))
    };
    let mut lines: Vec<String> = by_cause.into_iter().map(line).collect();
    if unlisted > 0 {
        let more = counted(unlisted, "more layer");
        lines.push(format!("could not {what} {more}: --json lists every one with its cause"));
    }
    lines
}
