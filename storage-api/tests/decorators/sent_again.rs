//! Which failures are followed by another attempt: every kind in every operation.

use std::sync::Arc;

use storage_api::{
    Body, Crc32c, ErrorKind, GetRange, KeyPrefix, ListRequest, ObjectStore, Operation, PartId, PutMode,
    Result, RetryClass, UploadId,
};

use crate::script::{Scripted, Step, error, key};

const KINDS: [ErrorKind; 17] = [
    ErrorKind::NotFound,
    ErrorKind::StoreMissing,
    ErrorKind::AlreadyExists,
    ErrorKind::PreconditionFailed,
    ErrorKind::Range,
    ErrorKind::Unauthenticated,
    ErrorKind::PermissionDenied,
    ErrorKind::Throttled,
    ErrorKind::Connection,
    ErrorKind::Timeout,
    ErrorKind::Interrupted,
    ErrorKind::Integrity,
    ErrorKind::StorageFull,
    ErrorKind::Unsupported,
    ErrorKind::Invalid,
    ErrorKind::Cancelled,
    ErrorKind::Unexpected,
];

/// What has another attempt in every operation.
const SENT_AGAIN: [ErrorKind; 5] = [
    ErrorKind::Throttled,
    ErrorKind::Connection,
    ErrorKind::Timeout,
    ErrorKind::Interrupted,
    ErrorKind::Unexpected,
];

const OPERATIONS: [Operation; 12] = [
    Operation::PutOverwrite,
    Operation::PutCreate,
    Operation::Get,
    Operation::Head,
    Operation::List,
    Operation::Delete,
    Operation::Copy,
    Operation::MultipartCreate,
    Operation::MultipartPut,
    Operation::MultipartComplete,
    Operation::MultipartAbort,
    Operation::MultipartList,
];

/// An object, an upload with a part, and the store that has them.
struct Scene {
    script: Arc<Scripted>,
    upload: UploadId,
    part: PartId,
}

impl Scene {
    async fn set() -> Self {
        let script = Scripted::new();
        let there = key("there");
        script.inner.put(&there, Body::new("bytes"), PutMode::Create).await.unwrap();
        let upload = script.inner.multipart_create(&there).await.unwrap();
        let part = script.inner.multipart_put(&there, &upload, 1, part_body()).await.unwrap();
        Self { script, upload, part }
    }

    /// Calls `operation` so that it succeeds unless the script says otherwise.
    async fn call(&self, store: &dyn ObjectStore, operation: Operation) -> Result<()> {
        let (there, new) = (key("there"), key("new"));
        let Self { script: _, upload, part } = self;
        match operation {
            Operation::PutOverwrite => store.put(&there, part_body(), PutMode::Overwrite).await.map(drop),
            Operation::PutCreate => store.put(&new, part_body(), PutMode::Create).await.map(drop),
            Operation::Get => store.get(&there, GetRange::Full).await.map(drop),
            Operation::Head => store.head(&there).await.map(drop),
            Operation::List => store.list(&ListRequest::default()).await.map(drop),
            Operation::Delete => store.delete(&[there]).await.map(drop),
            Operation::Copy => store.copy(&there, &new).await.map(drop),
            Operation::MultipartCreate => store.multipart_create(&new).await.map(drop),
            Operation::MultipartPut => store.multipart_put(&there, upload, 2, part_body()).await.map(drop),
            Operation::MultipartComplete => {
                let parts = std::slice::from_ref(part);
                store.multipart_complete(&there, upload, parts, part.crc32c).await.map(drop)
            }
            Operation::MultipartAbort => store.multipart_abort(&there, upload).await,
            Operation::MultipartList => store.multipart_list(&KeyPrefix::root()).await.map(drop),
            other => Err(error(ErrorKind::Unsupported, other, "no request")),
        }
    }
}

fn part_body() -> Body {
    Body::new("a part")
}

#[tokio::test]
async fn what_may_succeed_is_sent_once_more_and_nothing_else_is() {
    for operation in OPERATIONS {
        for kind in KINDS {
            let scene = Scene::set().await;
            let retrying = scene.script.known().await;
            scene.script.script([Step::Fail(kind)]);
            let result = scene.call(&retrying, operation).await;
            let is_sent_again = SENT_AGAIN.contains(&kind)
                || kind == ErrorKind::Integrity && operation != Operation::MultipartComplete;
            let sent = scene.script.sent();
            assert_eq!(sent.len(), if is_sent_again { 2 } else { 1 }, "{operation:?} {kind:?}: {sent:?}");
            assert!(sent.iter().all(|(sent, ..)| *sent == operation), "{sent:?}");
            match result {
                Ok(()) => assert!(is_sent_again, "{operation:?} {kind:?}"),
                Err(error) => {
                    assert!(!is_sent_again, "{operation:?} {kind:?}");
                    assert_eq!((error.kind(), error.operation()), (kind, operation));
                    assert!(std::error::Error::source(&error).is_some(), "the cause is lost");
                }
            }
        }
    }
}

#[test]
fn only_creates_and_completions_may_have_taken_effect() {
    for operation in OPERATIONS {
        for kind in KINDS {
            let class = error(kind, operation, "k").retry_class();
            let ends = matches!(operation, Operation::PutCreate | Operation::MultipartComplete);
            let expected = match kind {
                ErrorKind::Integrity if operation == Operation::MultipartComplete => RetryClass::Never,
                ErrorKind::Throttled => RetryClass::Safe,
                kind if !SENT_AGAIN.contains(&kind) && kind != ErrorKind::Integrity => RetryClass::Never,
                _ if ends => RetryClass::Ambiguous,
                _ => RetryClass::Safe,
            };
            assert_eq!(class, expected, "{operation:?} {kind:?}");
        }
    }
}

#[tokio::test]
async fn corrupt_answers_are_asked_for_three_times() {
    for operation in [Operation::Head, Operation::PutOverwrite, Operation::PutCreate, Operation::MultipartPut]
    {
        let scene = Scene::set().await;
        let retrying = scene.script.known().await;
        scene.script.script(std::iter::repeat_n(Step::Fail(ErrorKind::Integrity), 9));
        let error = scene.call(&retrying, operation).await.unwrap_err();
        assert_eq!((error.kind(), scene.script.sent().len()), (ErrorKind::Integrity, 3), "{operation:?}");
    }
}

#[tokio::test]
async fn what_is_corrupt_before_it_is_sent_is_sent_once() {
    let scene = Scene::set().await;
    let retrying = scene.script.known().await;
    let corrupt = || Body::with_crc32c("bytes", Crc32c::of(b"others"));
    let mut results = Vec::new();
    for mode in [PutMode::Create, PutMode::Overwrite] {
        results.push(retrying.put(&key("new"), corrupt(), mode).await.map(drop));
    }
    results.push(retrying.multipart_put(&key("there"), &scene.upload, 2, corrupt()).await.map(drop));
    for result in results {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Integrity);
    }
    assert_eq!(scene.script.sent().len(), 3);
}
