//! Remotes as URLs: which store a URL names, and the way to it.

mod access;
mod invalid;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
#[cfg(feature = "localfs")]
use std::time::Duration;

use storage_api::{ErrorKind, ObjectStore, StorageError};
use url::Url;

pub use self::access::Access;
pub use self::invalid::{InvalidRemoteUrl, without_secrets};

/// A remote, as its URL names it: `file:///dir` or `s3://bucket/prefix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteUrl {
    text: String,
    place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Directory(PathBuf),
    #[cfg(feature = "s3")]
    S3(Box<storage_s3::S3Config>),
    #[cfg(not(feature = "s3"))]
    S3,
}

/// What to do where the directory or bucket of a remote does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// It is an error.
    Refuse,
    /// It is created, where the backend can do that.
    Create,
}

/// Why the store of a remote cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The URL is fine, and its backend is not compiled in.
    #[error(
        "{url} cannot be used: this program was built without the {backend} backend, build it with the feature of that name"
    )]
    NotBuiltIn {
        /// The remote.
        url: String,
        /// What is missing.
        backend: &'static str,
    },
    /// What killed writers have left could not be removed.
    #[error("could not remove what killed writers have left in {url}")]
    Sweep {
        /// The remote.
        url: String,
        /// Why not.
        source: StorageError,
    },
    /// The backend could not open the store.
    #[error("cannot use {url} as a remote: check that it is the right URL and a place you may use")]
    Open {
        /// The remote.
        url: String,
        /// Why not.
        source: StorageError,
    },
}

impl RemoteError {
    /// Whether there is nothing at the URL: no directory, no bucket.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Open { source, .. } if source.kind() == ErrorKind::StoreMissing)
    }
}

impl FromStr for RemoteUrl {
    type Err = InvalidRemoteUrl;

    fn from_str(text: &str) -> Result<Self, InvalidRemoteUrl> {
        Self::with_defaults(text, &[])
    }
}

#[cfg(feature = "s3")]
fn s3(url: &Url, defaults: &[(String, String)]) -> Result<Place, String> {
    let defaults = defaults.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let config = storage_s3::S3Config::from_url_with(url, defaults).map_err(|error| error.to_string())?;
    Ok(Place::S3(Box::new(config)))
}

#[cfg(not(feature = "s3"))]
fn s3(_url: &Url, _defaults: &[(String, String)]) -> Result<Place, String> {
    Ok(Place::S3)
}

const THREE_SLASHES: &str = "a file URL has three slashes before an absolute path";

/// Whether a file URL is written out. What is not, `file:dir`, means a path of the root to a URL parser, and one of the
/// current directory to who wrote it.
fn has_authority(text: &str) -> bool {
    ["file:///", "file://localhost/"]
        .iter()
        .any(|start| text.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start)))
}

/// The directory that a file URL names.
fn directory(url: &Url) -> Result<PathBuf, &'static str> {
    if url.query().is_some() || url.fragment().is_some() {
        return Err("in a file URL, ? is written %3F and # is written %23");
    }
    let path = url.to_file_path().map_err(|()| THREE_SLASHES)?;
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err("it holds a NUL");
    }
    Ok(path)
}

impl fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl RemoteUrl {
    /// The remote that `text` names. `s3_defaults` are options of S3 URLs by their names, as configuration files have
    /// them; those of the URL go before.
    pub fn with_defaults(text: &str, s3_defaults: &[(String, String)]) -> Result<Self, InvalidRemoteUrl> {
        let invalid = |why: &str| InvalidRemoteUrl::new(text, why);
        // A URL parser takes these out, or for something else, without a word.
        if text.contains(|c: char| c == '\\' || c.is_control()) || text.trim() != text {
            return Err(invalid(
                "it holds a backslash, a control character or blanks at an end: write them as %XX",
            ));
        }
        let url = Url::parse(text).map_err(|error| invalid(&error.to_string()))?;
        let place = match url.scheme() {
            "file" if !has_authority(text) => return Err(invalid(THREE_SLASHES)),
            "file" => directory(&url).map(Place::Directory).map_err(invalid)?,
            "s3" => s3(&url, s3_defaults).map_err(|why| invalid(&why))?,
            other => return Err(invalid(&format!("the scheme {other:?} is not known"))),
        };
        Ok(Self { text: text.to_owned(), place })
    }

    /// The directory that it names, where it is a file URL.
    pub fn directory(&self) -> Option<&std::path::Path> {
        match &self.place {
            Place::Directory(path) => Some(path),
            #[cfg(feature = "s3")]
            Place::S3(_) => None,
            #[cfg(not(feature = "s3"))]
            Place::S3 => None,
        }
    }

    /// The URL as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The object store at this URL, one request a call and nothing retried. Whether it is a Layerpack store, and for
    /// S3 whether the bucket exists, is seen when that is opened.
    pub async fn connect(&self, absent: Absent) -> Result<Arc<dyn ObjectStore>, RemoteError> {
        match &self.place {
            Place::Directory(path) => self.open_directory(path, absent),
            #[cfg(feature = "s3")]
            Place::S3(config) => match storage_s3::S3Store::connect((**config).clone()).await {
                Ok(store) => Ok(Arc::new(store)),
                Err(source) => Err(RemoteError::Open { url: self.text.clone(), source }),
            },
            #[cfg(not(feature = "s3"))]
            Place::S3 => Err(self.not_built_in("s3")),
        }
    }

    /// Removes what killed writers have left in the store and nobody wrote to for `older_than`: at least an hour, so
    /// that no writer that is alive loses anything. Returns how many files. Only directories have such leftovers.
    #[cfg(feature = "localfs")]
    pub async fn sweep_stale(&self, older_than: Duration) -> Result<u64, RemoteError> {
        let Place::Directory(path) = &self.place else { return Ok(0) };
        let failed = |source| RemoteError::Sweep { url: self.text.clone(), source };
        storage_localfs::LocalStore::open(path).map_err(failed)?.sweep_stale(older_than).await.map_err(failed)
    }

    #[cfg(feature = "localfs")]
    fn open_directory(
        &self,
        path: &std::path::Path,
        absent: Absent,
    ) -> Result<Arc<dyn ObjectStore>, RemoteError> {
        let opened = match absent {
            Absent::Refuse => storage_localfs::LocalStore::open(path),
            Absent::Create => storage_localfs::LocalStore::create(path),
        };
        match opened {
            Ok(store) => Ok(Arc::new(store)),
            Err(source) => Err(RemoteError::Open { url: self.text.clone(), source }),
        }
    }

    #[cfg(not(feature = "localfs"))]
    fn open_directory(
        &self,
        _path: &std::path::Path,
        _absent: Absent,
    ) -> Result<Arc<dyn ObjectStore>, RemoteError> {
        Err(self.not_built_in("file"))
    }

    #[cfg(not(all(feature = "localfs", feature = "s3")))]
    fn not_built_in(&self, backend: &'static str) -> RemoteError {
        RemoteError::NotBuiltIn { url: self.text.clone(), backend }
    }
}
