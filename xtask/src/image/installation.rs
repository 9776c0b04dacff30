//! Finding PostgreSQL's programs on this machine.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Directories that hold one directory for each version of PostgreSQL, such as `15`, `pgsql-15` or `postgresql@15`.
const VERSIONED_ROOTS: [&str; 4] = ["/usr/lib/postgresql", "/usr", "/opt/homebrew/opt", "/usr/local/opt"];

/// Directories that hold programs of one version.
const PLAIN_PLACES: [&str; 3] = ["/usr/local/pgsql/bin", "/usr/bin", "/usr/local/bin"];

/// The programs of one PostgreSQL.
#[derive(Clone, Debug)]
pub struct Installation {
    bin: PathBuf,
}

impl Installation {
    /// Finds PostgreSQL's programs: what `pg_config` says, what is on the `PATH`, or the newest in the usual places.
    ///
    /// # Errors
    /// When no directory holds `initdb` and `pg_controldata`.
    pub fn find() -> Result<Self> {
        let found = from_pg_config()
            .into_iter()
            .chain(from_path())
            .chain(from_usual_places())
            .find(|bin| ["initdb", "pg_controldata"].iter().all(|program| bin.join(program).is_file()));
        match found {
            Some(bin) => Ok(Self { bin }),
            None => bail!(
                "no PostgreSQL here: looked for initdb with pg_config, on the PATH and in {}; install one (Debian: \
                 apt install postgresql) or use --source synthetic",
                VERSIONED_ROOTS.map(|root| format!("{root}/*/bin")).join(", ")
            ),
        }
    }

    /// The path of `program`.
    pub(super) fn program(&self, program: &str) -> PathBuf {
        self.bin.join(program)
    }

    /// The version as `initdb --version` tells it: `PostgreSQL 15.18`.
    ///
    /// # Errors
    /// When `initdb` cannot be run.
    pub fn version(&self) -> Result<String> {
        let initdb = self.program("initdb");
        let output = Command::new(&initdb).arg("--version").output();
        let output = output.with_context(|| format!("running {} --version", initdb.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        // "initdb (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
        match text.split_whitespace().nth(2) {
            Some(number) => Ok(format!("PostgreSQL {number}")),
            None => bail!("{} --version says `{}`, which holds no version", initdb.display(), text.trim()),
        }
    }
}

fn from_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let dir = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(dir.trim_end()))
}

fn from_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A link in a common directory leads to the directory where the other programs are.
    std::env::split_paths(&path)
        .filter_map(|dir| dir.join("initdb").canonicalize().ok())
        .filter_map(|initdb| initdb.parent().map(Path::to_owned))
        .collect()
}

fn from_usual_places() -> Vec<PathBuf> {
    let mut versioned: Vec<(u32, PathBuf)> = Vec::new();
    for root in VERSIONED_ROOTS.map(Path::new) {
        for entry in root.read_dir().into_iter().flatten().flatten() {
            if let Some(version) = version_in(&entry.file_name()) {
                versioned.push((version, entry.path().join("bin")));
            }
        }
    }
    versioned.sort_by(|a, b| b.cmp(a));
    versioned.into_iter().map(|(_, bin)| bin).chain(PLAIN_PLACES.map(PathBuf::from)).collect()
}

/// The number in the name of a version's directory.
fn version_in(name: &OsStr) -> Option<u32> {
    let name = name.to_str()?;
    let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
    let prefix = &name[..name.len() - digits.len()];
    if ["", "pgsql-", "postgresql@"].contains(&prefix) { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_so_that_the_newest_is_the_greatest() {
        assert_eq!(version_in(OsStr::new("15")), Some(15));
        assert_eq!(version_in(OsStr::new("pgsql-9")), Some(9));
        assert_eq!(version_in(OsStr::new("postgresql@17")), Some(17));
        assert_eq!(version_in(OsStr::new("postgresql")), None);
        assert_eq!(version_in(OsStr::new("python3")), None);
    }
}
