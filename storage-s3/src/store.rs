//! The store: its requests, and what all of them have in common.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{ServerSideEncryption, StorageClass};
use storage_api::{
    Body, Capabilities, Crc32c, DeleteOutcome, ErrorKind, GetRange, GetResponse, Key, KeyPrefix, ListPage,
    ListRequest, ObjectInfo, ObjectStore, Operation, PartId, PendingUpload, PutMode, PutReceipt, Result,
    UploadId,
};

use crate::config::{Checksums, Encryption, S3Config};
use crate::fault::{Fault, Place};
use crate::within::{upload_limit, within};
use crate::{checksum, copy, delete, list, read, uploads};

/// https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
const CAPABILITIES: Capabilities = Capabilities {
    delete_keys_max: 1000,
    list_keys_max: 1000,
    part_bytes_min: 5 << 20,
    put_bytes_max: 5 << 30,
    multipart: true,
    copy: true,
};

/// What objects are, for servers that else guess it from the key.
pub(crate) const CONTENT_TYPE: &str = "application/octet-stream";

/// An object store in S3, or in what speaks its protocol: one request a call and none tried again.
///
/// Two calls take more than one. A list on a server whose lists are not in byte order reads on, as the module `list`
/// says, and a copy of an object that is too large for one request is a copy in parts.
pub struct S3Store {
    pub(crate) client: Client,
    pub(crate) config: S3Config,
    pub(crate) place: Arc<Place>,
    /// Whether the server was seen to list directory by directory.
    pub(crate) lists_by_directory: Arc<AtomicBool>,
    /// The most bytes of a copy in one request.
    pub(crate) copy_bytes_max: u64,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store")
            .field("bucket", &self.config.bucket)
            .field("prefix", &self.config.prefix)
            .field("at", &self.place.at)
            .finish_non_exhaustive()
    }
}

/// What new objects are to be, besides their bytes.
pub(crate) struct Attributes {
    pub(crate) storage_class: Option<StorageClass>,
    pub(crate) encryption: Option<ServerSideEncryption>,
    pub(crate) kms_key_id: Option<String>,
    pub(crate) tagging: Option<String>,
}

/// Puts [`Attributes`] into the request that makes an object: a put, a copy, or the beginning of an upload.
macro_rules! with_attributes {
    ($request:expr, $attributes:expr) => {{
        let $crate::store::Attributes { storage_class, encryption, kms_key_id, tagging } = $attributes;
        $request
            .set_storage_class(storage_class)
            .set_server_side_encryption(encryption)
            .set_ssekms_key_id(kms_key_id)
            .set_tagging(tagging)
    }};
}
pub(crate) use with_attributes;

impl S3Store {
    pub(crate) fn new(
        client: Client,
        config: S3Config,
        place: Place,
        lists_by_directory: Arc<AtomicBool>,
    ) -> Self {
        let copy_bytes_max = CAPABILITIES.put_bytes_max;
        Self { client, config, place: Arc::new(place), lists_by_directory, copy_bytes_max }
    }

    /// The key of the bucket that is `key` of this store.
    pub(crate) fn full(&self, key: &str) -> String {
        format!("{}{key}", self.config.prefix.as_str())
    }

    /// The bucket's name, as the SDK wants it.
    pub(crate) fn bucket(&self) -> &str {
        &self.config.bucket
    }

    pub(crate) fn attributes(&self) -> Attributes {
        let (encryption, kms_key_id) = match &self.config.encryption {
            Encryption::Default => (None, None),
            Encryption::SseS3 => (Some(ServerSideEncryption::Aes256), None),
            Encryption::SseKms { key_id } => (Some(ServerSideEncryption::AwsKms), key_id.clone()),
        };
        let tags = &self.config.tags;
        let tagging = || url::form_urlencoded::Serializer::new(String::new()).extend_pairs(tags).finish();
        Attributes {
            storage_class: self.config.storage_class.as_deref().map(StorageClass::from),
            encryption,
            kms_key_id,
            tagging: (!tags.is_empty()).then(tagging),
        }
    }

    /// The checksum that goes with a body, if any is to.
    pub(crate) fn sent_checksum(&self, crc32c: Crc32c) -> Option<String> {
        (self.config.checksums != Checksums::None).then(|| checksum::encode(crc32c))
    }

    /// What comes of a request, if it comes within `limit`.
    pub(crate) async fn call<T, E>(
        &self,
        operation: Operation,
        limit: Duration,
        request: impl Future<Output = Result<T, SdkError<E>>>,
    ) -> Result<T, Fault>
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        match within(limit, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Fault::of_sdk(&error, operation, &self.place)),
            Err(silence) => Err(Fault::of_silence(silence, &self.place)),
        }
    }

    /// The limit for a request whose answer the store makes at once.
    pub(crate) fn answer_limit(&self) -> Duration {
        self.config.progress_timeout
    }

    /// The limit for a request that the store works on in silence: joining parts takes AWS up to minutes.
    /// https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html
    pub(crate) fn work_limit(&self) -> Duration {
        self.config.progress_timeout * 10
    }

    pub(crate) fn body_limit(&self, body: &Body) -> Duration {
        upload_limit(self.config.progress_timeout, body.len())
    }

    async fn put_object(
        &self,
        key: &Key,
        body: Body,
        mode: PutMode,
        op: Operation,
    ) -> Result<PutReceipt, Fault> {
        check_body(&body)?;
        let limit = self.body_limit(&body);
        let request = with_attributes!(self.client.put_object(), self.attributes())
            .bucket(self.bucket())
            .key(self.full(key.as_str()))
            .content_type(CONTENT_TYPE)
            .set_checksum_crc32_c(self.sent_checksum(body.crc32c()))
            .set_if_none_match((mode == PutMode::Create).then(|| "*".to_owned()))
            .body(ByteStream::from(body.bytes().clone()));
        let answer = self.call(op, limit, request.send()).await?;
        // Every server names what it stored; who does not has stored nothing.
        let etag =
            answer.e_tag().ok_or_else(|| Fault::not_s3("an answer to a put without an ETag", &self.place))?;
        Ok(PutReceipt { etag: Some(plain_etag(etag)) })
    }
}

/// Refuses bytes that are not what the caller meant, before anything is sent: not every server compares the checksum
/// that it is sent (moto and Ceph before 20 store what does not match).
pub(crate) fn check_body(body: &Body) -> Result<(), Fault> {
    if body.len() > CAPABILITIES.put_bytes_max {
        let text = format!("{} bytes are more than {} of one put", body.len(), CAPABILITIES.put_bytes_max);
        return Err(Fault::new(ErrorKind::Invalid, text));
    }
    if !body.is_intact() {
        let text = format!("the bytes to be sent do not have the checksum {}", body.crc32c());
        return Err(Fault::new(ErrorKind::Integrity, text));
    }
    Ok(())
}

/// A tag without its quotes, which servers put around it in some answers and leave out in others.
pub(crate) fn plain_etag(etag: &str) -> String {
    etag.trim_matches('"').to_owned()
}

/// A time of an answer.
pub(crate) fn time(time: Option<&DateTime>, place: &Place) -> Result<SystemTime, Fault> {
    let known = time.and_then(|time| SystemTime::try_from(*time).ok());
    known.ok_or_else(|| Fault::not_s3("an answer without the time of an object", place))
}

/// A length of an answer.
pub(crate) fn length(length: Option<i64>, place: &Place) -> Result<u64, Fault> {
    let known = length.and_then(|length| u64::try_from(length).ok());
    known.ok_or_else(|| Fault::not_s3("an answer without the length of an object", place))
}

#[async_trait]
impl ObjectStore for S3Store {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn put(&self, key: &Key, body: Body, mode: PutMode) -> Result<PutReceipt> {
        let operation = match mode {
            PutMode::Overwrite => Operation::PutOverwrite,
            PutMode::Create => Operation::PutCreate,
        };
        let put = self.put_object(key, body, mode, operation).await;
        put.map_err(|fault| fault.into_error(operation, key.as_str()))
    }

    async fn get(&self, key: &Key, range: GetRange) -> Result<GetResponse> {
        read::get(self, key, range).await.map_err(|fault| fault.into_error(Operation::Get, key.as_str()))
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo> {
        read::head(self, key, Operation::Head)
            .await
            .map_err(|fault| fault.into_error(Operation::Head, key.as_str()))
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let listed = list::page(self, request).await;
        listed.map_err(|fault| fault.into_error(Operation::List, request.prefix.as_str()))
    }

    async fn delete(&self, keys: &[Key]) -> Result<Vec<DeleteOutcome>> {
        delete::delete(self, keys).await.map_err(|fault| {
            let first = keys.first().map_or("", Key::as_str);
            fault.into_error(Operation::Delete, first)
        })
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<PutReceipt> {
        copy::copy(self, from, to).await.map_err(|fault| fault.into_error(Operation::Copy, from.as_str()))
    }

    async fn multipart_create(&self, key: &Key) -> Result<UploadId> {
        let operation = Operation::MultipartCreate;
        uploads::create(self, key, operation).await.map_err(|fault| fault.into_error(operation, key.as_str()))
    }

    async fn multipart_put(&self, key: &Key, upload: &UploadId, number: u32, body: Body) -> Result<PartId> {
        let put = uploads::put(self, key, upload, number, body).await;
        put.map_err(|fault| fault.into_error(Operation::MultipartPut, key.as_str()))
    }

    async fn multipart_complete(
        &self,
        key: &Key,
        upload: &UploadId,
        parts: &[PartId],
        whole: Crc32c,
    ) -> Result<PutReceipt> {
        let completed = uploads::complete(self, key, upload, parts, whole).await;
        completed.map_err(|fault| fault.into_error(Operation::MultipartComplete, key.as_str()))
    }

    async fn multipart_abort(&self, key: &Key, upload: &UploadId) -> Result<()> {
        let aborted = uploads::abort(self, key, upload, Operation::MultipartAbort).await;
        aborted.map_err(|fault| fault.into_error(Operation::MultipartAbort, key.as_str()))
    }

    async fn multipart_list(&self, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>> {
        let listed = uploads::list(self, prefix).await;
        listed.map_err(|fault| fault.into_error(Operation::MultipartList, prefix.as_str()))
    }
}
