//! Uploads in parts: what S3 says of parts and the store does not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use s3s::dto::{
    ChecksumType, CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CompletedPart,
    CreateMultipartUploadInput, CreateMultipartUploadOutput,
};
use s3s::{S3Error, S3Result, s3_error};
use storage_api::{Body, Crc32c, Key, ObjectStore, PartId, UploadId};

use super::answers::{checksum, checksum_text, etag, key, no_condition, refusal};

/// The uploads that this server has begun.
#[derive(Debug)]
pub(super) struct Uploads {
    store: Arc<dyn ObjectStore>,
    pending: Mutex<BTreeMap<UploadId, Upload>>,
}

/// How an upload's checksum is made of its parts, and its parts.
#[derive(Clone, Debug, Default)]
struct Upload {
    checksum_type: Option<ChecksumType>,
    parts: BTreeMap<u32, Part>,
}

#[derive(Clone, Debug)]
struct Part {
    id: PartId,
    len: usize,
}

impl Uploads {
    pub(super) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, pending: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<UploadId, Upload>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn create(
        &self,
        input: CreateMultipartUploadInput,
    ) -> S3Result<CreateMultipartUploadOutput> {
        let upload = self.store.multipart_create(&key(&input.key)?).await.map_err(|error| refusal(&error))?;
        let CreateMultipartUploadInput { bucket, key, checksum_algorithm, checksum_type, .. } = input;
        self.lock()
            .insert(upload.clone(), Upload { checksum_type: checksum_type.clone(), ..Upload::default() });
        Ok(CreateMultipartUploadOutput {
            bucket: Some(bucket),
            key: Some(key),
            upload_id: Some(upload.0),
            checksum_algorithm,
            checksum_type,
            ..Default::default()
        })
    }

    pub(super) async fn put(&self, key: &Key, upload: &str, number: i32, body: Body) -> S3Result<PartId> {
        let upload = UploadId(upload.to_owned());
        let number = u32::try_from(number)
            .map_err(|_| s3_error!(InvalidArgument, "part number {number} is below 1"))?;
        let len = body.bytes().len();
        let id = self.store.multipart_put(key, &upload, number, body).await;
        let id = id.map_err(|error| refusal(&error))?;
        if let Some(upload) = self.lock().get_mut(&upload) {
            upload.parts.insert(number, Part { id: id.clone(), len });
        }
        Ok(id)
    }

    pub(super) async fn abort(&self, key: &Key, upload: &str) -> S3Result<()> {
        let upload = UploadId(upload.to_owned());
        if self.lock().remove(&upload).is_none() {
            return Err(no_such_upload());
        }
        self.store.multipart_abort(key, &upload).await.map_err(|error| refusal(&error))
    }

    pub(super) async fn complete(
        &self,
        input: CompleteMultipartUploadInput,
    ) -> S3Result<CompleteMultipartUploadOutput> {
        no_condition(input.if_match.as_ref())?;
        // Some stores ignore the condition here; the contract does not use it.
        no_condition(input.if_none_match.as_ref())?;
        let name = UploadId(input.upload_id);
        let upload = self.lock().get(&name).cloned().ok_or_else(no_such_upload)?;
        let parts = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let parts = upload.joined(&parts)?;
        let key = key(&input.key)?;
        let whole = match input.checksum_crc32c.as_deref() {
            Some(_) if !upload.is_full_object() => {
                return Err(s3_error!(
                    InvalidRequest,
                    "The upload was created using the COMPOSITE checksum mode. The complete request must use the same checksum mode."
                ));
            }
            Some(text) => checksum(text)?,
            None => parts.iter().fold(Crc32c::of(&[]), |whole, part| {
                Crc32c(crc32c::crc32c_combine(whole.0, part.id.crc32c.0, part.len))
            }),
        };
        let ids: Vec<_> = parts.into_iter().map(|part| part.id).collect();
        let receipt = self.store.multipart_complete(&key, &name, &ids, whole).await;
        let receipt = receipt.map_err(|error| refusal(&error))?;
        self.lock().remove(&name);
        Ok(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: etag(receipt.etag),
            checksum_crc32c: upload.is_full_object().then(|| checksum_text(whole)),
            checksum_type: upload.checksum_type,
            ..Default::default()
        })
    }
}

impl Upload {
    fn is_full_object(&self) -> bool {
        self.checksum_type.as_ref().is_some_and(|kind| kind.as_str() == ChecksumType::FULL_OBJECT)
    }

    /// The parts that a completion names, which must be ascending and what was uploaded.
    fn joined(&self, named: &[CompletedPart]) -> S3Result<Vec<Part>> {
        if named.is_empty() {
            return Err(s3_error!(MalformedXML, "You must specify at least one part"));
        }
        if !named.is_sorted_by(|a, b| a.part_number < b.part_number) {
            return Err(s3_error!(
                InvalidPartOrder,
                "The list of parts was not in ascending order. Parts must be ordered by part number."
            ));
        }
        named.iter().map(|named| self.part(named)).collect()
    }

    fn part(&self, named: &CompletedPart) -> S3Result<Part> {
        let invalid = || s3_error!(InvalidPart, "One or more of the specified parts could not be found.");
        let number = named.part_number.and_then(|number| u32::try_from(number).ok()).ok_or_else(invalid)?;
        let part = self.parts.get(&number).ok_or_else(invalid)?;
        if named.e_tag.as_ref().map(|tag| tag.value()) != Some(&part.id.etag) {
            return Err(invalid());
        }
        match named.checksum_crc32c.as_deref() {
            Some(text) if checksum(text)? != part.id.crc32c => Err(invalid()),
            _ => Ok(part.clone()),
        }
    }
}

fn no_such_upload() -> S3Error {
    s3_error!(
        NoSuchUpload,
        "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed."
    )
}
