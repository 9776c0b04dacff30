//! Puts, and what became of those whose answer was lost.

use futures::StreamExt;

use super::Retrying;
use super::attempts::Attempts;
use crate::{
    Body, Crc32c, ErrorKind, GetRange, Key, ObjectStore, Operation, PutMode, PutReceipt, Result, RetryClass,
    StorageError,
};

/// Keeps the first error that leaves open whether a request took effect: what ends the attempts later does not
/// tell.
pub(super) fn remember(unknown: &mut Option<StorageError>, error: StorageError) {
    if error.retry_class() == RetryClass::Ambiguous {
        unknown.get_or_insert(error);
    }
}

/// Whether sending `body` again cannot help, because it is not what its checksum says before it is sent.
pub(super) fn is_hopeless(error: &StorageError, body: &Body) -> bool {
    error.kind() == ErrorKind::Integrity && !body.is_intact()
}

impl<S: ObjectStore + ?Sized> Retrying<S> {
    pub(super) async fn overwrite(&self, key: &Key, body: &Body) -> Result<PutReceipt> {
        let mut attempts = self.attempts(Operation::PutOverwrite, key.as_str());
        loop {
            match attempts.send(self.inner.put(key, body.clone(), PutMode::Overwrite)).await {
                Err(error) if !is_hopeless(&error, body) && attempts.go_on(&error).await => {}
                settled => return settled,
            }
        }
    }

    pub(super) async fn create(&self, key: &Key, body: &Body) -> Result<PutReceipt> {
        let mut attempts = self.attempts(Operation::PutCreate, key.as_str());
        let mut unknown = None;
        loop {
            match attempts.send(self.inner.put(key, body.clone(), PutMode::Create)).await {
                Err(error) if !is_hopeless(&error, body) && attempts.go_on(&error).await => {
                    remember(&mut unknown, error);
                }
                Err(error) => {
                    return match unknown {
                        Some(unknown) if error.is_already_exists() => {
                            self.resolve(attempts, key, body, unknown, error).await
                        }
                        Some(unknown) => Err(unknown),
                        None => Err(error),
                    };
                }
                created => return created,
            }
        }
    }

    /// Finds out what became of a create of which one attempt left it open, by `unknown`, and a later one was refused,
    /// by `refused`.
    async fn resolve(
        &self,
        mut attempts: Attempts<'_>,
        key: &Key,
        body: &Body,
        unknown: StorageError,
        refused: StorageError,
    ) -> Result<PutReceipt> {
        loop {
            match attempts.send(self.compare(key, body)).await {
                Ok(Some(ours)) => return Ok(ours),
                Ok(None) => return Err(refused),
                Err(error) if attempts.go_on(&error).await => {}
                Err(_) => return Err(unknown),
            }
        }
    }

    /// Whether the object has the bytes of `body`, as the receipt of its put. It is compared as it comes, so that there
    /// is not a second one in memory.
    async fn compare(&self, key: &Key, body: &Body) -> Result<Option<PutReceipt>> {
        let mut response = self.inner.get(key, GetRange::Full).await?;
        if response.info.size != body.len() {
            return Ok(None);
        }
        let mut rest = &body.bytes()[..];
        let mut read = Crc32c::of(&[]);
        let mut differs = false;
        while let Some(chunk) = response.stream.next().await {
            let chunk = chunk?;
            read = read.append(&chunk);
            match rest.strip_prefix(&chunk[..]) {
                Some(after) => rest = after,
                None => differs = true,
            }
        }
        if differs {
            // Bytes that flipped on the way make no other object.
            return match response.info.crc32c {
                Some(kept) if kept != read => Err(error(ErrorKind::Integrity, key)),
                _ => Ok(None),
            };
        }
        match rest {
            [] => Ok(Some(PutReceipt { etag: response.info.etag })),
            _ => Err(error(ErrorKind::Interrupted, key)),
        }
    }
}

fn error(kind: ErrorKind, key: &Key) -> StorageError {
    StorageError::new(kind, Operation::Get, key.as_str(), "remote")
}
