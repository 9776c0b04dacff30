//! The server that is measured on, and stores on it.

use std::num::NonZeroUsize;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use layerpack_tests::{READ_WRITE, Remote, S3Server};
use storage_api::{Limited, ObjectStore, RetryPolicy, Retrying, SystemClock};
use storage_s3::{S3Config, S3Store, StaticCredentials};
use url::Url;

use super::On;
use crate::repository::Repository;
use crate::servers::{self, Running};

/// Requests in flight, of both ways.
pub(super) const IN_FLIGHT: NonZeroUsize = NonZeroUsize::new(100).unwrap();

/// A server that answers until this is dropped.
#[derive(Debug)]
pub(super) enum Place {
    InProcess(S3Server),
    Started(Running),
    Remote(String),
}

impl Place {
    /// Starts what has to be started.
    pub(super) async fn open(repository: &Repository, on: &On, progress: fn(&str)) -> Result<Self> {
        Ok(match on {
            On::InProcess => Self::InProcess(S3Server::start()),
            On::Server(server) => {
                servers::install(repository, &[*server], progress)?;
                Self::Started(servers::start(repository, *server).await?)
            }
            On::Remote(url) => {
                ensure!(
                    url.starts_with("s3://"),
                    "{url:?} is not the URL of an S3 remote, s3://bucket/prefix?endpoint=..."
                );
                Self::Remote(url.clone())
            }
        })
    }

    /// What it is, for people.
    pub(super) fn name(&self) -> String {
        match self {
            Self::InProcess(_) => "in this process, in memory".to_owned(),
            Self::Started(running) => running.server().name().to_owned(),
            Self::Remote(url) => url.clone(),
        }
    }

    /// A prefix of it that nothing else uses.
    pub(super) fn fresh(&self) -> Remote {
        match self {
            Self::InProcess(server) => Remote::of(server),
            Self::Started(running) => Remote::fresh_below(&running.url(), Some(READ_WRITE)),
            Self::Remote(url) => Remote::fresh_below(url, None),
        }
    }
}

/// The store on `remote`, below the decorators that programs use.
pub(super) async fn connect(remote: &Remote) -> Result<Arc<dyn ObjectStore>> {
    let url: Url = remote.url.parse().context("reading the remote's URL")?;
    let mut config = S3Config::from_url(&url).context("reading the remote's URL")?;
    config.credentials = remote.credentials.map(|pair| StaticCredentials {
        access_key_id: pair.id.to_owned(),
        secret_access_key: pair.secret.to_owned(),
        session_token: None,
    });
    let limited = Arc::new(Limited::new(Arc::new(S3Store::connect(config).await?), IN_FLIGHT));
    Ok(Arc::new(Retrying::new(limited, RetryPolicy::default(), Arc::new(SystemClock))))
}
