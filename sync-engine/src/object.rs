//! Reading objects of a timeline: indexes from their tails, manifests, ranges.

use bytes::Bytes;
use layer_archive::{BundleId, BundleIndex, FormatError, Manifest, TailParse, limits};
use storage_api::{ErrorKind, GetRange, Key, ObjectStore, ObjectStoreExt, StorageError};

use tokio::sync::Semaphore;

use crate::{Error, Result};

/// Reads, and once more where what came is corrupt: what flipped on the way is right the second time, what is wrong in
/// the store is wrong again.
pub(crate) async fn twice<T, F: Future<Output = Result<T>>>(read: impl Fn() -> F) -> Result<T> {
    match read().await {
        Err(error) if error.is_corrupt() => {
            tracing::warn!(%error, "what came is corrupt: it is read once more");
            read().await
        }
        other => other,
    }
}

/// How many indexes are read at a time that are longer than what a reader asks for first. Many short ones are read at once,
/// and each of them may claim to be as long as the limits allow.
static LONG_TAILS: Semaphore = Semaphore::const_new(2);

/// Reads the index of a bundle from its last `tail_len` bytes, and from more where those are too few.
pub(crate) async fn read_index(objects: &dyn ObjectStore, key: &Key, tail_len: u64) -> Result<BundleIndex> {
    twice(|| read_index_once(objects, key, tail_len)).await
}

async fn read_index_once(objects: &dyn ObjectStore, key: &Key, tail_len: u64) -> Result<BundleIndex> {
    let mut wanted = tail_len;
    let mut turn = None;
    // Lengths come from the object: each answer must ask for more than the one before, and two are enough.
    for _ in 0..3 {
        if wanted > limits::TAIL_READ_BYTES && turn.is_none() {
            // Never closed, which is the only way for this to fail.
            turn = LONG_TAILS.acquire().await.ok();
        }
        let (info, tail) = match objects.get_bytes(key, GetRange::Suffix(wanted), wanted).await {
            Ok(answer) => answer,
            // The suffix of an object without bytes.
            Err(error) if error.kind() == ErrorKind::Range => {
                let (what, needed, available) = ("bundle", limits::TAIL_READ_BYTES, 0);
                return Err(Error::damaged(key, FormatError::Truncated { what, needed, available }));
            }
            Err(error) => return Err(error.into()),
        };
        match BundleIndex::parse_tail(&tail, info.size).map_err(|error| Error::damaged(key, error))? {
            TailParse::Complete(index) => return Ok(*index),
            TailParse::NeedMore(needed) if needed > wanted => wanted = needed,
            TailParse::NeedMore(_) => break,
        }
    }
    let why = "its index asks for more and more".into();
    Err(Error::damaged(key, FormatError::Malformed { what: "bundle", why }))
}

/// Reads the index of the record or payload object `bundle`, whose origin must say so where it is a record.
pub(crate) async fn read_record(
    objects: &dyn ObjectStore,
    key: &Key,
    bundle: BundleId,
) -> Result<BundleIndex> {
    let index = read_index(objects, key, limits::TAIL_READ_BYTES).await?;
    if index.origin().bundle != bundle {
        let why = format!("it says that it is {}", index.origin().bundle);
        return Err(Error::damaged(key, FormatError::Malformed { what: "record", why }));
    }
    Ok(index)
}

/// Reads a manifest.
pub(crate) async fn read_manifest(objects: &dyn ObjectStore, key: &Key) -> Result<(Manifest, u64)> {
    twice(|| read_manifest_once(objects, key)).await
}

async fn read_manifest_once(objects: &dyn ObjectStore, key: &Key) -> Result<(Manifest, u64)> {
    let (info, bytes) = objects.get_bytes(key, GetRange::Full, limits::READ_SECTION_PLAIN_MAX).await?;
    let manifest = Manifest::decode(&bytes).map_err(|error| Error::damaged(key, error))?;
    Ok((manifest, info.size))
}

/// Reads exactly the bytes `start..end` of an object.
pub(crate) async fn read_range(
    objects: &dyn ObjectStore,
    key: &Key,
    range: std::ops::Range<u64>,
) -> Result<Bytes> {
    let len = range.end.saturating_sub(range.start);
    let range_error = |error: StorageError| match error.kind() {
        // The object is shorter than what is known of it.
        ErrorKind::Range => {
            Error::damaged(key, FormatError::Truncated { what: "bundle", needed: range.end, available: 0 })
        }
        _ => error.into(),
    };
    let (info, bytes) =
        objects.get_bytes(key, GetRange::Bounded(range.clone()), len).await.map_err(range_error)?;
    if bytes.len() as u64 == len {
        return Ok(bytes);
    }
    Err(Error::damaged(
        key,
        FormatError::Truncated { what: "bundle", needed: range.end, available: info.size },
    ))
}
