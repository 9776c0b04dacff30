//! Every Rust file starts by saying what it is about.

use super::{SourceFile, Violation};

/// Checks that each Rust file begins with `//!` and words.
pub(super) fn check(files: &[SourceFile]) -> Vec<Violation> {
    let without = files.iter().filter(|file| file.path.ends_with(".rs") && !has_header(&file.text));
    let violation = |file: &SourceFile| Violation {
        check: "headers",
        place: file.path.clone(),
        message: "does not start with `//!` and what the module is about".to_owned(),
    };
    without.map(violation).collect()
}

fn has_header(text: &str) -> bool {
    text.strip_prefix("//!")
        .is_some_and(|rest| rest.lines().next().is_some_and(|line| !line.trim().is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(path: &str, text: &str) -> Vec<String> {
        let file = SourceFile { path: path.to_owned(), text: text.to_owned() };
        check(&[file]).into_iter().map(|violation| violation.place).collect()
    }

    #[test]
    fn planted_files_without_header_are_found() {
        for text in ["", "use std::fmt;\n", "//!\n//! Late.\n", "\n//! Late.\n", "// Not for rustdoc.\n"] {
            assert_eq!(places("a/src/b.rs", text), ["a/src/b.rs"], "{text:?}");
        }
    }

    #[test]
    fn headers_and_other_files_pass() {
        assert_eq!(places("a/src/b.rs", "//! Bees.\n\nuse std::fmt;\n"), [""; 0]);
        assert_eq!(places("a/b.toml", "x = 1\n"), [""; 0]);
    }
}
