//! Servers from Python packages, each in a virtual environment of its own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{Server, ministack, run_dir, seaweedfs};
use crate::repository::{Repository, output};

/// A file in an environment that is complete: it holds what was installed.
const STAMP: &str = "installed.txt";

/// What a virtual environment is made of.
#[derive(Debug)]
pub(super) struct Packages {
    /// The environment's name.
    pub(super) name: &'static str,
    /// Every package that is needed, with its version, the server's own first.
    pub(super) pins: &'static [&'static str],
}

/// The program `name` of `packages`, once they are installed.
pub(super) fn program(repository: &Repository, packages: &Packages, name: &str) -> Result<PathBuf> {
    let dir = environment(repository, packages);
    if !is_complete(&dir, packages) {
        bail!("{} is not installed: run `cargo xtask s3-servers install`", packages.pins[0]);
    }
    Ok(dir.join("bin").join(name))
}

/// Installs what `servers` need, where it is not there yet, into the target folder. `progress` is told what goes on.
///
/// # Errors
/// When there is no Python with `venv` and `pip`, or the packages cannot be had.
pub fn install(repository: &Repository, servers: &[Server], progress: fn(&str)) -> Result<()> {
    for server in servers {
        let packages = match server {
            Server::Seaweedfs | Server::SeaweedfsCluster => &seaweedfs::PACKAGES,
            Server::Ministack => &ministack::PACKAGES,
        };
        let dir = environment(repository, packages);
        if !is_complete(&dir, packages) {
            progress(&format!("installing {}", packages.pins[0]));
            install_into(repository, &dir, packages)?;
        }
    }
    Ok(())
}

fn environment(repository: &Repository, packages: &Packages) -> PathBuf {
    run_dir::root(repository).join("installed").join(packages.name)
}

fn is_complete(dir: &Path, packages: &Packages) -> bool {
    fs::read_to_string(dir.join(STAMP)).is_ok_and(|stamp| stamp == packages.stamp())
}

impl Packages {
    fn stamp(&self) -> String {
        self.pins.join("\n")
    }
}

fn install_into(repository: &Repository, dir: &Path, packages: &Packages) -> Result<()> {
    let mut check = repository.command("python3");
    check.args(["-c", "import ensurepip, venv"]);
    output(check).context(
        "the S3 servers are Python packages, and there is no python3 with venv and pip here: install them \
         (Debian and Ubuntu: apt-get install python3-venv; Fedora: dnf install python3; Alpine: apk add python3)",
    )?;
    let mut venv = repository.command("python3");
    venv.args(["-m", "venv", "--clear"]).arg(dir);
    output(venv).with_context(|| format!("making a Python environment in {}", dir.display()))?;
    let mut pip = repository.command(dir.join("bin").join("python3"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]);
    pip.args(packages.pins);
    output(pip)
        .with_context(|| format!("installing {} with pip, which needs a package index", packages.pins[0]))?;
    let stamp = dir.join(STAMP);
    // Torn by a crash it is not what it should be, and all is installed anew.
    #[expect(clippy::disallowed_methods, reason = "needs to survive no crash")]
    fs::write(&stamp, packages.stamp()).with_context(|| format!("writing {}", stamp.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKAGES: Packages = Packages { name: "none", pins: &["nothing==1", "of-it==2"] };

    #[test]
    #[expect(clippy::disallowed_methods, reason = "test data need not survive a crash")]
    fn other_versions_are_not_what_is_installed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_complete(dir.path(), &PACKAGES));
        fs::write(dir.path().join(STAMP), "nothing==1\nof-it==1").unwrap();
        assert!(!is_complete(dir.path(), &PACKAGES));
        fs::write(dir.path().join(STAMP), PACKAGES.stamp()).unwrap();
        assert!(is_complete(dir.path(), &PACKAGES));
    }

    #[test]
    fn what_is_missing_is_said_with_the_remedy() {
        let error = program(&Repository::here(), &PACKAGES, "nothing").unwrap_err().to_string();
        assert_eq!(error, "nothing==1 is not installed: run `cargo xtask s3-servers install`");
    }
}
