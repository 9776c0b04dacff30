//! Who may do what: two key pairs, one bucket, one region.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};

use super::{BUCKET, READ_ONLY, READ_WRITE, REGION};

/// The secrets by their keys' ids.
pub(super) struct KeyPairs;

#[async_trait::async_trait]
impl S3Auth for KeyPairs {
    async fn get_secret_key(&self, id: &str) -> S3Result<SecretKey> {
        let pair = [READ_WRITE, READ_ONLY].into_iter().find(|pair| pair.id == id);
        let pair = pair.ok_or_else(|| {
            s3_error!(InvalidAccessKeyId, "The AWS Access Key Id you provided does not exist in our records.")
        })?;
        Ok(SecretKey::from(pair.secret))
    }
}

/// Refuses what S3 refuses before it looks at an object.
pub(super) struct BucketAccess;

#[async_trait::async_trait]
impl S3Access for BucketAccess {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let Some(credentials) = context.credentials() else {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        };
        check_region(context.headers())?;
        let bucket = context.s3_path().get_bucket_name();
        if bucket.is_some_and(|bucket| bucket != BUCKET) {
            return Err(s3_error!(NoSuchBucket, "The specified bucket does not exist"));
        }
        let reads = ["Get", "Head", "List"];
        let is_read = reads.iter().any(|verb| context.s3_op().name().starts_with(verb));
        if credentials.access_key == READ_ONLY.id && !is_read {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        }
        Ok(())
    }
}

/// Refuses signatures made for another region.
fn check_region(headers: &HeaderMap) -> S3Result<()> {
    let authorization = headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    // Credential=<id>/<date>/<region>/s3/aws4_request, ...
    let region = authorization.and_then(|value| value.split('/').nth(2));
    match region {
        Some(region) if region != REGION => {
            let mut error = s3_error!(
                AuthorizationHeaderMalformed,
                "The authorization header is malformed; the region '{region}' is wrong; expecting '{REGION}'"
            );
            error.set_status_code(StatusCode::BAD_REQUEST);
            let name = HeaderName::from_static("x-amz-bucket-region");
            error.set_headers(HeaderMap::from_iter([(name, HeaderValue::from_static(REGION))]));
            Err(error)
        }
        _ => Ok(()),
    }
}
