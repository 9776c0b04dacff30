//! The store and its marker: what says that this is a Layerpack store, and of which version.

use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use rand::TryRngCore;
use serde::{Deserialize, Serialize};
use storage_api::{
    Body, Crc32c, ErrorKind, GetRange, Key, KeyPrefix, ListRequest, ObjectStore, ObjectStoreExt, PutMode,
};

use crate::{Error, Result, StoreLayout};

/// The version of stores that this program creates, and the newest that it reads.
const VERSION: u32 = 1;
const MAGIC: &str = "layerpack store";
const MARKER_BYTES_MAX: u64 = 4096;

/// A Layerpack store: an object store with a marker in it.
#[derive(Clone, Debug)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    url: Arc<str>,
    marker: StoreMarker,
}

/// What the marker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreMarker {
    /// The version of the store's formats.
    pub version: u32,
    /// The oldest version of a program that may read it.
    pub min_reader: u32,
    /// A random name, so that two stores are not taken for one.
    pub id: String,
}

/// The marker as it is stored: one line of JSON, so that a person who finds it knows what it is. What a newer version
/// adds to it is passed over, where that version lets older readers in.
#[derive(Debug, Serialize, Deserialize)]
struct MarkerV1 {
    magic: String,
    version: u32,
    min_reader: u32,
    id: String,
    /// CRC32C, in hex, of `magic version min_reader id` joined by single spaces.
    crc32c: String,
}

impl StoreMarker {
    fn crc32c(&self) -> String {
        let Self { version, min_reader, id } = self;
        Crc32c::of(format!("{MAGIC} {version} {min_reader} {id}").as_bytes()).to_string()
    }

    fn encode(&self) -> Bytes {
        let wire = MarkerV1 {
            magic: MAGIC.into(),
            version: self.version,
            min_reader: self.min_reader,
            id: self.id.clone(),
            crc32c: self.crc32c(),
        };
        // A struct of strings and numbers always serialises.
        let mut text = serde_json::to_string(&wire).unwrap_or_default();
        text.push('\n');
        text.into()
    }

    /// Decodes a marker; the error says what is wrong with it.
    fn decode(bytes: &[u8]) -> Result<Self, String> {
        // A newer marker may have other fields: its versions are looked at first, by themselves.
        #[derive(Deserialize)]
        struct Versions {
            magic: String,
            version: u32,
            min_reader: u32,
        }
        let versions: Versions = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if versions.magic != MAGIC {
            return Err("it is not a store marker".into());
        }
        if versions.min_reader > VERSION {
            let Versions { magic: _, version, min_reader } = versions;
            return Ok(Self { version, min_reader, id: String::new() });
        }
        let wire: MarkerV1 = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let marker = Self { version: wire.version, min_reader: wire.min_reader, id: wire.id };
        if wire.crc32c == marker.crc32c() { Ok(marker) } else { Err("its checksum does not match".into()) }
    }
}

impl Store {
    /// Opens the store that `objects` holds, with one request. `url` is how messages name it.
    ///
    /// Where there is no marker, a second request tells a store that has lost it from a place that never was one.
    pub async fn open(objects: Arc<dyn ObjectStore>, url: &str) -> Result<Self> {
        let opened = Self::open_marked(Arc::clone(&objects), url).await;
        if let Err(Error::NoStore { .. }) = opened
            && let Err(error @ Error::MarkerDamaged { .. }) = require_empty(&*objects, url).await
        {
            return Err(error);
        }
        opened
    }

    async fn open_marked(objects: Arc<dyn ObjectStore>, url: &str) -> Result<Self> {
        let key = Key::new(StoreLayout::MARKER)?;
        let bytes = match objects.get_bytes(&key, GetRange::Full, MARKER_BYTES_MAX).await {
            Ok((_, bytes)) => bytes,
            Err(error) if error.is_not_found() => return Err(Error::NoStore { url: url.into() }),
            Err(error) => return Err(error.into()),
        };
        let marker =
            StoreMarker::decode(&bytes).map_err(|why| Error::MarkerDamaged { url: url.into(), why })?;
        if marker.min_reader > VERSION {
            return Err(Error::StoreTooNew {
                url: url.into(),
                needed: marker.min_reader,
                supported: VERSION,
            });
        }
        Ok(Self { objects, url: url.into(), marker })
    }

    /// Opens the store, or creates it where there is none; says whether it did.
    ///
    /// A store that does not refuse to create the probe twice cannot keep two writers apart and is not created.
    pub async fn open_or_create(objects: Arc<dyn ObjectStore>, url: &str) -> Result<(Self, Created)> {
        match Self::open_marked(Arc::clone(&objects), url).await {
            Err(Error::NoStore { .. }) => {}
            opened => return opened.map(|store| (store, Created::No)),
        }
        let probe = Key::new(StoreLayout::PROBE)?;
        match objects.put(&probe, probe_body()?, PutMode::Create).await {
            Ok(_) => {}
            // An earlier attempt was broken off here; or this is a store that has lost its marker.
            Err(error) if error.is_already_exists() => require_empty(&*objects, url).await?,
            Err(error) => return Err(error.into()),
        }
        match objects.put(&probe, probe_body()?, PutMode::Create).await {
            Ok(_) => return Err(Error::StoreCannotFence { url: url.into() }),
            Err(error) if error.is_already_exists() => {}
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                return Err(Error::StoreCannotFence { url: url.into() });
            }
            Err(error) => return Err(error.into()),
        }
        let marker = StoreMarker { version: VERSION, min_reader: VERSION, id: random_id()? };
        let key = Key::new(StoreLayout::MARKER)?;
        match objects.put(&key, Body::new(marker.encode()), PutMode::Create).await {
            Ok(_) => Ok((Self { objects, url: url.into(), marker }, Created::Yes)),
            // Somebody else created it in the meantime; or this did, and the answer was lost.
            Err(error) if error.is_already_exists() => {
                let store = Self::open_marked(objects, url).await?;
                let created = if *store.marker() == marker { Created::Yes } else { Created::No };
                Ok((store, created))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The object store.
    pub fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.objects
    }

    /// How messages name the store.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What the marker says.
    pub fn marker(&self) -> &StoreMarker {
        &self.marker
    }
}

/// Refuses to put a new marker into a store that holds timelines already.
async fn require_empty(objects: &dyn ObjectStore, url: &str) -> Result<()> {
    let prefix = KeyPrefix::new(StoreLayout::TENANTS)?;
    let page = objects.list(&ListRequest { prefix, max_keys: Some(1), ..ListRequest::default() }).await?;
    if page.objects.is_empty() {
        return Ok(());
    }
    let why = "it is missing, although the store holds timelines".into();
    Err(Error::MarkerDamaged { url: url.into(), why })
}

/// Whether an opened store was created just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It was there.
    No,
    /// It was not.
    Yes,
}

/// What the probe holds, different each time: a create whose answer was lost is settled by comparing bytes, and one probe
/// must not be taken for another.
fn probe_body() -> Result<Body> {
    let text = "This object proved that the store refuses to create it twice.";
    Ok(Body::new(format!("{text} {}\n", random_id()?)))
}

fn random_id() -> Result<String> {
    let mut bytes = [0u8; 16];
    rand::rngs::OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| Error::Task(format!("no randomness: {error}")))?;
    Ok(bytes.iter().fold(String::new(), |mut id, byte| {
        // Writing to a String does not fail.
        let _ = write!(id, "{byte:02x}");
        id
    }))
}

#[cfg(test)]
mod tests {
    use storage_api::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn a_store_is_created_once_and_opened_with_one_request() {
        let objects: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
        assert!(matches!(Store::open(Arc::clone(&objects), "memory").await, Err(Error::NoStore { .. })));
        let (first, created) = Store::open_or_create(Arc::clone(&objects), "memory").await.unwrap();
        assert_eq!(created, Created::Yes);
        let (second, created) = Store::open_or_create(Arc::clone(&objects), "memory").await.unwrap();
        assert_eq!(created, Created::No);
        assert_eq!(first.marker(), second.marker());
    }

    #[test]
    fn every_bit_of_the_marker_counts() {
        let marker = StoreMarker { version: 1, min_reader: 1, id: "00ff".into() };
        let bytes = marker.encode();
        assert_eq!(
            String::from_utf8_lossy(&bytes),
            "{\"magic\":\"layerpack store\",\"version\":1,\"min_reader\":1,\"id\":\"00ff\",\"crc32c\":\"930b5e09\"}\n"
        );
        assert_eq!(StoreMarker::decode(&bytes), Ok(marker.clone()));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // White space at the end is not part of what the marker says; a larger version is refused as too new.
            match StoreMarker::decode(&flipped) {
                Ok(other) => assert!(
                    other == marker && bit / 8 == bytes.len() - 1 || other.min_reader > 1,
                    "bit {bit}"
                ),
                Err(why) => assert!(!why.is_empty()),
            }
        }
    }

    #[test]
    fn a_newer_marker_says_so_whatever_else_is_in_it() {
        let newer = br#"{"magic":"layerpack store","version":7,"min_reader":3,"shape":"round"}"#;
        assert_eq!(StoreMarker::decode(newer).unwrap().min_reader, 3);
    }

    #[test]
    fn a_newer_marker_that_older_readers_may_read_is_read_whatever_it_adds() {
        let marker = StoreMarker { version: 2, min_reader: 1, id: "00ff".into() };
        let text = String::from_utf8(marker.encode().to_vec()).unwrap();
        let newer = text.replace("\"crc32c\"", "\"shape\":\"round\",\"crc32c\"");
        assert_ne!(newer, text);
        assert_eq!(StoreMarker::decode(newer.as_bytes()), Ok(marker));
    }
}
