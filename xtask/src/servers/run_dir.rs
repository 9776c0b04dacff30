//! Where a server keeps its data while it runs, and its logs afterwards.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::process::{Pid, test_kill_process};

use super::Server;
use crate::repository::Repository;

/// Below the target folder.
const ROOT: &str = "target/s3-servers";

/// A directory that is removed when this is dropped, and files elsewhere that belong to it. Those of a process that
/// was killed are removed by the next.
#[derive(Debug)]
pub(super) struct RunDir {
    path: PathBuf,
    logs: PathBuf,
    litter: Vec<PathBuf>,
}

/// Where servers are installed.
pub(super) fn root(repository: &Repository) -> PathBuf {
    repository.root().join(ROOT)
}

impl RunDir {
    /// Makes an empty directory for `server`.
    pub(super) fn create(repository: &Repository, server: Server) -> Result<Self> {
        let runs = root(repository).join("run");
        let logs = root(repository).join("logs").join(server.name());
        for dir in [&runs, &logs] {
            fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        }
        sweep(&runs)?;
        let dir = tempfile::Builder::new()
            .prefix(&format!("{}-{}-", std::process::id(), server.name()))
            .tempdir_in(&runs)
            .with_context(|| format!("making a directory in {}", runs.display()))?;
        Ok(Self { path: dir.keep(), logs, litter: Vec::new() })
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a directory in it.
    pub(super) fn subdir(&self, name: &str) -> Result<String> {
        let dir = self.path.join(name);
        fs::create_dir(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(dir.display().to_string())
    }

    /// The log file of a program; it stays.
    pub(super) fn log(&self, program: &str) -> PathBuf {
        self.logs.join(format!("{program}.log"))
    }

    /// Has a file removed too that a server puts elsewhere.
    pub(super) fn adopt(&mut self, path: PathBuf) {
        self.litter.push(path);
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        for path in &self.litter {
            // A server that did not come far has not made it.
            let _ = fs::remove_file(path);
        }
        // What is left is swept by the next run.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes what processes have left that were killed.
fn sweep(runs: &Path) -> Result<()> {
    for entry in fs::read_dir(runs).with_context(|| format!("listing {}", runs.display()))? {
        let entry = entry.with_context(|| format!("listing {}", runs.display()))?;
        let name = entry.file_name();
        if owner(&name.to_string_lossy()).is_some_and(|pid| test_kill_process(pid).is_err()) {
            // Somebody else may be sweeping too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// The process that made a directory of this name.
fn owner(name: &str) -> Option<Pid> {
    Pid::from_raw(name.split('-').next()?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_dead_processes_left_is_swept() {
        let runs = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let (ours, dead, other) =
            (format!("{}-a-x", std::process::id()), format!("{}-a-x", child.id()), "x-1".to_owned());
        for name in [&ours, &dead, &other] {
            fs::create_dir(runs.path().join(name)).unwrap();
        }
        sweep(runs.path()).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(runs.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [ours.as_str(), other.as_str()]);
    }

    #[test]
    fn a_run_takes_its_litter_with_it() {
        let elsewhere = tempfile::NamedTempFile::new().unwrap();
        let mut dir = RunDir::create(&Repository::here(), Server::Seaweedfs).unwrap();
        dir.subdir("data").unwrap();
        dir.adopt(elsewhere.path().to_owned());
        let path = dir.path().to_owned();
        drop(dir);
        assert!(!path.try_exists().unwrap() && !elsewhere.path().try_exists().unwrap());
    }
}
