//! Objects as streams of bytes.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use cap_std::fs::Metadata;
use futures::{StreamExt, TryStreamExt};
use storage_api::{ByteStream, ErrorKind, GetRange, Key, ObjectInfo, Operation};

use crate::fault::{Fault, Result};
use crate::root::{Root, open_file, split};
use crate::store::blocking;

/// So many bytes are read at once.
const CHUNK_BYTES: u64 = 512 << 10;

/// An opened object and the range of it to be read. An overwrite or a delete leaves its bytes alone.
pub(crate) struct OpenObject {
    pub(crate) info: ObjectInfo,
    pub(crate) range: Range<u64>,
    file: File,
}

impl OpenObject {
    /// Opens the object `key`.
    pub(crate) fn open(root: &Root, key: &Key, range: &GetRange) -> Result<Self> {
        let (parent, name) = split(key);
        let (file, metadata) = open_file(&root.descend(parent)?, name, key.as_str())?;
        let info = object_info(key.clone(), &metadata)?;
        let range = range.resolve(info.size).ok_or_else(|| {
            let wrong = format!("{range:?} of {} bytes", info.size);
            Fault::new(ErrorKind::Range, "read", key.as_str(), wrong)
        })?;
        Ok(Self { info, range, file })
    }

    /// The bytes of the range.
    pub(crate) fn into_stream(self) -> ByteStream {
        let Self { info, range, file } = self;
        let (file, key) = (Arc::new(file), info.key);
        futures::stream::try_unfold(range.start, move |at| {
            let (file, key) = (Arc::clone(&file), key.clone());
            let end = range.end.min(at.saturating_add(CHUNK_BYTES));
            async move {
                if at >= end {
                    return Ok(None);
                }
                let name = key.clone();
                let bytes =
                    blocking(Operation::Get, key.as_str(), move || read_exact(&file, at..end, name.as_str()))
                        .await?;
                Ok(Some((bytes, end)))
            }
        })
        .into_stream()
        .boxed()
    }
}

fn read_exact(file: &File, range: Range<u64>, path: &str) -> Result<Bytes> {
    let len = usize::try_from(range.end - range.start)
        .map_err(|_| Fault::new(ErrorKind::Range, "read", path, "the range is longer than memory"))?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, range.start).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            let wrong = format!("the file became shorter than {} bytes while it was read", range.end);
            Fault::new(ErrorKind::Interrupted, "read", path, wrong)
        }
        _ => Fault::io("read", path, error),
    })?;
    Ok(bytes.into())
}

/// What the store says of an object.
pub(crate) fn object_info(key: Key, metadata: &Metadata) -> Result<ObjectInfo> {
    let modified = metadata.modified().map_err(|error| Fault::io("look up", key.as_str(), error))?;
    Ok(ObjectInfo { key, size: metadata.len(), last_modified: modified.into_std(), etag: None, crc32c: None })
}
