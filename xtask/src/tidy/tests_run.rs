//! Every test runs: what cannot run here says so while it runs, it is not switched off in the source.

use super::{SourceFile, Violation};

/// Checks that no test is marked as ignored.
pub(super) fn check(files: &[SourceFile]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        for (number, line) in (1..).zip(file.text.lines()) {
            if is_ignore(line.trim_start()) {
                violations.push(Violation {
                    check: "tests-run",
                    place: format!("{}:{number}", file.path),
                    message: "switches a test off: let it run and call `xtask::skip` where it cannot"
                        .to_owned(),
                });
            }
        }
    }
    violations
}

fn is_ignore(line: &str) -> bool {
    let attribute = line.strip_prefix("#[").map(str::trim_start);
    attribute.is_some_and(|rest| {
        let conditional = rest.starts_with("cfg_attr") && rest.split([',', '(', ' ']).any(is_ignore_word);
        conditional || rest.split([']', ' ', '=']).next().is_some_and(is_ignore_word)
    })
}

fn is_ignore_word(word: &str) -> bool {
    word.trim_end_matches([')', ']']) == "ignore"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planted_attributes_are_found() {
        for attribute in
            ["ignore]", "ignore = \"slow\"]", "cfg_attr(miri, ignore)]", "cfg_attr(miri, ignore = \"slow\")]"]
        {
            let text = format!("//! Tests.\n    #[{attribute}\n    #[test]\n    fn f() {{}}\n");
            let file = SourceFile { path: "a.rs".to_owned(), text };
            let places: Vec<String> = check(&[file]).into_iter().map(|violation| violation.place).collect();
            assert_eq!(places, ["a.rs:2"], "{attribute}");
        }
    }

    #[test]
    fn other_lines_pass() {
        let text =
            "//! Tests.\n// #[ignored]\n#[test]\n#[should_panic]\n#[cfg_attr(a, ignored)]\nignore();\n";
        assert_eq!(check(&[SourceFile { path: "a.rs".to_owned(), text: text.to_owned() }]), []);
    }
}
