//! The table of errors, answer by answer.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use layerpack_tests::{Fault, READ_ONLY, READ_WRITE, Rule, S3Server};
use storage_api::{ErrorKind, KeyPrefix, ObjectStore, ObjectStoreExt, Operation, RetryClass};

use crate::{OPERATIONS, Scene, attempt, cause, connect, key};

/// An error as S3 answers it, with headers.
fn refusal(status: u16, code: &str, message: &str, headers: &[(&'static str, &'static str)]) -> Fault {
    let body =
        format!("<Error><Code>{code}</Code><Message>{message}</Message><RequestId>x</RequestId></Error>");
    let mut fault = Fault::error(status, code);
    if let Fault::Answer { headers: all, body: bytes, .. } = &mut fault {
        all.push(("x-amz-request-id", "REQUEST-7"));
        all.extend(headers);
        *bytes = body.into();
    }
    fault
}

/// An answer without a body.
fn bare(status: u16) -> Fault {
    let mut fault = refusal(status, "", "", &[]);
    if let Fault::Answer { body, .. } = &mut fault {
        *body = Default::default();
    }
    fault
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_its_kind_and_a_word_of_advice() {
    use ErrorKind::*;
    use Operation::{
        Copy, Delete, Get, Head, List, MultipartComplete, MultipartPut, PutCreate, PutOverwrite,
    };
    let none = &[][..];
    let scene = Scene::set().await;
    for (operation, status, code, headers, kind, advice) in [
        (
            List,
            301,
            "PermanentRedirect",
            &[("x-amz-bucket-region", "eu-west-1")][..],
            Invalid,
            "add region=eu-west-1",
        ),
        (PutCreate, 301, "PermanentRedirect", none, Invalid, "correct endpoint and region"),
        (Get, 307, "TemporaryRedirect", none, Unexpected, "still being made"),
        (
            Get,
            400,
            "AuthorizationHeaderMalformed",
            &[("x-amz-bucket-region", "eu-west-1")],
            Invalid,
            "\"eu-west-1\"",
        ),
        (Get, 400, "AuthorizationHeaderMalformed", none, Unauthenticated, "check the region"),
        (Get, 400, "ExpiredToken", none, Unauthenticated, "new credentials"),
        (List, 400, "InvalidToken", none, Unauthenticated, "AWS_SESSION_TOKEN"),
        (PutCreate, 400, "BadDigest", none, Integrity, "not those that were sent"),
        (MultipartPut, 400, "XAmzContentChecksumMismatch", none, Integrity, "not those that were sent"),
        (PutOverwrite, 400, "XAmzContentSHA256Mismatch", none, Integrity, "not those that were sent"),
        (PutOverwrite, 400, "IncompleteBody", none, Interrupted, "broke off"),
        (PutOverwrite, 400, "RequestTimeout", none, Timeout, "too slowly"),
        (MultipartComplete, 400, "EntityTooSmall", none, Invalid, "smaller"),
        (MultipartComplete, 400, "InvalidPart", none, Invalid, "not uploaded"),
        (List, 400, "InvalidRequest", none, Invalid, "injected"),
        (PutCreate, 400, "KeyTooLongError", none, Invalid, "1,024"),
        (Get, 401, "Unauthorized", none, Unauthenticated, "AWS_ACCESS_KEY_ID"),
        (Get, 403, "InvalidAccessKeyId", none, Unauthenticated, "does not know the access key id"),
        (PutCreate, 403, "SignatureDoesNotMatch", none, Unauthenticated, "AWS_SECRET_ACCESS_KEY"),
        (List, 403, "RequestTimeTooSkewed", none, Unauthenticated, "set the clock"),
        (PutCreate, 403, "AccessDenied", none, PermissionDenied, "s3:PutObject"),
        (Get, 403, "InvalidObjectState", none, PermissionDenied, "archive"),
        (Get, 404, "NoSuchKey", none, NotFound, "no such object"),
        (
            Get,
            404,
            "NoSuchBucket",
            none,
            StoreMissing,
            "there is no bucket \"layerpack\" at http://127.0.0.1",
        ),
        (PutCreate, 404, "NoSuchBucket", none, StoreMissing, "create it"),
        (MultipartPut, 404, "NoSuchUpload", none, NotFound, "no such upload"),
        (Delete, 405, "MethodNotAllowed", none, Unsupported, "injected"),
        (PutCreate, 409, "ConditionalRequestConflict", none, Throttled, "under way"),
        (Delete, 409, "OperationAborted", none, Throttled, "under way"),
        (PutCreate, 412, "PreconditionFailed", none, AlreadyExists, "the object exists"),
        (Copy, 412, "PreconditionFailed", none, PreconditionFailed, "not what it was"),
        (Get, 416, "InvalidRange", none, Range, "outside"),
        (Get, 429, "TooManyRequests", none, Throttled, "fewer requests"),
        (Get, 500, "InternalError", none, Unexpected, "injected"),
        (PutCreate, 501, "NotImplemented", none, Unsupported, "use another store"),
        (Delete, 501, "NotImplemented", none, Unsupported, "injected"),
        (Get, 503, "SlowDown", none, Throttled, "fewer requests"),
        (Get, 503, "ServiceUnavailable", none, Unexpected, "injected"),
        (PutCreate, 507, "XMinioStorageFull", none, StorageFull, "full"),
        (List, 418, "Teapot", none, Unexpected, "injected"),
    ] {
        scene.proxy.inject(Rule::new(refusal(status, code, "injected", headers)));
        let error = attempt(&scene.store, operation).await.unwrap_err();
        assert_eq!((error.kind(), error.operation()), (kind, operation), "{status} {code}: {error:?}");
        let text = cause(&error);
        assert!(text.contains(advice), "{status} {code}: {text}");
        assert!(text.contains(&status.to_string()) && text.contains(code), "{status} {code}: {text}");
        assert!(text.contains("REQUEST-7"), "{status} {code}: {text}");
    }
    for (operation, status, kind) in [
        (Head, 301, Invalid),
        (Head, 400, Invalid),
        (Head, 401, Unauthenticated),
        (Head, 403, PermissionDenied),
        (Head, 404, NotFound),
        (Get, 404, NotFound),
        (List, 404, StoreMissing),
        (PutCreate, 404, StoreMissing),
        (MultipartPut, 404, NotFound),
        (Get, 408, Timeout),
        (PutCreate, 412, AlreadyExists),
        (Get, 416, Range),
        (Head, 429, Throttled),
        (Get, 502, Unexpected),
        (PutCreate, 503, Unexpected),
        (Get, 507, StorageFull),
    ] {
        scene.proxy.inject(Rule::new(bare(status)));
        let error = attempt(&scene.store, operation).await.unwrap_err();
        assert_eq!(error.kind(), kind, "a bare {status} of {operation:?}: {error:?}");
        assert!(cause(&error).contains(&status.to_string()), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_condition_of_a_create_is_what_a_store_may_not_know() {
    let scene = Scene::set().await;
    let message = "A header you provided implies functionality that is not implemented: If-None-Match";
    for (status, code) in [(400, "InvalidArgument"), (400, "InvalidRequest"), (501, "NotImplemented")] {
        scene.proxy.inject(Rule::new(refusal(status, code, message, &[])));
        let error = attempt(&scene.store, Operation::PutCreate).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
        assert!(cause(&error).contains("If-None-Match"), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_is_asked_for_is_told() {
    let scene = Scene::set().await;
    let date = ("date", "Fri, 27 Nov 2026 06:00:00 GMT");
    for (headers, wait) in [
        (&[("retry-after", "7")][..], Some(Duration::from_secs(7))),
        (&[("retry-after", "Fri, 27 Nov 2026 06:00:30 GMT"), date][..], Some(Duration::from_secs(30))),
        (&[("retry-after", "Fri, 27 Nov 2026 05:00:30 GMT"), date][..], None),
        (&[("retry-after", "soon")][..], None),
        (&[][..], None),
    ] {
        scene.proxy.inject(Rule::new(refusal(503, "SlowDown", "slow", headers)));
        let error = attempt(&scene.store, Operation::Get).await.unwrap_err();
        assert_eq!(error.retry_after(), wait, "{headers:?}");
        assert_eq!(error.retry_class(), RetryClass::Safe);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_behind_a_200_is_an_error() {
    let scene = Scene::set().await;
    for operation in [Operation::MultipartComplete, Operation::Copy] {
        scene.proxy.inject(Rule::new(refusal(200, "InternalError", "it went wrong", &[])));
        let error = attempt(&scene.store, operation).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unexpected, "{error:?}");
        assert!(cause(&error).contains("it went wrong"), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_is_never_an_answer() {
    let scene = Scene::set().await;
    for status in [200, 302, 403, 404, 502, 503] {
        for operation in OPERATIONS {
            scene.proxy.inject(Rule::new(Fault::html(status)));
            let error = attempt(&scene.store, operation).await.unwrap_err();
            let text = cause(&error);
            assert!(
                text.contains("web page") && text.contains("check the endpoint"),
                "{operation:?}: {text}"
            );
            assert!(
                ![ErrorKind::NotFound, ErrorKind::StoreMissing, ErrorKind::AlreadyExists]
                    .contains(&error.kind()),
                "{status} {operation:?}: {error:?}"
            );
        }
    }
    let stored = scene.server.store().list_all(&KeyPrefix::root()).await.unwrap();
    assert!(stored.is_empty(), "{stored:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_never_an_answer() {
    let scene = Scene::set().await;
    for body in
        ["", "{}", "<?xml version=\"1.0\"?><unfinished", "<a/>", "<html><body>It works!</body></html>"]
    {
        for operation in OPERATIONS {
            // It says nothing but that it is done.
            if operation == Operation::MultipartAbort {
                continue;
            }
            let mut fault = bare(200);
            if let Fault::Answer { body: bytes, .. } = &mut fault {
                *bytes = body.to_owned().into();
            }
            scene.proxy.inject(Rule::new(fault));
            let Err(error) = attempt(&scene.store, operation).await else {
                panic!("{body:?} is taken for an answer to {operation:?}");
            };
            assert_eq!(error.kind(), ErrorKind::Unexpected, "{body:?} for {operation:?}: {error:?}");
            cause(&error);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_is_told_why() {
    let server = S3Server::start();
    let wrong = [
        (
            layerpack_tests::KeyPair { secret: "hunter2", ..READ_WRITE },
            server.url("p"),
            ErrorKind::Unauthenticated,
        ),
        (
            layerpack_tests::KeyPair { id: "AKHUNTER2", ..READ_WRITE },
            server.url("p"),
            ErrorKind::Unauthenticated,
        ),
        (READ_ONLY, server.url("p"), ErrorKind::PermissionDenied),
        (READ_WRITE, server.url("p").replace("s3://layerpack", "s3://missing"), ErrorKind::StoreMissing),
        (READ_WRITE, server.url("p").replace("us-east-1", "eu-west-1"), ErrorKind::Invalid),
    ];
    for (pair, url, kind) in wrong {
        let error = attempt(&connect(&url, pair).await, Operation::PutCreate).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        assert_eq!(error.retry_class(), RetryClass::Never);
        assert!(!format!("{error:?} {}", cause(&error)).to_lowercase().contains("hunter2"), "{error:?}");
    }
}

/// Answers every request with `status` and a body of 200 MiB, and counts how much of it was taken.
fn endless(status: u16, sent: Arc<AtomicUsize>) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(1) {
            let mut stream = stream.unwrap();
            let mut request = [0; 16 << 10];
            let _ = stream.read(&mut request).unwrap();
            let head = "content-type: application/xml\r\ntransfer-encoding: chunked";
            let chunk = [b"100000\r\n".as_slice(), &[b' '; 1 << 20], b"\r\n"].concat();
            let _ = stream.write_all(format!("HTTP/1.1 {status} X\r\n{head}\r\n\r\n").as_bytes());
            for _ in 0..ENDLESS_CHUNKS {
                if stream.write_all(&chunk).is_err() {
                    return;
                }
                sent.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    format!("s3://b/p?endpoint=http://127.0.0.1:{port}&region=us-east-1")
}

const ENDLESS_CHUNKS: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn an_object_may_be_longer_than_an_answer_whatever_it_is_called() {
    let scene = Scene::set().await;
    let bytes = vec![7; 20 << 20];
    for name in ["uploads", "list-type=2", "uploads/list-type"] {
        let body = storage_api::Body::new(bytes.clone());
        scene.store.put(&key(name), body, storage_api::PutMode::Create).await.unwrap();
        let (_, there) =
            scene.store.get_bytes(&key(name), storage_api::GetRange::Full, u64::MAX).await.unwrap();
        assert!(there == bytes, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_end_is_not_read_to_its_end() {
    for (status, operation) in [
        (200, Operation::List),
        (500, Operation::List),
        (500, Operation::Get),
        (200, Operation::MultipartCreate),
    ] {
        let sent = Arc::new(AtomicUsize::new(0));
        let store = connect(&endless(status, Arc::clone(&sent)), READ_WRITE).await;
        let error = attempt(&store, operation).await.unwrap_err();
        cause(&error);
        let sent = sent.load(Ordering::SeqCst);
        assert!(sent < ENDLESS_CHUNKS / 2, "{status} {operation:?}: {sent} MiB were read");
    }
}
