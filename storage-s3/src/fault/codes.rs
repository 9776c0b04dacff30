//! The table: S3's codes, and the statuses of answers without one that is known.
//!
//! Codes: <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>. Other servers use the same ones with a
//! few of their own (MinIO: <https://github.com/minio/minio/blob/master/cmd/api-errors.go>, Ceph:
//! <https://github.com/ceph/ceph/blob/main/src/rgw/rgw_common.cc>).

use storage_api::{ErrorKind, Operation};

use ErrorKind::{
    Integrity, Interrupted, Invalid, NotFound, PermissionDenied, Range, StorageFull, StoreMissing, Throttled,
    Timeout, Unauthenticated, Unexpected, Unsupported,
};

/// What to do where a store does not say what is wrong with the credentials.
pub(super) const UNAUTHENTICATED: &str = "the store does not accept the credentials: check AWS_ACCESS_KEY_ID and \
                                          AWS_SECRET_ACCESS_KEY, or the profile";

const KEY_ID: &str =
    "the store does not know the access key id: check AWS_ACCESS_KEY_ID or the profile's aws_access_key_id";
const SECRET: &str = "the secret does not belong to the access key id: check AWS_SECRET_ACCESS_KEY or the profile's \
                      aws_secret_access_key";
const SESSION: &str = "the session's token is not valid or has expired: get new credentials, and set or unset \
                       AWS_SESSION_TOKEN with them";
const CLOCK: &str = "this machine's clock and the store's are too far apart: set the clock";
const SIGNATURE: &str =
    "the store does not accept the signature: check the region in the URL and the access key id";
const ACCESS: &str = "the credentials do not allow this: they need s3:GetObject, s3:PutObject, s3:DeleteObject, \
                      s3:ListBucket and the multipart actions";
const DIGEST: &str = "the bytes that came to the store are not those that were sent";
const SLOWER: &str = "the store asks for fewer requests";
const RACE: &str = "another request for the same key is under way";
const ENDPOINT: &str = "the bucket is at another endpoint: correct endpoint and region in the URL";

/// The kind and the remedy of a code; an empty remedy leaves the word to the store's message.
#[rustfmt::skip]
const CODES: &[(&str, ErrorKind, &str)] = &[
    ("NoSuchKey", NotFound, "there is no such object"),
    ("NoSuchUpload", NotFound, "there is no such upload: it was completed or aborted"),
    ("NoSuchBucket", StoreMissing, ""),

    ("InvalidAccessKeyId", Unauthenticated, KEY_ID),
    ("SignatureDoesNotMatch", Unauthenticated, SECRET),
    ("ExpiredToken", Unauthenticated, SESSION),
    ("InvalidToken", Unauthenticated, SESSION),
    ("TokenRefreshRequired", Unauthenticated, SESSION),
    ("RequestTimeTooSkewed", Unauthenticated, CLOCK),
    ("RequestExpired", Unauthenticated, CLOCK),
    ("InvalidSecurity", Unauthenticated, UNAUTHENTICATED),
    ("MissingSecurityHeader", Unauthenticated, UNAUTHENTICATED),
    ("Unauthorized", Unauthenticated, UNAUTHENTICATED),
    ("AuthorizationHeaderMalformed", Unauthenticated, SIGNATURE),

    ("AccessDenied", PermissionDenied, ACCESS),
    ("AllAccessDisabled", PermissionDenied, ""),
    ("AccountProblem", PermissionDenied, ""),
    ("NotSignedUp", PermissionDenied, ""),
    ("InvalidObjectState", PermissionDenied, "the object is in an archive: have the store restore it first"),
    ("KMS.DisabledException", PermissionDenied, "the encryption key is disabled: enable it"),
    ("KMS.NotFoundException", Invalid, "there is no such encryption key: correct sse_kms_key_id"),

    ("PermanentRedirect", Invalid, ENDPOINT),
    ("IncorrectEndpoint", Invalid, ENDPOINT),
    ("IllegalLocationConstraintException", Invalid, ENDPOINT),
    ("TemporaryRedirect", Unexpected, "the bucket is still being made"),
    ("Redirect", Unexpected, "the bucket is still being made"),

    ("BadDigest", Integrity, DIGEST),
    ("InvalidDigest", Integrity, DIGEST),
    ("XAmzContentChecksumMismatch", Integrity, DIGEST),
    ("XAmzContentSHA256Mismatch", Integrity, DIGEST),
    ("IncompleteBody", Interrupted, "the request broke off"),
    ("RequestTimeout", Timeout, "the request came too slowly for the store"),

    ("InvalidRange", Range, "the range lies outside the object"),
    ("EntityTooLarge", Invalid, ""),
    ("EntityTooSmall", Invalid, "a part is smaller than the store takes"),
    ("InvalidPart", Invalid, "a part was not uploaded as it is named"),
    ("InvalidPartOrder", Invalid, "the parts are not in ascending order"),
    ("KeyTooLongError", Invalid, "the key is longer than 1,024 bytes with the prefix of the URL"),
    ("InvalidBucketName", Invalid, "the bucket in the URL has no valid name"),
    ("InvalidStorageClass", Invalid, "the store does not know the storage_class of the URL"),
    ("InvalidTag", Invalid, "the store does not accept the tags of the URL"),
    ("MethodNotAllowed", Unsupported, ""),
    ("NotImplemented", Unsupported, ""),

    ("SlowDown", Throttled, SLOWER),
    ("SlowDownRead", Throttled, SLOWER),
    ("SlowDownWrite", Throttled, SLOWER),
    ("TooManyRequests", Throttled, SLOWER),
    ("RequestLimitExceeded", Throttled, SLOWER),
    ("Throttling", Throttled, SLOWER),
    ("ThrottlingException", Throttled, SLOWER),
    ("BandwidthLimitExceeded", Throttled, SLOWER),
    // The request lost a race before it did anything, and is to be sent again:
    // https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
    ("ConditionalRequestConflict", Throttled, RACE),
    ("OperationAborted", Throttled, RACE),

    ("QuotaExceeded", StorageFull, "the bucket's quota is used up"),
    ("XMinioAdminBucketQuotaExceeded", StorageFull, "the bucket's quota is used up"),
    ("XMinioStorageFull", StorageFull, "the store is full"),
    ("InternalError", Unexpected, ""),
    ("ServiceUnavailable", Unexpected, ""),
];

/// The kind and the remedy of a code that is known.
pub(super) fn of_code(code: &str, operation: Operation) -> Option<(ErrorKind, &'static str)> {
    if code == "PreconditionFailed" {
        let kind = of_status(412, operation);
        return Some((kind, remedy(kind)));
    }
    CODES.iter().find(|(known, ..)| *known == code).map(|(_, kind, remedy)| (*kind, *remedy))
}

/// The kind of an answer without a code that is known: of a HEAD, which has no body, or of what stands before a store.
pub(super) fn of_status(status: u16, operation: Operation) -> ErrorKind {
    match status {
        401 => Unauthenticated,
        403 => PermissionDenied,
        404 => match operation {
            // What these need is the bucket alone.
            Operation::List
            | Operation::MultipartList
            | Operation::MultipartCreate
            | Operation::PutCreate
            | Operation::PutOverwrite
            | Operation::Delete
            | Operation::Open => StoreMissing,
            _ => NotFound,
        },
        405 | 501 => Unsupported,
        408 => Timeout,
        412 if operation == Operation::PutCreate => ErrorKind::AlreadyExists,
        412 => ErrorKind::PreconditionFailed,
        416 => Range,
        429 => Throttled,
        507 => StorageFull,
        300..=399 | 400 | 411 | 413 | 414 | 431 => Invalid,
        // 503 without S3's word for it is a proxy's, and says nothing of what the store did.
        _ => Unexpected,
    }
}

/// What to do about a kind that the store gives no better word for.
pub(super) fn remedy(kind: ErrorKind) -> &'static str {
    match kind {
        NotFound => "there is no such object",
        ErrorKind::AlreadyExists => "the object exists",
        ErrorKind::PreconditionFailed => "the object is not what it was",
        PermissionDenied => "check what the credentials may do, and the bucket's policy",
        Unauthenticated => UNAUTHENTICATED,
        Range => "the range lies outside the object",
        Throttled => SLOWER,
        StorageFull => "the store is full",
        Unsupported => "the store cannot do this",
        Invalid => "check the options of the URL",
        _ => "look into the store's log",
    }
}
