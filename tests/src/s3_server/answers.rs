//! Values of the store in S3's words, and back.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use s3s::dto::{ETag, ETagCondition, StreamingBlob, Timestamp};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};
use storage_api::{Body, Crc32c, ErrorKind, Key, KeyPrefix, Operation, StorageError};

/// The key that a client names.
pub(super) fn key(text: &str) -> S3Result<Key> {
    Key::new(text).map_err(|error| s3_error!(InvalidArgument, "{error}"))
}

/// The prefix that a client lists. Prefixes that end inside a name are more than this server can do.
pub(super) fn prefix(text: Option<&str>) -> S3Result<KeyPrefix> {
    KeyPrefix::new(text.unwrap_or_default()).map_err(|error| s3_error!(NotImplemented, "{error}"))
}

/// What an error of the store is on S3.
pub(super) fn refusal(error: &StorageError) -> S3Error {
    let is_upload = matches!(
        error.operation(),
        Operation::MultipartPut | Operation::MultipartComplete | Operation::MultipartAbort
    );
    let code = match error.kind() {
        ErrorKind::NotFound if is_upload => S3ErrorCode::NoSuchUpload,
        ErrorKind::NotFound => S3ErrorCode::NoSuchKey,
        ErrorKind::AlreadyExists => S3ErrorCode::PreconditionFailed,
        ErrorKind::Range => S3ErrorCode::InvalidRange,
        ErrorKind::Integrity => S3ErrorCode::BadDigest,
        ErrorKind::Invalid if error.operation() == Operation::MultipartComplete => {
            S3ErrorCode::EntityTooSmall
        }
        ErrorKind::Invalid => S3ErrorCode::InvalidArgument,
        _ => S3ErrorCode::InternalError,
    };
    S3Error::with_message(code, error.to_string())
}

/// The bytes of a request with the checksum that came with them, or their own where none did.
pub(super) async fn body(blob: Option<StreamingBlob>, crc32c: Option<&str>) -> S3Result<Body> {
    let bytes = match blob {
        Some(blob) => {
            let joined = blob.try_fold(BytesMut::new(), async |mut joined, chunk: Bytes| {
                joined.extend_from_slice(&chunk);
                Ok(joined)
            });
            joined.await.map_err(|error| s3_error!(IncompleteBody, "{error}"))?.freeze()
        }
        None => Bytes::new(),
    };
    Ok(match crc32c {
        Some(text) => Body::with_crc32c(bytes, checksum(text)?),
        None => Body::new(bytes),
    })
}

/// A checksum as S3 writes it: base64 of its four bytes, the high one first.
pub(super) fn checksum(text: &str) -> S3Result<Crc32c> {
    let bytes = BASE64.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    let bytes = bytes
        .ok_or_else(|| s3_error!(InvalidRequest, "Value for x-amz-checksum-crc32c header is invalid."))?;
    Ok(Crc32c(u32::from_be_bytes(bytes)))
}

pub(super) fn checksum_text(crc32c: Crc32c) -> String {
    BASE64.encode(crc32c.0.to_be_bytes())
}

pub(super) fn etag(tag: Option<String>) -> Option<ETag> {
    tag.map(ETag::Strong)
}

pub(super) fn time(time: SystemTime) -> Option<Timestamp> {
    Some(Timestamp::from(time))
}

/// A length as S3's answers have it.
pub(super) fn length(bytes: u64) -> Option<i64> {
    i64::try_from(bytes).ok()
}

/// Refuses the conditions that this server does not have.
pub(super) fn no_condition(condition: Option<&ETagCondition>) -> S3Result<()> {
    match condition {
        Some(_) => {
            Err(s3_error!(NotImplemented, "this server has no condition but If-None-Match: * of a put"))
        }
        None => Ok(()),
    }
}
