//! The S3 operations over an object store.

use std::sync::Arc;

use futures::TryStreamExt;
use http_body_util::StreamBody;
use hyper::body::Frame;
use s3s::dto::*;
use s3s::{Body as WireBody, S3, S3Request, S3Response, S3Result, s3_error};
use storage_api::{GetRange, GetResponse, ObjectInfo, ObjectStore, PutMode};

use super::answers::{body, checksum_text, etag, key, length, no_condition, refusal, time};
use super::lists;
use super::uploads::Uploads;
use super::{BUCKET, Quirk};

/// What answers a request that [`BucketAccess`](super::access::BucketAccess) has let through.
#[derive(Debug)]
pub(super) struct Backend {
    store: Arc<dyn ObjectStore>,
    uploads: Uploads,
    quirks: Vec<Quirk>,
}

impl Backend {
    pub(super) fn new(store: Arc<dyn ObjectStore>, quirks: &[Quirk]) -> Self {
        Self { uploads: Uploads::new(Arc::clone(&store)), store, quirks: quirks.to_vec() }
    }

    fn has(&self, quirk: Quirk) -> bool {
        self.quirks.contains(&quirk)
    }

    /// The checksum that an answer about a whole object has, if the client asked for it.
    fn checksum_of(&self, info: &ObjectInfo, mode: Option<&ChecksumMode>) -> Option<String> {
        let asked = mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED);
        let kept = asked && !self.has(Quirk::KeepsNoChecksums);
        info.crc32c.filter(|_| kept).map(checksum_text)
    }

    fn put_mode(&self, if_none_match: Option<&ETagCondition>) -> S3Result<PutMode> {
        match if_none_match {
            Some(condition) if condition.is_any() && !self.has(Quirk::IgnoresIfNoneMatch) => {
                Ok(PutMode::Create)
            }
            Some(condition) if condition.is_any() => Ok(PutMode::Overwrite),
            condition => no_condition(condition).map(|()| PutMode::Overwrite),
        }
    }

    /// The key that a copy reads; it is in this bucket, the only one.
    fn copied(source: &CopySource) -> S3Result<storage_api::Key> {
        match source {
            CopySource::Bucket { bucket, key: source, version_id: None } if &**bucket == BUCKET => {
                key(source)
            }
            CopySource::Bucket { version_id: None, .. } => Err(s3_error!(NoSuchBucket)),
            _ => Err(s3_error!(NotImplemented, "this server has no versions and no access points")),
        }
    }
}

/// The bytes that a `Range` header asks for.
fn bytes_asked(range: Option<&Range>) -> GetRange {
    match range {
        None => GetRange::Full,
        Some(Range::Int { first, last }) => {
            GetRange::Bounded(*first..last.map_or(u64::MAX, |last| last.saturating_add(1)))
        }
        Some(Range::Suffix { length }) => GetRange::Suffix(*length),
    }
}

fn full_object() -> Option<ChecksumType> {
    Some(ChecksumType::from_static(ChecksumType::FULL_OBJECT))
}

#[async_trait::async_trait]
impl S3 for Backend {
    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = req.input;
        no_condition(input.if_match.as_ref())?;
        let mode = self.put_mode(input.if_none_match.as_ref())?;
        let body = body(input.body, input.checksum_crc32c.as_deref()).await?;
        let receipt = self.store.put(&key(&input.key)?, body, mode).await.map_err(|error| refusal(&error))?;
        let e_tag = etag(receipt.etag);
        let checksum_crc32c = input.checksum_crc32c.filter(|_| !self.has(Quirk::KeepsNoChecksums));
        Ok(S3Response::new(PutObjectOutput { e_tag, checksum_crc32c, ..Default::default() }))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = req.input;
        let range = if self.has(Quirk::IgnoresRanges) { None } else { input.range.as_ref() };
        let read = self.store.get(&key(&input.key)?, bytes_asked(range)).await;
        let GetResponse { info, range: sent, stream } = read.map_err(|error| refusal(&error))?;
        // Of a part of an object S3 knows no checksum.
        let mode = input.checksum_mode.filter(|_| range.is_none());
        let checksum_crc32c = self.checksum_of(&info, mode.as_ref());
        let content_range =
            range.map(|_| format!("bytes {}-{}/{}", sent.start, sent.end.saturating_sub(1), info.size));
        let frames = StreamBody::new(stream.map_ok(Frame::data));
        Ok(S3Response::new(GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            body: Some(StreamingBlob::from(WireBody::http_body_unsync(frames))),
            checksum_type: checksum_crc32c.as_ref().and_then(|_| full_object()),
            checksum_crc32c,
            content_length: length(sent.end - sent.start),
            content_range,
            e_tag: etag(info.etag),
            last_modified: time(info.last_modified),
            ..Default::default()
        }))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = req.input;
        let info = self.store.head(&key(&input.key)?).await.map_err(|error| refusal(&error))?;
        let checksum_crc32c = self.checksum_of(&info, input.checksum_mode.as_ref());
        Ok(S3Response::new(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            checksum_type: checksum_crc32c.as_ref().and_then(|_| full_object()),
            checksum_crc32c,
            content_length: length(info.size),
            e_tag: etag(info.etag),
            last_modified: time(info.last_modified),
            ..Default::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let order =
            if self.has(Quirk::ListsByDirectory) { lists::Order::Directories } else { lists::Order::Bytes };
        lists::page(&*self.store, req.input, order).await.map(S3Response::new)
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.store.delete(&[key(&req.input.key)?]).await.map_err(|error| refusal(&error))?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        // https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html: one of them is required.
        let is_checksum =
            |name: &http::HeaderName| *name == "content-md5" || name.as_str().starts_with("x-amz-checksum-");
        if !req.headers.keys().any(is_checksum) {
            return Err(s3_error!(
                InvalidRequest,
                "Missing required header for this request: Content-MD5 OR x-amz-checksum-*"
            ));
        }
        lists::delete(&*self.store, req.input.delete).await.map(S3Response::new)
    }

    async fn copy_object(&self, req: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        let to = key(&req.input.key)?;
        let from = Self::copied(&req.input.copy_source)?;
        self.store.copy(&from, &to).await.map_err(|error| refusal(&error))?;
        let info = self.store.head(&to).await.map_err(|error| refusal(&error))?;
        let result = CopyObjectResult {
            e_tag: etag(info.etag),
            last_modified: time(info.last_modified),
            ..Default::default()
        };
        Ok(S3Response::new(CopyObjectOutput { copy_object_result: Some(result), ..Default::default() }))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.uploads.create(req.input).await.map(S3Response::new)
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let input = req.input;
        let body = body(input.body, input.checksum_crc32c.as_deref()).await?;
        let part = self.uploads.put(&key(&input.key)?, &input.upload_id, input.part_number, body).await?;
        let (e_tag, checksum_crc32c) = (etag(Some(part.etag)), input.checksum_crc32c);
        Ok(S3Response::new(UploadPartOutput { e_tag, checksum_crc32c, ..Default::default() }))
    }

    async fn upload_part_copy(
        &self,
        req: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        let input = req.input;
        let range = input.copy_source_range.as_deref().map(Range::parse).transpose();
        let range = range.map_err(|error| s3_error!(InvalidArgument, "{error}"))?;
        let source = Self::copied(&input.copy_source)?;
        let read = self.store.get(&source, bytes_asked(range.as_ref())).await;
        let read = read.map_err(|error| refusal(&error))?;
        let frames = StreamBody::new(read.stream.map_ok(Frame::data));
        let bytes = body(Some(StreamingBlob::from(WireBody::http_body_unsync(frames))), None).await?;
        let part = self.uploads.put(&key(&input.key)?, &input.upload_id, input.part_number, bytes).await?;
        let result = CopyPartResult {
            e_tag: etag(Some(part.etag)),
            checksum_crc32c: Some(checksum_text(part.crc32c)),
            last_modified: time(read.info.last_modified),
            ..Default::default()
        };
        Ok(S3Response::new(UploadPartCopyOutput { copy_part_result: Some(result), ..Default::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        self.uploads.complete(req.input).await.map(S3Response::new)
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.uploads.abort(&key(&req.input.key)?, &req.input.upload_id).await?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        lists::pending(&*self.store, req.input).await.map(S3Response::new)
    }
}
