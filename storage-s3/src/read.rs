//! Reads: whole objects, ranges of them, and what is known of them without their bytes.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumMode, ChecksumType};
use bytes::Bytes;
use futures::StreamExt;
use storage_api::{Crc32c, ErrorKind, GetRange, GetResponse, Key, ObjectInfo, Operation, Result};

use crate::checksum;
use crate::config::Checksums;
use crate::fault::{Fault, Place};
use crate::store::{S3Store, length, plain_etag, time};
use crate::within::within;

/// No object is as long, and servers that count in signed numbers, or in floating point, understand it.
const FAR: u64 = 1 << 53;

pub(crate) async fn head(store: &S3Store, key: &Key, operation: Operation) -> Result<ObjectInfo, Fault> {
    let mut request = store.client.head_object().bucket(store.bucket()).key(store.full(key.as_str()));
    if store.config.checksums != Checksums::None {
        request = request.checksum_mode(ChecksumMode::Enabled);
    }
    let answer = store.call(operation, store.answer_limit(), request.send()).await?;
    Ok(ObjectInfo {
        key: key.clone(),
        size: length(answer.content_length(), &store.place)?,
        last_modified: time(answer.last_modified(), &store.place)?,
        etag: answer.e_tag().map(plain_etag),
        crc32c: kept_checksum(answer.checksum_crc32_c(), answer.checksum_type()),
    })
}

/// The checksum of the whole object, where that is what the answer has.
fn kept_checksum(text: Option<&str>, kind: Option<&ChecksumType>) -> Option<Crc32c> {
    if kind == Some(&ChecksumType::Composite) {
        return None;
    }
    checksum::decode(text)
}

pub(crate) async fn get(store: &S3Store, key: &Key, range: GetRange) -> Result<GetResponse, Fault> {
    let header = range_header(&range)?;
    let asks_for_checksum = header.is_none() && store.config.checksums != Checksums::None;
    let request = store
        .client
        .get_object()
        .bucket(store.bucket())
        .key(store.full(key.as_str()))
        .set_range(header)
        .customize()
        .mutate_request(move |request| {
            if asks_for_checksum {
                // Not by the SDK's own setting, which makes it compare by itself and count that as a broken body.
                request.headers_mut().insert("x-amz-checksum-mode", "ENABLED");
            }
        });
    let answer = store.call(Operation::Get, store.answer_limit(), request.send()).await?;
    let place = &store.place;
    // A page of a web server has none.
    let etag = answer.e_tag().ok_or_else(|| Fault::not_s3("an object without an ETag", place))?;
    let sent = Sent::of(&answer, &range, place)?;
    let is_whole = sent.skipped == 0 && sent.range == (0..sent.size) && answer.content_range().is_none();
    let kept = kept_checksum(answer.checksum_crc32_c(), answer.checksum_type()).filter(|_| is_whole);
    let info = ObjectInfo {
        key: key.clone(),
        size: sent.size,
        last_modified: time(answer.last_modified(), place)?,
        etag: Some(plain_etag(etag)),
        crc32c: kept,
    };
    let body = Incoming {
        body: answer.body,
        skip: sent.skipped,
        left: sent.range.end - sent.range.start,
        may_be_longer: sent.is_longer,
        came: Crc32c::of(&[]),
        expected: kept,
        silence_max: store.config.progress_timeout,
        place: Arc::clone(place),
    };
    let target = key.clone();
    let stream = futures::stream::try_unfold(body, Incoming::next)
        .map(move |chunk| chunk.map_err(|fault| fault.into_error(Operation::Get, target.as_str())));
    Ok(GetResponse { info, range: sent.range, stream: stream.boxed() })
}

/// The `Range` header that asks for `range`; none for all.
fn range_header(range: &GetRange) -> Result<Option<String>, Fault> {
    let nothing = |text: String| Err(Fault::new(ErrorKind::Range, text));
    match range {
        GetRange::Full => Ok(None),
        // S3 takes a range that makes no sense for none at all, and answers with everything.
        GetRange::Bounded(range) if range.start >= range.end => {
            nothing(format!("the range {}..{} has no bytes", range.start, range.end))
        }
        GetRange::Bounded(range) if range.start >= FAR => {
            nothing(format!("no object has a byte {}", range.start))
        }
        GetRange::Bounded(range) if range.end > FAR => Ok(Some(format!("bytes={}-", range.start))),
        GetRange::Bounded(range) => Ok(Some(format!("bytes={}-{}", range.start, range.end - 1))),
        GetRange::Suffix(0) => nothing("a suffix of 0 bytes was asked for".to_owned()),
        GetRange::Suffix(len) => Ok(Some(format!("bytes=-{}", (*len).min(FAR)))),
    }
}

/// Which bytes an answer has.
#[derive(Debug, PartialEq, Eq)]
struct Sent {
    /// The length of the whole object.
    size: u64,
    /// What was asked for, cut at the object's end.
    range: Range<u64>,
    /// How many bytes come before that.
    skipped: u64,
    /// Whether there are bytes after it.
    is_longer: bool,
}

impl Sent {
    fn of(answer: &GetObjectOutput, asked: &GetRange, place: &Place) -> Result<Self, Fault> {
        match answer.content_range() {
            Some(text) => {
                let wrong = || Fault::not_s3("a range of an object that was not asked for", place);
                if text.ends_with("/0") {
                    // MiniStack answers 206 for a suffix of an object that is empty.
                    return Err(Fault::new(ErrorKind::Range, "the object is empty".to_owned()));
                }
                let (range, size) = parse_content_range(text).ok_or_else(wrong)?;
                let fits = answer
                    .content_length()
                    .is_none_or(|len| u64::try_from(len).is_ok_and(|len| len == range.end - range.start));
                if *asked == GetRange::Full || asked.resolve(size).as_ref() != Some(&range) || !fits {
                    return Err(wrong());
                }
                Ok(Self { size, range, skipped: 0, is_longer: false })
            }
            // HTTP lets a server ignore the header (RFC 9110, 14.2); all of the object comes then.
            None => {
                let size = length(answer.content_length(), place)?;
                let range = asked.resolve(size).ok_or_else(|| {
                    let text = format!("the range lies outside the {size} bytes of the object");
                    Fault::new(ErrorKind::Range, text)
                })?;
                Ok(Self { size, skipped: range.start, is_longer: range.end < size, range })
            }
        }
    }
}

/// The range and the whole length in `bytes 0-9/10`.
fn parse_content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, size): (u64, u64, u64) = (first.parse().ok()?, last.parse().ok()?, size.parse().ok()?);
    (first <= last && last < size).then(|| (first..last + 1, size))
}

/// A body on its way.
struct Incoming {
    body: ByteStream,
    /// Bytes that come and were not asked for.
    skip: u64,
    /// Bytes that were asked for and have not come.
    left: u64,
    /// Whether more comes that was not asked for.
    may_be_longer: bool,
    came: Crc32c,
    expected: Option<Crc32c>,
    silence_max: Duration,
    place: Arc<Place>,
}

impl Incoming {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Fault> {
        while self.left > 0 {
            let came = within(self.silence_max, self.body.next()).await;
            let mut chunk = match came.map_err(|silence| Fault::of_silence(silence, &self.place))? {
                Some(Ok(chunk)) => chunk,
                Some(Err(error)) => return Err(Fault::of_body(&error, &self.place)),
                None => {
                    let text = format!("the answer of {} ended {} bytes early", self.place.at, self.left);
                    return Err(Fault::new(ErrorKind::Interrupted, text));
                }
            };
            let len = chunk.len() as u64;
            let skipped = usize::try_from(self.skip.min(len)).unwrap_or(chunk.len());
            self.skip -= skipped as u64;
            drop(chunk.split_to(skipped));
            if chunk.len() as u64 > self.left {
                if !self.may_be_longer {
                    let text = format!("the answer of {} is longer than it announced", self.place.at);
                    return Err(Fault::new(ErrorKind::Integrity, text));
                }
                chunk.truncate(usize::try_from(self.left).unwrap_or(chunk.len()));
            }
            if chunk.is_empty() {
                continue;
            }
            self.left -= chunk.len() as u64;
            if self.expected.is_some() {
                self.came = self.came.append(&chunk);
            }
            return Ok(Some((chunk, self)));
        }
        match self.expected {
            Some(expected) if expected != self.came => {
                let came = self.came;
                let text = format!(
                    "the bytes came with the checksum {came}, and the store keeps {expected} of them"
                );
                Err(Fault::new(ErrorKind::Integrity, text))
            }
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_written_as_servers_understand_them() {
        let header = |range| range_header(&range).map_err(|fault| fault.kind());
        assert_eq!(header(GetRange::Full), Ok(None));
        assert_eq!(header(GetRange::Bounded(3..7)), Ok(Some("bytes=3-6".to_owned())));
        assert_eq!(header(GetRange::Bounded(7..u64::MAX)), Ok(Some("bytes=7-".to_owned())));
        assert_eq!(header(GetRange::Suffix(9)), Ok(Some("bytes=-9".to_owned())));
        assert_eq!(header(GetRange::Suffix(u64::MAX)), Ok(Some(format!("bytes=-{FAR}"))));
        for nothing in
            [GetRange::Bounded(5..5), GetRange::Bounded(u64::MAX - 1..u64::MAX), GetRange::Suffix(0)]
        {
            assert_eq!(header(nothing), Err(ErrorKind::Range));
        }
    }

    #[test]
    fn only_a_range_that_makes_sense_is_one() {
        assert_eq!(parse_content_range("bytes 0-9/10"), Some((0..10, 10)));
        assert_eq!(parse_content_range("bytes 7-7/10"), Some((7..8, 10)));
        for wrong in [
            "",
            "bytes 0-9/*",
            "bytes 9-0/10",
            "bytes 0-10/10",
            "bytes */10",
            "0-9/10",
            "bytes 0-18446744073709551615/18446744073709551615",
        ] {
            assert_eq!(parse_content_range(wrong), None, "{wrong}");
        }
    }
}
