//! What takes longer to check than continuous integration may: the same tests with larger bounds and more seeds.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::ci::run_command;
use crate::repository::Repository;

/// The variable that asks the tests for their larger bounds.
const PROVE_VARIABLE: &str = "LAYERPACK_PROVE";

/// A test that has larger bounds.
struct Proof {
    name: &'static str,
    says: &'static str,
    /// What follows `cargo test`.
    arguments: &'static [&'static str],
}

const PROOFS: [Proof; 3] = [
    Proof {
        name: "model",
        says: "the log protocol, all interleavings within larger bounds, and a counterexample without each rule",
        arguments: &[
            "-p",
            "sync-engine",
            "--test",
            "model",
            "--",
            "--nocapture",
            "--test-threads=1",
            "--skip=replay::",
        ],
    },
    Proof {
        name: "replay",
        says: "20,000 walks through the model, taken by the real writers on the simulated store",
        arguments: &["-p", "sync-engine", "--test", "model", "--", "--nocapture", "replay::"],
    },
    Proof {
        name: "service",
        says: "10,000 random programs of the background service, compared with a plain map after every step",
        arguments: &["-p", "sync-engine", "--test", "service", "--", "model::"],
    },
];

/// Runs the proofs with these names, or all, and prints the time that each took. `print` takes a line.
///
/// # Errors
/// When there is no proof of a name, and when a proof fails; the error names it.
pub fn run(repository: &Repository, names: &[String], print: fn(&str)) -> Result<()> {
    let mut times = Vec::new();
    for Proof { name, says, arguments } in choose(names)? {
        print(&format!("==> {name}: {says}"));
        let mut cargo = repository.cargo();
        cargo.args(["test", "--release", "--locked"]).args(*arguments).env(PROVE_VARIABLE, "1");
        let started = crate::timer();
        run_command(cargo).with_context(|| format!("the proof `{name}` failed"))?;
        times.push((name, started.elapsed()));
    }
    for (name, time) in times {
        print(&row(name, time));
    }
    Ok(())
}

fn row(name: &str, time: Duration) -> String {
    format!("{name:<12}proved  {:8.1} s", time.as_secs_f64())
}

/// The proofs with these names, or all where there are none.
fn choose(names: &[String]) -> Result<Vec<&'static Proof>> {
    let known = || PROOFS.iter().map(|proof| proof.name).collect::<Vec<_>>().join(", ");
    for name in names {
        if !PROOFS.iter().any(|proof| proof.name == name) {
            bail!("there is no proof {name:?}: there are {}", known());
        }
    }
    let chosen = |proof: &&Proof| names.is_empty() || names.iter().any(|name| name == proof.name);
    Ok(PROOFS.iter().filter(chosen).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_are_chosen_by_name_and_unknown_names_are_errors() {
        let chosen = |names: &[&str]| -> Result<Vec<&str>> {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            Ok(choose(&names)?.iter().map(|proof| proof.name).collect())
        };
        assert_eq!(chosen(&[]).unwrap(), ["model", "replay", "service"]);
        assert_eq!(chosen(&["replay"]).unwrap(), ["replay"]);
        let unknown = chosen(&["replya"]).unwrap_err().to_string();
        assert_eq!(unknown, "there is no proof \"replya\": there are model, replay, service");
    }
}
