//! The commands of the README, so that what it promises is what is tested.

use anyhow::{Context, Result, ensure};

/// What a shell would not pass on unchanged; our commands are run without one.
const SHELL_CHARACTERS: [char; 14] = ['|', '&', ';', '<', '>', '$', '`', '\\', '"', '\'', '*', '?', '#', '('];

/// The arguments for cargo in the one line of a fenced block that begins with `cargo test`.
pub(super) fn test_command(readme: &str) -> Result<Vec<String>> {
    let commands = commands(readme);
    let tests: Vec<&str> = commands.into_iter().filter(|line| is_test(line)).collect();
    ensure!(
        tests.len() == 1,
        "README.md has {} lines that begin with `cargo test` in its fenced blocks: it needs exactly one",
        tests.len()
    );
    arguments(tests[0])
}

/// The arguments for cargo in the first line of a fenced block that begins with `cargo`.
pub(super) fn first_command(readme: &str) -> Result<Vec<String>> {
    let first = commands(readme).first().copied();
    arguments(first.context("README.md has no line that begins with `cargo` in a fenced block")?)
}

fn is_test(line: &str) -> bool {
    line.split_whitespace().nth(1) == Some("test")
}

/// The lines of the fenced blocks that run cargo.
fn commands(readme: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut commands = Vec::new();
    for line in readme.lines().map(str::trim) {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced && line.split_whitespace().next() == Some("cargo") {
            commands.push(line);
        }
    }
    commands
}

fn arguments(line: &str) -> Result<Vec<String>> {
    ensure!(!line.contains(SHELL_CHARACTERS), "README.md's command `{line}` needs a shell: keep it plain");
    Ok(line.split_whitespace().skip(1).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = "# Layerpack\n\nRun `cargo test` now:\n\n```sh\ncargo xtask demo\n```\ncargo test --not-fenced\n\
                          ```\n# all\ncargo test --workspace\ncargo tests\n```\n";

    #[test]
    fn the_commands_are_found() {
        assert_eq!(first_command(README).unwrap(), ["xtask", "demo"]);
        assert_eq!(test_command(README).unwrap(), ["test", "--workspace"]);
    }

    #[test]
    fn a_readme_without_them_is_refused() {
        for readme in
            ["", "cargo test\n", "```\ncargo build\n```\n", "```\ncargo test\ncargo test -p a\n```\n"]
        {
            assert!(test_command(readme).is_err(), "{readme}");
        }
        assert!(first_command("cargo xtask demo\n").is_err());
        assert!(test_command("```\ncargo test | tail\n```\n").unwrap_err().to_string().contains("shell"));
    }
}
