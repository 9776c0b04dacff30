//! Uploads in parts.
//!
//! Servers differ in the checksum of the whole: AWS keeps it where the upload is begun and completed with the type
//! `FULL_OBJECT` (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html>);
//! others do not know it or get it wrong, and want [`Checksums::Parts`]. A condition on the completion is not used:
//! Ceph and Garage ignore it.

use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart, EncodingType, MultipartUpload,
};
use storage_api::{
    Body, Crc32c, ErrorKind, Key, KeyPrefix, Operation, PartId, PendingUpload, PutReceipt, Result, UploadId,
};

use crate::config::Checksums;
use crate::fault::Fault;
use crate::list::decoded;
use crate::store::{CONTENT_TYPE, S3Store, check_body, plain_etag, time, with_attributes};

/// https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
pub(crate) const PART_NUMBER_MAX: u32 = 10_000;

pub(crate) async fn create(store: &S3Store, key: &Key, operation: Operation) -> Result<UploadId, Fault> {
    let (algorithm, kind) = match store.config.checksums {
        Checksums::Whole => (Some(ChecksumAlgorithm::Crc32C), Some(ChecksumType::FullObject)),
        Checksums::Parts => (Some(ChecksumAlgorithm::Crc32C), None),
        Checksums::None => (None, None),
    };
    let request = with_attributes!(store.client.create_multipart_upload(), store.attributes())
        .bucket(store.bucket())
        .key(store.full(key.as_str()))
        .content_type(CONTENT_TYPE)
        .set_checksum_algorithm(algorithm)
        .set_checksum_type(kind);
    let answer = store.call(operation, store.answer_limit(), request.send()).await?;
    let id = answer.upload_id().filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| Fault::not_s3("an upload without a name", &store.place))?;
    Ok(UploadId(id.to_owned()))
}

pub(crate) async fn put(
    store: &S3Store,
    key: &Key,
    upload: &UploadId,
    number: u32,
    body: Body,
) -> Result<PartId, Fault> {
    check_body(&body)?;
    let request = store
        .client
        .upload_part()
        .bucket(store.bucket())
        .key(store.full(key.as_str()))
        .upload_id(&upload.0)
        .part_number(part_number(number)?)
        .set_checksum_crc32_c(store.sent_checksum(body.crc32c()))
        .body(body.bytes().clone().into());
    let answer = store.call(Operation::MultipartPut, store.body_limit(&body), request.send()).await?;
    let etag = answer.e_tag();
    let etag = etag.ok_or_else(|| Fault::not_s3("an answer to a part without an ETag", &store.place))?;
    Ok(PartId { number, etag: etag.to_owned(), crc32c: body.crc32c() })
}

/// A part's number as the SDK wants it.
pub(crate) fn part_number(number: u32) -> Result<i32, Fault> {
    let known = i32::try_from(number).ok().filter(|_| (1..=PART_NUMBER_MAX).contains(&number));
    known.ok_or_else(|| {
        Fault::new(ErrorKind::Invalid, format!("part number {number} is not in 1 to {PART_NUMBER_MAX}"))
    })
}

pub(crate) async fn complete(
    store: &S3Store,
    key: &Key,
    upload: &UploadId,
    parts: &[PartId],
    whole: Crc32c,
) -> Result<PutReceipt, Fault> {
    let invalid = |text: &str| Err(Fault::new(ErrorKind::Invalid, text.to_owned()));
    if parts.is_empty() {
        return invalid("there are no parts to join");
    }
    if !parts.is_sorted_by(|a, b| a.number < b.number) {
        return invalid("the parts are not in ascending order");
    }
    // The one case that can be told without the store, which may not keep the checksum of the whole.
    if let [only] = parts
        && only.crc32c != whole
    {
        let text = format!("the one part has the checksum {} and not {whole}", only.crc32c);
        return Err(Fault::new(ErrorKind::Integrity, text));
    }
    let named = parts.iter().map(|part| {
        let named = CompletedPart::builder()
            .part_number(part_number(part.number)?)
            .e_tag(&part.etag)
            .set_checksum_crc32_c(store.sent_checksum(part.crc32c));
        Ok(named.build())
    });
    let named: Result<Vec<_>, Fault> = named.collect();
    finish(store, key, upload, named?, Some(whole), Operation::MultipartComplete).await
}

/// Completes an upload. The answer's status is 200 before the parts are joined; an error in its body is one, as the
/// SDK knows.
pub(crate) async fn finish(
    store: &S3Store,
    key: &Key,
    upload: &UploadId,
    parts: Vec<CompletedPart>,
    whole: Option<Crc32c>,
    operation: Operation,
) -> Result<PutReceipt, Fault> {
    let whole = whole.filter(|_| store.config.checksums == Checksums::Whole);
    let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    let request = store
        .client
        .complete_multipart_upload()
        .bucket(store.bucket())
        .key(store.full(key.as_str()))
        .upload_id(&upload.0)
        .multipart_upload(parts)
        .set_checksum_crc32_c(whole.and_then(|whole| store.sent_checksum(whole)))
        .set_checksum_type(whole.map(|_| ChecksumType::FullObject));
    let answer = store.call(operation, store.work_limit(), request.send()).await?;
    let etag = answer.e_tag();
    let etag =
        etag.ok_or_else(|| Fault::not_s3("an answer to a completion without an ETag", &store.place))?;
    Ok(PutReceipt { etag: Some(plain_etag(etag)) })
}

pub(crate) async fn abort(
    store: &S3Store,
    key: &Key,
    upload: &UploadId,
    operation: Operation,
) -> Result<(), Fault> {
    let request = store.client.abort_multipart_upload();
    let request = request.bucket(store.bucket()).key(store.full(key.as_str())).upload_id(&upload.0);
    match store.call(operation, store.answer_limit(), request.send()).await {
        Err(fault) if fault.kind() != ErrorKind::NotFound => Err(fault),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// All pages of the uploads under `prefix`.
pub(crate) async fn list(store: &S3Store, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>, Fault> {
    let full = store.full(prefix.as_str());
    let mut found = Vec::new();
    let mut after: Option<(String, String)> = None;
    loop {
        let (key_marker, upload_marker) = after.clone().unzip();
        let request = store
            .client
            .list_multipart_uploads()
            .bucket(store.bucket())
            .set_prefix(Some(full.clone()).filter(|full| !full.is_empty()))
            .set_key_marker(key_marker)
            .set_upload_id_marker(upload_marker)
            .encoding_type(EncodingType::Url);
        let answer = store.call(Operation::MultipartList, store.answer_limit(), request.send()).await?;
        if answer.bucket().is_none() && answer.is_truncated().is_none() {
            return Err(Fault::not_s3("a list of uploads that is none", &store.place));
        }
        let encoding = answer.encoding_type();
        for upload in answer.uploads() {
            found.extend(pending(store, &full, upload, encoding)?);
        }
        if answer.is_truncated() != Some(true) {
            break;
        }
        let key = answer.next_key_marker().map(|key| decoded(key, encoding));
        let next = key.map(|key| (key, answer.next_upload_id_marker().unwrap_or_default().to_owned()));
        if next.is_none() || next == after {
            return Err(Fault::not_s3("a list of uploads that does not go on", &store.place));
        }
        after = next;
    }
    found.sort_by(|a, b| (&a.key, &a.upload).cmp(&(&b.key, &b.upload)));
    Ok(found)
}

/// An upload under the prefix `full`; none of a key that is no [`Key`], which nobody here has begun.
fn pending(
    store: &S3Store,
    full: &str,
    upload: &MultipartUpload,
    encoding: Option<&EncodingType>,
) -> Result<Option<PendingUpload>, Fault> {
    let key = decoded(upload.key().unwrap_or_default(), encoding);
    let is_under = key.starts_with(full);
    let key = key.strip_prefix(store.config.prefix.as_str()).and_then(|key| Key::new(key).ok());
    let (Some(key), Some(id)) = (key.filter(|_| is_under), upload.upload_id()) else { return Ok(None) };
    let begun = time(upload.initiated(), &store.place)?;
    Ok(Some(PendingUpload { key, upload: UploadId(id.to_owned()), begun }))
}
