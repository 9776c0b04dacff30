//! Child processes that do not outlive us, however we end.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Program;
use super::run_dir::RunDir;

/// Becomes the program. A second process waits until the pipe on standard input ends, which it does when we do, and
/// then kills the group: the program, what it has started, and itself.
const WATCHED: &str = "exec 3<&0 </dev/null; { read -r _ <&3; kill -9 0; } & exec 3<&-; exec \"$@\"";
/// Of a log, so much is shown.
const LOG_TAIL_BYTES: u64 = 2_000;

/// A running program. Dropping it kills it, and what it has started.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program` in `dir`, with a log of its own.
    pub(super) fn start(program: &Program, dir: &RunDir) -> Result<Self> {
        let Program { name, path, arguments, environment } = program;
        let log = dir.log(name);
        let output = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let errors = output.try_clone().context("sharing a log file")?;
        let mut command = Command::new("sh");
        command.args(["-c", WATCHED, name]).arg(path).args(arguments).current_dir(dir.path());
        command.env_clear().env("HOME", dir.path()).envs(environment.iter().map(|(key, value)| (key, value)));
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.stdin(Stdio::piped()).stdout(output).stderr(errors);
        // A group of its own, so that a ctrl-C at the terminal is ours alone.
        let child = command.process_group(0).spawn().with_context(|| format!("starting {name}"))?;
        Ok(Self { name: name.clone(), child, log })
    }

    /// Refuses a program that has ended, with what its log says.
    pub(super) fn require_running(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait().with_context(|| format!("watching {}", self.name))? {
            bail!("{} has ended ({status}); {}", self.name, self.log_tail());
        }
        Ok(())
    }

    /// What the end of its log says.
    pub(super) fn log_tail(&self) -> String {
        let path = self.log.display();
        match tail(&self.log) {
            Ok(text) => format!("the end of its log {path}:\n{}", text.trim_end()),
            Err(error) => format!("its log {path} cannot be read: {error}"),
        }
    }
}

fn tail(path: &std::path::Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Drop for Process {
    fn drop(&mut self) {
        // The end of the pipe makes the second process kill the group.
        drop(self.child.stdin.take());
        // Whether it was still there is all the same; what is waited for is that its ports are free.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::super::Server;
    use super::*;
    use crate::repository::Repository;

    fn shell(dir: &RunDir, script: &str) -> Process {
        let program = Program {
            name: "script".into(),
            path: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: vec![("ONLY", "this".into())],
        };
        Process::start(&program, dir).unwrap()
    }

    #[test]
    fn when_we_end_so_does_all_that_was_started() {
        let dir = RunDir::create(&Repository::here(), Server::Ministack).unwrap();
        let path = dir.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let mut process = shell(&dir, "sh -c 'echo started; sleep 20; echo survived' > pipe & wait");
        let mut pipe = BufReader::new(File::open(path).unwrap());
        let mut said = String::new();
        pipe.read_line(&mut said).unwrap();
        // What the system does when we end in any way.
        drop(process.child.stdin.take());
        pipe.read_to_string(&mut said).unwrap();
        assert_eq!(said, "started\n");
    }

    #[test]
    fn a_program_that_ends_is_reported_with_its_log() {
        let dir = RunDir::create(&Repository::here(), Server::Seaweedfs).unwrap();
        let mut process = shell(&dir, "echo \"$ONLY $USER\"; exit 7");
        // Waiting would close it, and have all killed.
        let _stdin = process.child.stdin.take();
        process.child.wait().unwrap();
        let error = process.require_running().unwrap_err().to_string();
        assert!(error.contains("exit status: 7") && error.ends_with("\nthis"), "{error}");
    }
}
