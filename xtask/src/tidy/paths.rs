//! No file knows where it lies: paths of one machine do not belong into the checkout.

use super::{SourceFile, Violation};

/// Directories that differ from machine to machine. In two pieces each, so that this file does not hold them.
const MACHINE_DIRECTORIES: [&str; 3] = [concat!("/", "work/"), concat!("/", "root/"), concat!("/", "tmp/")];

/// Checks that no line holds an absolute path into such a directory.
pub(super) fn check(files: &[SourceFile]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in files {
        for (number, line) in (1..).zip(file.text.lines()) {
            for directory in MACHINE_DIRECTORIES.iter().filter(|directory| holds_absolute(line, directory)) {
                violations.push(Violation {
                    check: "paths",
                    place: format!("{}:{number}", file.path),
                    message: format!(
                        "holds a path in {directory}: use a relative path or a temporary directory"
                    ),
                });
            }
        }
    }
    violations
}

/// Whether `directory` is in `line` other than inside of a longer path or URL.
fn holds_absolute(line: &str, directory: &str) -> bool {
    line.match_indices(directory).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let inside = |c: char| c.is_alphanumeric() || "_-.~$}>)*%".contains(c);
        let scheme = line[..at].ends_with("file://");
        scheme || !before.is_some_and(|c| inside(c) || c == '/')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(line: &str) -> Vec<String> {
        let file = SourceFile { path: "docs/a.md".to_owned(), text: format!("# A\n{line}\n") };
        check(&[file]).into_iter().map(|violation| violation.place).collect()
    }

    #[test]
    fn planted_paths_are_found() {
        for directory in MACHINE_DIRECTORIES {
            for before in ["", "cd ", "\"", "`", "=", "(", "file://"] {
                let line = format!("{before}{directory}x");
                assert_eq!(places(&line), ["docs/a.md:2"], "{line}");
            }
        }
    }

    #[test]
    fn relative_paths_and_urls_pass() {
        for directory in MACHINE_DIRECTORIES {
            for before in ["target", "https://example.org", "$DIR", "${DIR}", "a/b", "..", "<root>"] {
                let line = format!("{before}{directory}x");
                assert_eq!(places(&line), [""; 0], "{line}");
            }
        }
    }
}
