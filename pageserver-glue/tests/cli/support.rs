//! A work directory, a store and the real program. What is in the store is in `stored`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use layer_archive::Crc32c;
use layerpack_tests::{Remote, WireProxy};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const TENANT: &str = "1f8ae1ef8989d5601e73fd13ae3dcd26";
pub(crate) const TIMELINE: &str = "88a4e0f55d55008138697fa10e7d97d3";

/// Where a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// In a directory.
    Directory,
    /// On the S3 remote under test.
    S3,
}

/// A scratch directory with a work directory `a` and a place to restore to `b`, and a store, which is in the directory
/// `store` or on a fresh place of an S3 remote.
pub(crate) struct Bench {
    dir: TempDir,
    /// Where it is not in a directory.
    pub(crate) remote: Option<Remote>,
}

/// How a run of the program ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Run {
    /// The one JSON object on stdout.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", String::from_utf8_lossy(&self.stdout), self.stderr);
        self
    }

    /// Checks that stderr names each of `parts`.
    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "no {part:?} in {}", self.stderr);
        }
        self
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!stderr.contains("panicked"), "{stderr}");
        Self { code: output.status.code(), stdout: output.stdout, stderr }
    }
}

impl Bench {
    /// With an empty work directory.
    pub(crate) fn new(kind: Kind) -> Self {
        let remote = (kind == Kind::S3).then(Remote::fresh);
        let bench = Self { dir: tempfile::tempdir().unwrap(), remote };
        fs::create_dir_all(bench.timeline_dir("a", TIMELINE)).unwrap();
        bench
    }

    /// With `layers` small layers and metadata in the work directory.
    pub(crate) fn with_layers(kind: Kind, layers: u32) -> Self {
        let bench = Self::new(kind);
        for number in 0..layers {
            bench.put_layer(number, 1000 + 3000 * number as usize);
        }
        bench.put("a", "metadata", &metadata(0x0150_0708));
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn url(&self) -> String {
        match &self.remote {
            Some(remote) => remote.url.clone(),
            None => format!("file://{}", self.path("store").display()),
        }
    }

    /// Lets every request go through a proxy from now on. Where the remote's URL has no endpoint there is none.
    pub(crate) fn proxied(&mut self) -> Option<WireProxy> {
        let remote = self.remote.as_mut()?;
        let proxy = WireProxy::start(remote.endpoint.as_deref()?);
        *remote = remote.by(&proxy.endpoint());
        Some(proxy)
    }

    pub(crate) fn timeline_dir(&self, workdir: &str, timeline: &str) -> PathBuf {
        self.path(workdir).join("tenants").join(TENANT).join("timelines").join(timeline)
    }

    /// The directory of the timeline's objects, where the store is in a directory.
    pub(crate) fn objects(&self) -> PathBuf {
        self.timeline_dir("store", TIMELINE)
    }

    pub(crate) fn put(&self, workdir: &str, name: impl AsRef<OsStr>, bytes: &[u8]) {
        let dir = self.timeline_dir(workdir, TIMELINE);
        fs::create_dir_all(&dir).unwrap();
        put(&dir.join(name.as_ref()), bytes);
    }

    pub(crate) fn put_layer(&self, number: u32, bytes: usize) {
        self.put("a", layer_name(number), &noise(number, bytes));
    }

    /// The program with `arguments`; `{url}` stands for the store's URL and `{x}` for the directory `x`.
    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_layerpack"));
        command.args(self.expand(arguments)).stdin(Stdio::null());
        self.give_environment(&mut command);
        command
    }

    /// The credentials for the remote, and where they are the test's own, no others.
    pub(crate) fn give_environment(&self, command: &mut Command) {
        let Some(remote) = &self.remote else { return };
        if remote.credentials.is_some() {
            let names = std::env::vars_os().map(|(name, _)| name);
            names.filter(|name| name.to_string_lossy().starts_with("AWS_")).for_each(|name| {
                command.env_remove(name);
            });
        }
        command.envs(remote.environment());
    }

    pub(crate) fn expand(&self, arguments: &str) -> Vec<String> {
        let place = |word: &str| match word.strip_prefix('{').and_then(|word| word.strip_suffix('}')) {
            Some("url") => self.url(),
            Some("tenant") => TENANT.to_owned(),
            Some("timeline") => TIMELINE.to_owned(),
            Some(name) => self.path(name).display().to_string(),
            None => word.to_owned(),
        };
        arguments.split_whitespace().map(place).collect()
    }

    pub(crate) fn run(&self, arguments: &str) -> Run {
        self.command(arguments).output().unwrap().into()
    }

    pub(crate) fn run_with(&self, arguments: &str, more: &[&OsStr]) -> Run {
        self.command(arguments).args(more).output().unwrap().into()
    }

    /// Backs `a` up.
    #[track_caller]
    pub(crate) fn backup(&self) -> Value {
        self.run("backup --json --workdir {a} --remote {url}").expect(0).json()
    }

    #[track_caller]
    pub(crate) fn assert_restored(&self) {
        assert_same(&files(&self.path("a")), &files(&self.path("b")));
    }
}

/// Checks that two trees hold the same, without printing contents.
#[track_caller]
pub(crate) fn assert_same(expected: &BTreeMap<String, Vec<u8>>, found: &BTreeMap<String, Vec<u8>>) {
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(expected), names(found));
    for (name, bytes) in expected {
        assert!(found[name] == *bytes, "{name} differs");
    }
}

/// Requests in all that a command's JSON counts.
pub(crate) fn requests(json: &Value) -> u64 {
    json["requests"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum()
}

#[expect(clippy::disallowed_methods, reason = "test data need not survive a crash")]
pub(crate) fn put(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}

/// Every regular file below `dir`, by its path from there.
pub(crate) fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(at) = dirs.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let entry = entry.unwrap();
            let file_type = entry.file_type().unwrap();
            if file_type.is_dir() {
                dirs.push(entry.path());
            } else if file_type.is_file() {
                let name = entry.path().strip_prefix(dir).unwrap().to_string_lossy().into_owned();
                found.insert(name, fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

/// An image layer's name, as a pageserver gives it.
pub(crate) fn layer_name(number: u32) -> String {
    format!("{number:036X}-{:036X}__00000000014FED58-v1-00000001", number + 1)
}

/// Bytes of which about half compress.
pub(crate) fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut state = u64::from(seed) * 2 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33).to_le_bytes()
    };
    let mut bytes = Vec::with_capacity(len + 16);
    while bytes.len() < len {
        bytes.extend_from_slice(&next()[..4]);
        bytes.extend_from_slice(b"page");
    }
    bytes.truncate(len);
    bytes
}

/// A metadata file of the oldest form.
pub(crate) fn metadata(lsn: u64) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    bytes[..8].copy_from_slice(&lsn.to_be_bytes());
    let crc32c = Crc32c::of(&bytes[..508]).0.to_le_bytes();
    bytes[508..].copy_from_slice(&crc32c);
    bytes
}
