//! The checkout: where it is, which files it has, and how its tools are run.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The checkout that this program was built from.
#[derive(Clone, Debug)]
pub struct Repository {
    root: PathBuf,
}

/// A text file of the checkout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Path below the root, with `/`.
    pub path: String,
    /// What it holds.
    pub text: String,
}

impl Repository {
    /// The checkout that this program was built from.
    pub fn here() -> Self {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self { root: package.parent().unwrap_or(package).to_owned() }
    }

    /// The top directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The text files that git tracks or would track, sorted by path. Binary files are left out. Where git cannot tell,
    /// every file but those under `target/` and `.git/`.
    ///
    /// # Errors
    /// When a file or directory cannot be read.
    pub fn text_files(&self) -> Result<Vec<SourceFile>> {
        let paths = match self.git_files() {
            Ok(paths) => paths,
            // No git, or sources without history, or somebody else's checkout: all that lies there.
            Err(_) => self.all_files()?,
        };
        let mut files = Vec::new();
        for path in &paths {
            let bytes = match fs::read(self.root.join(path)) {
                Ok(bytes) => bytes,
                // Tracked and deleted since, or a link to a directory.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => {
                    continue;
                }
                Err(error) => return Err(error).with_context(|| format!("reading {path}")),
            };
            if let Ok(text) = String::from_utf8(bytes) {
                files.push(SourceFile { path: path.to_owned(), text });
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    fn git_files(&self) -> Result<Vec<String>> {
        let mut git = self.command("git");
        git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"]);
        Ok(output(git)?.split_terminator('\0').map(str::to_owned).collect())
    }

    fn all_files(&self) -> Result<Vec<String>> {
        let mut files = Vec::new();
        let mut dirs = vec![self.root.clone()];
        while let Some(dir) = dirs.pop() {
            let listing = || format!("listing {}", dir.display());
            for entry in fs::read_dir(&dir).with_context(listing)? {
                let entry = entry.with_context(listing)?;
                let path = entry.path();
                let below = path.strip_prefix(&self.root).unwrap_or(&path);
                if entry.file_type().with_context(listing)?.is_dir() {
                    if ![Path::new("target"), Path::new(".git")].contains(&below) {
                        dirs.push(path);
                    }
                } else if let Some(below) = below.to_str() {
                    files.push(below.to_owned());
                }
            }
        }
        Ok(files)
    }

    /// A command that runs `program` in the top directory.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        command
    }

    /// A command that runs the cargo that runs us.
    pub fn cargo(&self) -> Command {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut command = Command::new(cargo);
        command.current_dir(&self.root);
        command
    }
}

/// Runs a command and gives what it printed.
///
/// # Errors
/// When it cannot be run, fails, or prints something other than UTF-8.
pub fn output(mut command: Command) -> Result<String> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("reading what {command:?} printed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(root: &Path, paths: &[&str]) -> Repository {
        for path in paths {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::File::create_new(root.join(path)).unwrap();
        }
        fs::copy(std::env::current_exe().unwrap(), root.join("binary")).unwrap();
        Repository { root: root.to_owned() }
    }

    fn paths(repository: &Repository) -> Vec<String> {
        repository.text_files().unwrap().into_iter().map(|file| file.path).collect()
    }

    #[test]
    fn sources_without_git_are_listed_too() {
        let dir = tempfile::tempdir().unwrap();
        let repository = make(dir.path(), &["a/target/b.rs", "target/c.rs", "d.md", ".ci/run"]);
        assert_eq!(paths(&repository), [".ci/run", "a/target/b.rs", "d.md"]);
    }

    #[test]
    fn git_says_what_is_ignored() {
        let files: Vec<String> = paths(&Repository::here());
        assert!(files.iter().any(|path| path == "xtask/src/repository.rs"));
        assert!(!files.iter().any(|path| path.starts_with("target/") || path.starts_with(".git/")));
    }
}
