//! Skipped checks: a test that cannot run here says so where continuous integration sees it.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// The environment variable that names the file to which skipped checks are added, one on a line.
pub const SKIPS_VARIABLE: &str = "LAYERPACK_SKIPS";

/// Says that the check `name` did not run and why: prints `SKIPPED name: reason`, and adds `name: reason` to the file
/// that the environment variable `LAYERPACK_SKIPS` names, if it is set. Both must be on one line; `name` has no colon.
///
/// A file that cannot be written is reported on the same line: the test goes on.
#[expect(clippy::print_stdout, reason = "saying it on stdout is the purpose")]
pub fn skip(name: &str, reason: &str) {
    let recorded = match std::env::var_os(SKIPS_VARIABLE) {
        Some(path) => record(Path::new(&path), name, reason),
        None => Ok(()),
    };
    match recorded {
        Ok(()) => println!("SKIPPED {name}: {reason}"),
        Err(error) => println!("SKIPPED {name}: {reason} (not recorded: {error})"),
    }
}

/// Adds a line with one write, so that the lines of tests that run at once do not mix.
fn record(path: &Path, name: &str, reason: &str) -> io::Result<()> {
    let mut file = File::options().append(true).create(true).open(path)?;
    file.write_all(format!("{name}: {reason}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_skip_is_a_line_of_the_record() {
        let file = tempfile::NamedTempFile::new().unwrap();
        record(file.path(), "first", "no initdb").unwrap();
        record(file.path(), "second", "no server: none is needed").unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(text, "first: no initdb\nsecond: no server: none is needed\n");
    }
}
