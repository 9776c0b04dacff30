//! A scratch PostgreSQL cluster: made by `initdb`, perhaps filled by `pgbench`, gone when dropped.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::installation::Installation;

/// The name of the cluster's superuser.
const SUPERUSER: &str = "postgres";

/// The user and group ids PostgreSQL's programs run under.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Account {
    user: u32,
    group: u32,
}

/// `nobody` and its group, where `/etc/passwd` names nobody better.
const NOBODY: Account = Account { user: 65534, group: 65534 };

/// A cluster in a scratch directory.
#[derive(Debug)]
pub(super) struct Cluster {
    installation: Installation,
    /// Whom to run programs as; `None` is ourselves.
    account: Option<Account>,
    scratch: TempDir,
}

impl Cluster {
    /// Makes a cluster with `initdb`. PostgreSQL refuses to run as root, so root lends it to another user.
    pub(super) fn create(installation: Installation) -> Result<Self> {
        let scratch = tempfile::Builder::new().prefix("layerpack-pg-").tempdir();
        let scratch = scratch.context("making a scratch directory for a PostgreSQL cluster")?;
        let account = rustix::process::geteuid().is_root().then(unprivileged_account);
        if let Some(Account { user, group }) = account {
            let path = scratch.path();
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))
                .and_then(|()| chown(path, Some(user), Some(group)))
                .with_context(|| format!("giving {} to user {user}", path.display()))?;
        }
        let cluster = Self { installation, account, scratch };
        let mut initdb = cluster.command("initdb");
        initdb.arg("--pgdata").arg(cluster.data()).args([
            "--no-sync",
            "--locale=C",
            "--encoding=UTF8",
            "--auth=trust",
            "--username",
            SUPERUSER,
        ]);
        run(initdb)?;
        Ok(cluster)
    }

    /// The cluster's data directory.
    pub(super) fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    /// Fills the database `postgres` with `pgbench -i` at `scale`, with the server running meanwhile.
    pub(super) fn fill_with_pgbench(&self, scale: u32) -> Result<()> {
        let server = self.start()?;
        let mut pgbench = self.command("pgbench");
        pgbench.args(["--initialize", "--quiet", "--scale", &scale.to_string()]);
        pgbench.arg("--host").arg(self.scratch.path()).args(["--username", SUPERUSER, "postgres"]);
        run(pgbench)?;
        server.stop()
    }

    /// The location of the latest checkpoint.
    pub(super) fn checkpoint_lsn(&self) -> Result<u64> {
        let mut controldata = self.command("pg_controldata");
        controldata.arg(self.data());
        let report = run(controldata)?;
        parse_checkpoint_lsn(&report).with_context(|| {
            format!("no line `Latest checkpoint location: X/Y` in what pg_controldata says:\n{report}")
        })
    }

    /// Starts a server that listens on a socket in the scratch directory only.
    fn start(&self) -> Result<Server<'_>> {
        let log = self.scratch.path().join("server.log");
        let mut start = self.command("pg_ctl");
        start.args(["start", "--wait", "--silent", "--pgdata"]).arg(self.data()).arg("--log").arg(&log);
        let socket = self.scratch.path().display();
        // Autovacuum would make the files depend on the time of day. Nothing here outlives a crash anyway.
        let options =
            format!("-c listen_addresses= -c unix_socket_directories='{socket}' -c autovacuum=off -F");
        start.arg("--options").arg(options);
        let server = Server { cluster: self, running: true };
        run(start).with_context(|| format!("its log: {}", fs::read_to_string(&log).unwrap_or_default()))?;
        Ok(server)
    }

    /// A command that runs `program` for the cluster, whoever we are and whatever language we speak.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.installation.program(program));
        command.current_dir(self.scratch.path()).env("LC_ALL", "C").stdin(Stdio::null());
        if let Some(Account { user, group }) = self.account {
            command.uid(user).gid(group);
        }
        command
    }
}

/// A running server; stopped in any way when dropped.
#[derive(Debug)]
struct Server<'a> {
    cluster: &'a Cluster,
    running: bool,
}

impl Server<'_> {
    /// Stops the server with a checkpoint.
    fn stop(mut self) -> Result<()> {
        self.running = false;
        run(self.stop_command("fast")).map(drop)
    }

    fn stop_command(&self, mode: &str) -> Command {
        let mut stop = self.cluster.command("pg_ctl");
        stop.args(["stop", "--wait", "--silent", "--mode", mode, "--pgdata"]).arg(self.cluster.data());
        stop
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        if self.running {
            // Whatever made us give up is the error worth reporting.
            drop(run(self.stop_command("immediate")));
        }
    }
}

/// Runs a command to its end and gives what it printed.
fn run(mut command: Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    // Into files, not pipes: the server that pg_ctl leaves behind would keep a pipe open, and us waiting.
    let capture = || tempfile::tempfile().context("making a file for a program's output");
    let (mut stdout, mut stderr) = (capture()?, capture()?);
    command.stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let status = command.status().with_context(|| format!("running {name}"))?;
    if !status.success() {
        bail!("{name} failed ({status}): {}", read_back(&mut stderr)?.trim_end());
    }
    read_back(&mut stdout)
}

fn read_back(file: &mut fs::File) -> Result<String> {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).context("reading a program's output")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn unprivileged_account() -> Account {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    ["postgres", "nobody"].into_iter().find_map(|name| account_of(&passwd, name)).unwrap_or(NOBODY)
}

/// The ids of user `name` in the text of `/etc/passwd`.
fn account_of(passwd: &str, name: &str) -> Option<Account> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some(Account { user: fields.next()?.parse().ok()?, group: fields.next()?.parse().ok()? })
}

/// The LSN in pg_controldata's line `Latest checkpoint location:           0/1500708`.
fn parse_checkpoint_lsn(report: &str) -> Option<u64> {
    let location = report.lines().find_map(|line| line.strip_prefix("Latest checkpoint location:"))?;
    let (high, low) = location.trim().split_once('/')?;
    let (high, low) = (u32::from_str_radix(high, 16).ok()?, u32::from_str_radix(low, 16).ok()?);
    Some(u64::from(high) << 32 | u64::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkpoint_is_found_in_a_report() {
        let report = "Database cluster state:               shut down\n\
                      Latest checkpoint location:           2/1500708\n\
                      Latest checkpoint's REDO location:    0/1\n";
        assert_eq!(parse_checkpoint_lsn(report), Some(0x2_0150_0708));
        assert_eq!(parse_checkpoint_lsn("Latest checkpoint location: -"), None);
    }

    #[test]
    fn accounts_are_looked_up_by_their_whole_name() {
        let passwd = "postgresql:x:7:7::/:/bin/sh\npostgres:x:101:104:admin:/var:/bin/bash\nbroken:x\n";
        assert_eq!(account_of(passwd, "postgres"), Some(Account { user: 101, group: 104 }));
        assert_eq!(account_of(passwd, "nobody"), None);
        assert_eq!(account_of(passwd, "broken"), None);
    }
}
