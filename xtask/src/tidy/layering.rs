//! Who may depend on whom among the workspace's crates.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Violation;

const CHECK: &str = "layering";

/// What a library crate may depend on in the workspace. Crates that depend on everything have no rule.
struct Rule {
    name: &'static str,
    /// Whatever the features are.
    always: &'static [&'static str],
    /// Only where a feature asks for it.
    optionally: &'static [&'static str],
    /// Dependencies of its tests.
    in_tests: InTests,
    /// Crates from outside that it must not have, tests included.
    banned: &'static [&'static str],
}

#[derive(PartialEq)]
enum InTests {
    Anything,
    NothingMore,
}

/// Runtimes and what exists only for them.
const ASYNC: &[&str] =
    &["async-std", "async-trait", "futures", "futures-util", "smol", "tokio", "tokio-util"];

const RULES: [Rule; 6] = [
    Rule { name: "storage-api", always: &[], optionally: &[], in_tests: InTests::Anything, banned: &[] },
    Rule {
        name: "storage-localfs",
        always: &["storage-api"],
        optionally: &[],
        in_tests: InTests::Anything,
        banned: &[],
    },
    Rule {
        name: "storage-s3",
        always: &["storage-api"],
        optionally: &[],
        in_tests: InTests::Anything,
        banned: &[],
    },
    Rule {
        name: "layer-archive",
        always: &[],
        optionally: &[],
        in_tests: InTests::NothingMore,
        banned: ASYNC,
    },
    Rule {
        name: "sync-engine",
        always: &["storage-api", "layer-archive"],
        optionally: &[],
        in_tests: InTests::Anything,
        banned: &[],
    },
    Rule {
        name: "pageserver-glue",
        always: &["storage-api", "layer-archive", "sync-engine"],
        optionally: &["storage-localfs", "storage-s3"],
        in_tests: InTests::Anything,
        banned: &[],
    },
];

/// Crates at the top, which nothing that ships depends on.
const UNRESTRICTED: [&str; 2] = ["xtask", "layerpack-tests"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `dev`, `build`, or nothing.
    kind: Option<String>,
    optional: bool,
}

/// Checks what `cargo metadata --format-version 1 --no-deps` prints.
pub(super) fn check(metadata: &str) -> Result<Vec<Violation>> {
    let metadata: Metadata = serde_json::from_str(metadata).context("reading what cargo metadata prints")?;
    let members: Vec<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let mut violations = Vec::new();
    for package in &metadata.packages {
        if UNRESTRICTED.contains(&package.name.as_str()) {
            continue;
        }
        match RULES.iter().find(|rule| rule.name == package.name) {
            Some(rule) => {
                let broken =
                    package.dependencies.iter().filter_map(|dependency| rule.objection(dependency, &members));
                violations.extend(broken.map(|message| violation(&package.name, message)));
            }
            None => {
                violations.push(violation(&package.name, "has no rule: add one to the layering check".into()))
            }
        }
    }
    Ok(violations)
}

impl Rule {
    /// Why this crate may not have this dependency.
    fn objection(&self, dependency: &Dependency, members: &[&str]) -> Option<String> {
        let name = dependency.name.as_str();
        if self.banned.contains(&name) {
            return Some(format!("must not depend on {name}, not even in its tests"));
        }
        let always = self.always.contains(&name);
        if !members.contains(&name) || always {
            return None;
        }
        if dependency.kind.as_deref() == Some("dev") {
            let allowed = self.in_tests == InTests::Anything;
            return (!allowed).then(|| format!("must not depend on {name} in its tests"));
        }
        match (self.optionally.contains(&name), dependency.optional) {
            (true, true) => None,
            (true, false) => Some(format!("may depend on {name} only with `optional = true`")),
            (false, _) => Some(format!("must not depend on {name}: dependencies point up only")),
        }
    }
}

fn violation(package: &str, message: String) -> Violation {
    Violation { check: CHECK, place: package.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The violations of a workspace in which `package` has one dependency.
    fn with(package: &str, dependency: &str, kind: &str, optional: &str) -> Vec<String> {
        let others =
            ["storage-api", "storage-localfs", "storage-s3", "layer-archive", "sync-engine", "xtask"];
        let others = others.iter().filter(|name| **name != package);
        let others: String =
            others.map(|name| format!(r#"{{"name":"{name}","dependencies":[]}},"#)).collect();
        let metadata = format!(
            r#"{{"packages":[{others}{{"name":"{package}","dependencies":
                [{{"name":"{dependency}","kind":{kind},"optional":{optional}}}]}}]}}"#
        );
        check(&metadata).unwrap().into_iter().map(|violation| violation.place).collect()
    }

    #[test]
    fn planted_dependencies_are_found() {
        for (package, dependency, kind, optional) in [
            ("storage-api", "layer-archive", "null", "false"),
            ("storage-localfs", "sync-engine", "null", "false"),
            ("sync-engine", "storage-localfs", "null", "false"),
            ("sync-engine", "storage-localfs", "null", "true"),
            ("sync-engine", "storage-localfs", r#""build""#, "false"),
            ("layer-archive", "storage-api", "null", "false"),
            ("layer-archive", "storage-api", r#""dev""#, "false"),
            ("layer-archive", "tokio", r#""dev""#, "false"),
            ("layer-archive", "futures", "null", "true"),
            ("storage-s3", "storage-localfs", "null", "false"),
            ("sync-engine", "storage-s3", "null", "true"),
            ("pageserver-glue", "storage-localfs", "null", "false"),
            ("pageserver-glue", "storage-s3", "null", "false"),
            ("pageserver-glue", "xtask", "null", "false"),
            ("newcomer", "anyhow", "null", "false"),
        ] {
            assert_eq!(
                with(package, dependency, kind, optional),
                [package],
                "{dependency} {kind} {optional}"
            );
        }
    }

    #[test]
    fn the_agreed_dependencies_pass() {
        for (package, dependency, kind, optional) in [
            ("storage-localfs", "storage-api", "null", "false"),
            ("storage-localfs", "xtask", r#""dev""#, "false"),
            ("sync-engine", "storage-api", "null", "false"),
            ("sync-engine", "storage-localfs", r#""dev""#, "false"),
            ("sync-engine", "tokio", "null", "false"),
            ("pageserver-glue", "storage-localfs", "null", "true"),
            ("pageserver-glue", "storage-s3", "null", "true"),
            ("pageserver-glue", "storage-s3", r#""dev""#, "false"),
            ("xtask", "sync-engine", "null", "false"),
            ("layerpack-tests", "storage-localfs", "null", "false"),
        ] {
            assert_eq!(
                with(package, dependency, kind, optional),
                [""; 0],
                "{package} {dependency} {kind} {optional}"
            );
        }
    }
}
