//! Continuous integration: the steps, their times, and the first that fails.

mod cargo_deny;
mod readme;
pub(crate) mod skipped;
mod steps;

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::repository::Repository;
use steps::STEPS;

/// One step.
struct Step {
    name: &'static str,
    run: fn(&Repository) -> Result<()>,
}

/// What came of a step.
#[derive(Debug)]
struct Ran {
    time: Duration,
    passed: bool,
}

/// Runs every step, stops at the first that fails, and prints each step's name and time.
///
/// # Errors
/// When a step fails; the error names it.
pub fn run(repository: &Repository) -> Result<()> {
    run_steps(&STEPS, repository, &print)
}

#[expect(clippy::print_stdout, reason = "the step and its time are what the caller wants to see")]
fn print(line: &str) {
    println!("{line}");
}

fn run_steps(steps: &[Step], repository: &Repository, print: &dyn Fn(&str)) -> Result<()> {
    let mut ran = Vec::new();
    let mut result = Ok(());
    for step in steps {
        print(&format!("==> {}", step.name));
        let started = crate::timer();
        result = (step.run)(repository).with_context(|| format!("the step `{}` failed", step.name));
        let time = started.elapsed();
        ran.push(Ran { time, passed: result.is_ok() });
        print(&format!("==> {}: {:.1} s", step.name, time.as_secs_f64()));
        if result.is_err() {
            break;
        }
    }
    print(&table(steps, &ran));
    result
}

/// One line for each step: passed, FAILED or not run, and its time.
fn table(steps: &[Step], ran: &[Ran]) -> String {
    let mut table = String::new();
    for (index, step) in steps.iter().enumerate() {
        let outcome = match ran.get(index) {
            Some(Ran { time, passed: true }) => format!("passed  {:8.1} s", time.as_secs_f64()),
            Some(Ran { time, passed: false }) => format!("FAILED  {:8.1} s", time.as_secs_f64()),
            None => "not run".to_owned(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(table, "{:<12}{outcome}", step.name);
    }
    let total: Duration = ran.iter().map(|ran| ran.time).sum();
    let _ = write!(table, "{:<20}{:8.1} s", "total", total.as_secs_f64());
    table
}

/// Runs a command that prints for itself.
pub(crate) fn run_command(mut command: std::process::Command) -> Result<()> {
    command.stdin(std::process::Stdio::null());
    let status = command.status().with_context(|| format!("running {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const PASSES: Step = Step { name: "passes", run: |_| Ok(()) };
    const FAILS: Step = Step { name: "fails", run: |_| bail!("broken") };

    fn run(steps: &[Step]) -> (Result<()>, Vec<String>) {
        let printed = RefCell::new(Vec::new());
        let result =
            run_steps(steps, &Repository::here(), &|line| printed.borrow_mut().push(line.to_owned()));
        (result, printed.into_inner())
    }

    #[test]
    fn the_first_failure_stops_the_run_and_is_named() {
        let (result, printed) = run(&[PASSES, FAILS, PASSES]);
        assert_eq!(format!("{:#}", result.unwrap_err()), "the step `fails` failed: broken");
        assert_eq!(printed.iter().filter(|line| *line == "==> passes").count(), 1);
        let rows: Vec<Vec<&str>> =
            printed.last().unwrap().lines().map(|row| row.split_whitespace().take(2).collect()).collect();
        assert_eq!(rows[..3], [["passes", "passed"], ["fails", "FAILED"], ["passes", "not"]]);
    }

    #[test]
    fn a_run_without_failure_passes() {
        let (result, printed) = run(&[PASSES, PASSES]);
        assert!(result.is_ok());
        assert!(printed.last().unwrap().lines().last().unwrap().starts_with("total"));
    }
}
