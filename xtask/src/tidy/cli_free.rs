//! The library that a pageserver links, its backends included, has none of the command line's dependencies.

use super::Violation;

/// The crate a pageserver links.
pub(super) const LIBRARY: &str = "pageserver-glue";

/// Crates for programs that talk to people.
const FOR_PROGRAMS: [&str; 7] =
    ["anyhow", "clap", "clap_builder", "clap_derive", "console", "indicatif", "tracing-subscriber"];

/// Checks what `cargo tree --prefix none` prints for [`LIBRARY`] with its default features.
pub(super) fn check(tree: &str) -> Vec<Violation> {
    let mut found: Vec<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    found.retain(|name| FOR_PROGRAMS.contains(name));
    found.sort_unstable();
    found.dedup();
    let violation = |name| Violation {
        check: "cli-free",
        place: LIBRARY.to_owned(),
        message: format!(
            "pulls in {name} with its default features: make what needs it part of the feature `cli`"
        ),
    };
    found.into_iter().map(violation).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_cli_dependency_is_found_once() {
        let tree = "pageserver-glue v0.1.0 (/x)\nthiserror v2.0.1\nclap v4.5.0\n\
                    anyhow v1.0.0\nclap v4.5.0 (*)\nclapper v1.0.0\n";
        let found: Vec<String> = check(tree).into_iter().map(|violation| violation.message).collect();
        assert_eq!(found.len(), 2);
        assert!(found[0].contains(" anyhow ") && found[1].contains(" clap "), "{found:?}");
    }

    #[test]
    fn a_library_alone_passes() {
        assert_eq!(check("pageserver-glue v0.1.0 (/x)\nstorage-api v0.1.0 (/x)\ntokio v1.0.0\n"), []);
    }
}
