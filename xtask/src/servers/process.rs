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

    /// The first line that comes out of a pipe, or nothing when its other end is closed.
    fn line(pipe: &std::path::Path) -> String {
        std::fs::read_to_string(pipe).unwrap()
    }

    #[test]
    fn what_a_program_has_started_ends_with_it() {
        let dir = RunDir::create(&Repository::here(), Server::Ministack).unwrap();
        let pipe = dir.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        // The grandchild holds the pipe open for writing; the reader sees the end when it is gone.
        let process = shell(&dir, "sh -c 'echo started; exec sleep 600' > pipe & wait");
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || line(&pipe)
        });
        drop(process);
        // It may not have come as far as opening the pipe: then nobody ever will.
        drop(File::options().write(true).read(true).open(&pipe).unwrap());
        let said = reader.join().unwrap();
        assert!(said.is_empty() || said == "started\n", "{said:?}");
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
