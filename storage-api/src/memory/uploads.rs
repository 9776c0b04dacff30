//! Uploads in parts that are not yet objects.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};

use super::{State, error};
use crate::{
    Body, Crc32c, ErrorKind, Key, KeyPrefix, Operation, PartId, PendingUpload, Result, StorageError, UploadId,
};

/// The highest part number, as on S3.
const PART_NUMBER_MAX: u32 = 10_000;

/// An upload that was begun and not ended.
pub(super) struct Upload {
    begun: SystemTime,
    parts: BTreeMap<u32, Part>,
}

struct Part {
    bytes: Bytes,
    crc32c: Crc32c,
    etag: String,
}

impl State {
    pub(super) fn begin_upload(&mut self, key: &Key, begun: SystemTime) -> UploadId {
        let upload = UploadId(self.next_tag());
        self.uploads.insert((key.clone(), upload.clone()), Upload { begun, parts: BTreeMap::new() });
        upload
    }

    pub(super) fn put_part(
        &mut self,
        key: &Key,
        upload: &UploadId,
        number: u32,
        body: &Body,
    ) -> Result<PartId> {
        if !(1..=PART_NUMBER_MAX).contains(&number) {
            let text = format!("part number {number} is not in 1 to {PART_NUMBER_MAX}");
            return Err(error(ErrorKind::Invalid, Operation::MultipartPut, key).with_source(text));
        }
        let etag = self.next_tag();
        let pending = self
            .uploads
            .get_mut(&(key.clone(), upload.clone()))
            .ok_or_else(|| no_upload(Operation::MultipartPut, key, upload))?;
        let part = Part { bytes: body.bytes().clone(), crc32c: body.crc32c(), etag: etag.clone() };
        pending.parts.insert(number, part);
        Ok(PartId { number, etag, crc32c: body.crc32c() })
    }

    /// The bytes of `parts`, which must be ascending, uploaded as named and not too small.
    pub(super) fn join_parts(
        &self,
        key: &Key,
        upload: &UploadId,
        parts: &[PartId],
        part_bytes_min: u64,
    ) -> Result<Bytes> {
        let operation = Operation::MultipartComplete;
        let pending = self
            .uploads
            .get(&(key.clone(), upload.clone()))
            .ok_or_else(|| no_upload(operation, key, upload))?;
        let invalid = |text: String| error(ErrorKind::Invalid, operation, key).with_source(text);
        if parts.is_empty() {
            return Err(invalid("there are no parts to join".to_owned()));
        }
        if !parts.is_sorted_by(|a, b| a.number < b.number) {
            return Err(invalid("the parts are not in ascending order".to_owned()));
        }
        let mut joined = BytesMut::new();
        for (index, PartId { number, etag, crc32c }) in parts.iter().enumerate() {
            let part = pending.parts.get(number).filter(|part| part.etag == *etag && part.crc32c == *crc32c);
            let part =
                part.ok_or_else(|| invalid(format!("part {number} was not uploaded with these bytes")))?;
            let len = part.bytes.len() as u64;
            if index + 1 < parts.len() && len < part_bytes_min {
                return Err(invalid(format!("part {number} has {len} bytes, less than {part_bytes_min}")));
            }
            joined.extend_from_slice(&part.bytes);
        }
        Ok(joined.freeze())
    }

    pub(super) fn end_upload(&mut self, key: &Key, upload: &UploadId) {
        self.uploads.remove(&(key.clone(), upload.clone()));
    }

    pub(super) fn pending_uploads(&self, prefix: &KeyPrefix) -> Vec<PendingUpload> {
        let under = self.uploads.iter().filter(|((key, _), _)| key.as_str().starts_with(prefix.as_str()));
        under
            .map(|((key, upload), pending)| PendingUpload {
                key: key.clone(),
                upload: upload.clone(),
                begun: pending.begun,
            })
            .collect()
    }
}

fn no_upload(operation: Operation, key: &Key, upload: &UploadId) -> StorageError {
    error(ErrorKind::NotFound, operation, key).with_source(format!("there is no upload {:?}", upload.0))
}
