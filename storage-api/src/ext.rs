//! Comfort on top of [`ObjectStore`]: whole bodies in memory and whole lists.

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use crate::{
    ErrorKind, GetRange, GetResponse, Key, KeyPrefix, ListRequest, ObjectInfo, ObjectStore, Operation,
    Result, StorageError,
};

/// What every [`ObjectStore`] can do by means of the others.
#[async_trait]
pub trait ObjectStoreExt: ObjectStore {
    /// Reads a range into memory and refuses to hold more than `len_max` bytes.
    ///
    /// The answer has exactly the bytes that the store announced: a body that ends early is
    /// [`Interrupted`](ErrorKind::Interrupted), one that goes on is [`Integrity`](ErrorKind::Integrity).
    async fn get_bytes(&self, key: &Key, range: GetRange, len_max: u64) -> Result<(ObjectInfo, Bytes)> {
        let response = self.get(key, range).await?;
        collect(key, response, len_max).await
    }

    /// All objects under `prefix`, page by page, in byte order.
    async fn list_all(&self, prefix: &KeyPrefix) -> Result<Vec<ObjectInfo>> {
        self.list_after(prefix, None).await
    }

    /// The objects under `prefix` whose keys come after `start_after`, page by page, in byte order.
    async fn list_after(&self, prefix: &KeyPrefix, start_after: Option<String>) -> Result<Vec<ObjectInfo>> {
        let mut request = ListRequest { prefix: prefix.clone(), start_after, ..ListRequest::default() };
        let mut objects = Vec::new();
        loop {
            let page = self.list(&request).await?;
            objects.extend(page.objects);
            match page.next {
                Some(next) => request.start_after = Some(next),
                None => return Ok(objects),
            }
        }
    }
}

impl<S: ObjectStore + ?Sized> ObjectStoreExt for S {}

async fn collect(key: &Key, mut response: GetResponse, len_max: u64) -> Result<(ObjectInfo, Bytes)> {
    let error = |kind, text: String| {
        StorageError::new(kind, Operation::Get, key.as_str(), "remote").with_source(text)
    };
    let expected = response.range.end.saturating_sub(response.range.start);
    if expected > len_max {
        return Err(error(
            ErrorKind::Integrity,
            format!("{expected} bytes announced, at most {len_max} are accepted"),
        ));
    }
    let mut first: Option<Bytes> = None;
    let mut joined = BytesMut::new();
    let mut received = 0u64;
    while let Some(chunk) = response.stream.next().await {
        let chunk = chunk?;
        received += chunk.len() as u64;
        if received > expected {
            return Err(error(
                ErrorKind::Integrity,
                format!("more than the announced {expected} bytes came"),
            ));
        }
        // One chunk is handed on as it came; only several are joined.
        match first.take() {
            None if joined.is_empty() => first = Some(chunk),
            None => joined.extend_from_slice(&chunk),
            Some(head) => {
                joined.reserve(usize::try_from(expected).unwrap_or(0));
                joined.extend_from_slice(&head);
                joined.extend_from_slice(&chunk);
            }
        }
    }
    if received < expected {
        return Err(error(ErrorKind::Interrupted, format!("{received} of {expected} bytes came")));
    }
    Ok((response.info, first.unwrap_or_else(|| joined.freeze())))
}
