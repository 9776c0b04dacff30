//! MiniStack: how it is told to be an S3 server on loopback and nothing else.

use anyhow::Result;
use layerpack_tests::{READ_WRITE, REGION};

use super::install::{self, Packages};
use super::run_dir::RunDir;
use super::{Program, ports};
use crate::repository::Repository;

/// What pip resolves for it.
pub(super) const PACKAGES: Packages = Packages {
    name: "ministack",
    pins: &[
        "ministack==1.5.33",
        "botocore==1.43.106",
        "defusedxml==0.7.1",
        "graphql-core==3.2.12",
        "h11==0.16.0",
        "h2==4.4.1",
        "hpack==4.2.0",
        "Hypercorn==0.18.0",
        "hyperframe==6.1.0",
        "jmespath==1.1.0",
        "jsonata-python==0.7.1",
        "priority==2.0.0",
        "python-dateutil==2.9.0.post0",
        "PyYAML==6.0.4",
        "six==1.17.0",
        "urllib3==2.8.0",
        "wsproto==1.3.2",
    ],
};

/// One process, which keeps everything in memory; and its port.
pub(super) fn alone(repository: &Repository, dir: &RunDir) -> Result<(Vec<Program>, Vec<u16>)> {
    let path = install::program(repository, &PACKAGES, "ministack")?;
    let [port] = ports::free()?;
    let environment = environment(port, &dir.path().display().to_string());
    Ok((vec![Program { name: "ministack".into(), path, arguments: Vec::new(), environment }], vec![port]))
}

fn environment(port: u16, dir: &str) -> Vec<(&'static str, String)> {
    vec![
        ("BIND_HOST", "127.0.0.1".into()),
        ("MINISTACK_HOST", "127.0.0.1".into()),
        ("GATEWAY_PORT", port.to_string()),
        ("MINISTACK_REGION", REGION.into()),
        ("SERVICES", "s3".into()),
        ("IOT_MTLS_ENABLED", "0".into()),
        ("SFTP_ENABLED", "0".into()),
        // It removes containers that it takes for its own: there is no Docker for it.
        ("DOCKER_HOST", "unix:///nonexistent".into()),
        // Signatures are checked, against this key.
        ("AUTH", "true".into()),
        ("AWS_ACCESS_KEY_ID", READ_WRITE.id.into()),
        ("AWS_SECRET_ACCESS_KEY", READ_WRITE.secret.into()),
        ("TMPDIR", dir.into()),
        ("LOG_LEVEL", "WARNING".into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_on_loopback_and_leaves_containers_alone() {
        let environment = environment(4_566, "/dir");
        for pair in
            [("BIND_HOST", "127.0.0.1"), ("GATEWAY_PORT", "4566"), ("DOCKER_HOST", "unix:///nonexistent")]
        {
            assert!(environment.iter().any(|(name, value)| (*name, value.as_str()) == pair), "{pair:?}");
        }
    }
}
