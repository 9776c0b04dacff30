//! A read that goes on from where it broke off.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;

use super::attempts::Retrier;
use crate::{
    ByteStream, Crc32c, ErrorKind, GetRange, GetResponse, ObjectInfo, ObjectStore, Operation, Result,
    StorageError,
};

/// The bytes of a range of an object, on their way.
pub(super) struct Reading<S: ?Sized> {
    retrier: Arc<Retrier>,
    inner: Arc<S>,
    /// What the first answer said of the object.
    info: ObjectInfo,
    /// What has not come yet.
    rest: Range<u64>,
    stream: ByteStream,
    check: Option<Check>,
}

/// The checksum of what has come, and what it must be in the end.
struct Check {
    so_far: Crc32c,
    whole: Crc32c,
}

impl<S: ObjectStore + ?Sized + 'static> Reading<S> {
    /// `response`, an answer of `inner`, with a stream that goes on when that of `inner` breaks off.
    pub(super) fn resumed(retrier: Arc<Retrier>, inner: Arc<S>, response: GetResponse) -> GetResponse {
        let GetResponse { info, range, stream } = response;
        let is_whole = range == (0..info.size);
        let check = info.crc32c.filter(|_| is_whole).map(|whole| Check { so_far: Crc32c::of(&[]), whole });
        let reading = Self { retrier, inner, info: info.clone(), rest: range.clone(), stream, check };
        let stream = futures::stream::unfold(Some(reading), async |reading| {
            let mut reading = reading?;
            let item = reading.next().await?;
            let goes_on = item.is_ok();
            Some((item, goes_on.then_some(reading)))
        });
        GetResponse { info, range, stream: stream.boxed() }
    }

    async fn next(&mut self) -> Option<Result<Bytes>> {
        let key = self.info.key.clone();
        let retrier = Arc::clone(&self.retrier);
        // Begun anew after every byte that came.
        let mut attempts = None;
        loop {
            let mut broken = match self.stream.next().await {
                Some(Ok(chunk)) if chunk.is_empty() => continue,
                Some(Ok(chunk)) => return Some(Ok(self.pass(chunk))),
                Some(Err(error)) if error.kind() == ErrorKind::Integrity => return Some(Err(error)),
                // All has come: what broke off then is of no interest.
                Some(Err(_)) | None if self.rest.is_empty() => return self.finish(),
                Some(Err(error)) => error,
                None => {
                    let why = format!("the bytes {:?} did not come", self.rest);
                    self.error(ErrorKind::Interrupted, why)
                }
            };
            let attempts = attempts.get_or_insert_with(|| retrier.attempts(Operation::Get, key.as_str()));
            loop {
                if !attempts.go_on(&broken).await {
                    return Some(Err(broken));
                }
                let range = GetRange::Bounded(self.rest.clone());
                match attempts.send(self.inner.get(&key, range)).await {
                    Ok(response) => match self.go_on_with(response) {
                        Ok(()) => break,
                        Err(error) => return Some(Err(error)),
                    },
                    Err(error) => broken = error,
                }
            }
        }
    }

    /// Counts what has come.
    fn pass(&mut self, chunk: Bytes) -> Bytes {
        // Bytes past the end are handed on as they come: who reads counts them, and refuses them.
        self.rest.start = self.rest.start.saturating_add(chunk.len() as u64).min(self.rest.end);
        if let Some(check) = &mut self.check {
            check.so_far = check.so_far.append(&chunk);
        }
        chunk
    }

    /// The end of the stream: nothing, unless all of it is not what it must be.
    fn finish(&self) -> Option<Result<Bytes>> {
        let Check { so_far, whole } = self.check.as_ref()?;
        (so_far != whole).then(|| {
            let why = format!("the bytes that came have the checksum {so_far}, the store keeps {whole}");
            Err(self.error(ErrorKind::Integrity, why))
        })
    }

    /// Takes the rest from `response`, if that is of the same object.
    fn go_on_with(&mut self, response: GetResponse) -> Result<()> {
        let (then, now) = (&self.info, &response.info);
        let is_same = now.size == then.size
            && match (&then.etag, &now.etag) {
                (Some(then), Some(now)) => then == now,
                _ => then.last_modified == now.last_modified,
            };
        if !is_same {
            return Err(self.error(ErrorKind::Interrupted, "the object was replaced in the meantime".into()));
        }
        if response.range != self.rest {
            let why = format!("the bytes {:?} came when {:?} were asked for", response.range, self.rest);
            return Err(self.error(ErrorKind::Integrity, why));
        }
        self.stream = response.stream;
        Ok(())
    }

    fn error(&self, kind: ErrorKind, why: String) -> StorageError {
        StorageError::new(kind, Operation::Get, self.info.key.as_str(), "remote").with_source(why)
    }
}
