//! What goes over the wire.

use layerpack_tests::{Fault, Quirk, RequestKind, Rule, S3Server};
use storage_api::{Body, Crc32c, ErrorKind, GetRange, Key, KeyPrefix, ListRequest, ObjectStore};
use storage_api::{ObjectStoreExt, PutMode};

use crate::{OPERATIONS, Scene, attempt, cause, key};

#[tokio::test(flavor = "multi_thread")]
async fn one_call_is_one_request_and_nothing_is_asked_before() {
    let scene = Scene::set().await;
    for (number, operation) in OPERATIONS.into_iter().enumerate() {
        // Whether it succeeds does not matter.
        let _ = attempt(&scene.store, operation).await;
        let log = scene.proxy.log();
        assert_eq!(log.len(), number + 1, "{operation:?}: {log:?}");
        assert_ne!(log[number].kind, RequestKind::Other, "{operation:?}");
    }
    for request in scene.proxy.log() {
        let agent = request.header("user-agent").unwrap_or_default();
        assert!(agent.contains("app/layerpack-"), "{agent}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_an_object_says_what_it_is_to_be() {
    let options = [
        ("storage_class", "STANDARD_IA"),
        ("sse", "aws:kms"),
        ("sse_kms_key_id", "k-1"),
        ("tags", "a:b%20c,d:e"),
    ];
    let scene = Scene::on(S3Server::start(), &options).await;
    scene.store.put(&key("from"), Body::new("bytes"), PutMode::Create).await.unwrap();
    scene.store.copy(&key("from"), &key("to")).await.unwrap();
    scene.store.multipart_create(&key("parts")).await.unwrap();
    let log = scene.proxy.log();
    assert_eq!(
        log.iter().map(|request| request.kind).collect::<Vec<_>>(),
        [RequestKind::Put, RequestKind::Copy, RequestKind::Multipart]
    );
    for request in &log {
        assert_eq!(request.header("x-amz-storage-class"), Some("STANDARD_IA"), "{request:?}");
        assert_eq!(request.header("x-amz-server-side-encryption"), Some("aws:kms"));
        assert_eq!(request.header("x-amz-server-side-encryption-aws-kms-key-id"), Some("k-1"));
        assert_eq!(request.header("x-amz-tagging"), Some("a=b+c&d=e"));
    }
    assert_eq!(log[0].header("if-none-match"), Some("*"));
    assert_eq!(log[1].header("x-amz-tagging-directive"), Some("REPLACE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_option_checksums_says_which_are_sent() {
    for (option, put, create_type, complete) in [
        ("whole", true, Some("FULL_OBJECT"), true),
        ("parts", true, None, false),
        ("none", false, None, false),
    ] {
        let scene = Scene::on(S3Server::start(), &[("checksums", option)]).await;
        let body = Body::new("bytes");
        scene.store.put(&key("k"), body.clone(), PutMode::Create).await.unwrap();
        scene.store.get_bytes(&key("k"), GetRange::Full, 100).await.unwrap();
        let upload = scene.store.multipart_create(&key("m")).await.unwrap();
        let part = scene.store.multipart_put(&key("m"), &upload, 1, body.clone()).await.unwrap();
        scene.store.multipart_complete(&key("m"), &upload, &[part], body.crc32c()).await.unwrap();
        let log = scene.proxy.log();
        let has = |index: usize, name: &str| log[index].header(name).is_some();
        assert_eq!(has(0, "x-amz-checksum-crc32c"), put, "{option}");
        assert_eq!(has(1, "x-amz-checksum-mode"), put, "{option}");
        assert_eq!(log[2].header("x-amz-checksum-type"), create_type, "{option}");
        assert_eq!(has(3, "x-amz-checksum-crc32c"), put, "{option}");
        assert_eq!(has(4, "x-amz-checksum-crc32c"), complete, "{option}");
        // Nothing of the SDK's own: neither trailers nor another sum.
        for request in &log {
            let other = ["x-amz-trailer", "x-amz-checksum-crc32", "x-amz-checksum-crc64nvme"];
            assert!(other.iter().all(|name| request.header(name).is_none()), "{option}: {request:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_before_the_sending_is_found_without_the_store() {
    let scene = Scene::on(S3Server::start(), &[("checksums", "none")]).await;
    let damaged = Body::with_crc32c("bytes", Crc32c::of(b"other"));
    let put = scene.store.put(&key("k"), damaged.clone(), PutMode::Create).await.unwrap_err();
    let part = scene.store.multipart_put(&key("k"), &storage_api::UploadId("u".into()), 1, damaged).await;
    assert_eq!((put.kind(), part.unwrap_err().kind()), (ErrorKind::Integrity, ErrorKind::Integrity));
    assert!(scene.proxy.log().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_ranges_gives_the_right_bytes() {
    let scene = Scene::on(S3Server::with_quirk(Quirk::IgnoresRanges), &[]).await;
    let bytes: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    scene.store.put(&key("k"), Body::new(bytes.clone()), PutMode::Create).await.unwrap();
    scene.store.put(&key("empty"), Body::new(""), PutMode::Create).await.unwrap();
    for (range, expected) in [
        (GetRange::Bounded(1..2), &bytes[1..2]),
        (GetRange::Bounded(1_234_567..2_345_678), &bytes[1_234_567..2_345_678]),
        (GetRange::Bounded(3_999_990..9_000_000), &bytes[3_999_990..]),
        (GetRange::Suffix(7), &bytes[3_999_993..]),
        (GetRange::Suffix(5_000_000), &bytes[..]),
        (GetRange::Full, &bytes[..]),
    ] {
        let response = scene.store.get(&key("k"), range.clone()).await.unwrap();
        assert_eq!((response.info.size, Some(response.range)), (4_000_000, range.resolve(4_000_000)));
        let (_, read) = scene.store.get_bytes(&key("k"), range.clone(), u64::MAX).await.unwrap();
        assert!(read == expected, "{range:?}");
    }
    for (name, range) in [("k", GetRange::Bounded(4_000_000..4_000_001)), ("empty", GetRange::Suffix(1))] {
        let error = scene.store.get(&key(name), range).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Range, "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_with_another_range_is_refused() {
    let scene = Scene::set().await;
    scene.store.put(&key("k"), Body::new("0123456789"), PutMode::Create).await.unwrap();
    let answer = |status: u16, range: Option<&'static str>| {
        let mut headers = vec![("etag", "\"e\""), ("last-modified", "Fri, 27 Nov 2026 06:00:00 GMT")];
        headers.extend(range.map(|range| ("content-range", range)));
        Fault::Answer { status: status.try_into().unwrap(), headers, body: "3456".into() }
    };
    for (status, range) in [
        (206, Some("bytes 4-7/10")),
        (206, Some("bytes 3-7/10")),
        (206, Some("bytes 3-6/*")),
        (206, Some("bytes 3-6/5")),
        (206, Some("lines 3-6/10")),
        (206, None),
        (200, Some("bytes 3-6/10")),
    ] {
        scene.proxy.inject(Rule::new(answer(status, range)));
        let error = scene.store.get(&key("k"), GetRange::Bounded(3..7)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unexpected, "{status} {range:?}: {error:?}");
        cause(&error);
    }
    scene.proxy.inject(Rule::new(answer(206, Some("bytes 3-6/10"))));
    let (_, bytes) = scene.store.get_bytes(&key("k"), GetRange::Bounded(3..7), 10).await.unwrap();
    assert_eq!(bytes, "3456");
}

/// A page of a list as S3 answers it.
fn page(keys: &[&str], token: Option<&str>) -> Fault {
    let object = |key: &&str| {
        format!(
            "<Contents><Key>{key}</Key><Size>1</Size><LastModified>2026-11-27T06:00:00Z</LastModified></Contents>"
        )
    };
    let more = token.map(|token| format!("<NextContinuationToken>{token}</NextContinuationToken>"));
    let body = format!(
        "<ListBucketResult><Name>b</Name><EncodingType>url</EncodingType><IsTruncated>{}</IsTruncated>{}{}</ListBucketResult>",
        token.is_some(),
        more.unwrap_or_default(),
        keys.iter().map(object).collect::<String>()
    );
    let mut fault = Fault::error(200, "");
    if let Fault::Answer { body: bytes, .. } = &mut fault {
        *bytes = body.into();
    }
    fault
}

/// The prefix of a scene's store in its bucket.
fn prefix(scene: &Scene) -> String {
    let path = &scene.proxy.log()[0].path;
    path.trim_start_matches("/layerpack/").strip_suffix("k").unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_none_are_left_out_of_lists() {
    let scene = Scene::set().await;
    scene.store.put(&key("k"), Body::new("1"), PutMode::Create).await.unwrap();
    let p = prefix(&scene);
    let names =
        [format!("{p}a"), format!("{p}b%00c"), format!("{p}d/"), format!("{p}e//f"), format!("{p}g+h%2Bi")];
    scene.proxy.inject(Rule::new(page(&names.each_ref().map(String::as_str), None)));
    let listed = scene.store.list_all(&KeyPrefix::root()).await.unwrap();
    let listed: Vec<_> = listed.iter().map(|object| object.key.as_str()).collect();
    assert_eq!(listed, ["a", "g h+i"]);
    // A page of nothing but those is not taken for the end.
    scene.proxy.inject(Rule::new(page(&[&format!("{p}d/")], Some("token"))));
    let listed = scene.store.list(&ListRequest::default()).await.unwrap();
    assert_eq!((listed.objects[0].key.as_str(), listed.next), ("k", None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_does_not_go_on_is_an_error() {
    let scene = Scene::set().await;
    scene.store.put(&key("k"), Body::new("1"), PutMode::Create).await.unwrap();
    let mut endless = page(&[], Some("the same"));
    scene.proxy.inject(Rule::new(endless.clone()).times(2));
    let error = scene.store.list(&ListRequest::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unexpected, "{error:?}");
    if let Fault::Answer { body, .. } = &mut endless {
        *body = "<ListBucketResult><Name>b</Name><IsTruncated>true</IsTruncated></ListBucketResult>".into();
    }
    scene.proxy.heal();
    scene.proxy.inject(Rule::new(endless));
    let error = scene.store.list(&ListRequest::default()).await.unwrap_err();
    assert!(cause(&error).contains("does not go on"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn disorder_in_a_list_is_put_right() {
    let scene = Scene::set().await;
    scene.store.put(&key("k"), Body::new("1"), PutMode::Create).await.unwrap();
    let p = prefix(&scene);
    let names = [format!("{p}a/1"), format!("{p}a-b"), format!("{p}b")];
    scene.proxy.inject(Rule::new(page(&names.each_ref().map(String::as_str), None)));
    let listed = scene.store.list(&ListRequest::default()).await.unwrap();
    let listed: Vec<_> = listed.objects.iter().map(|object| object.key.as_str()).collect();
    assert_eq!(listed, ["a-b", "a/1", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_tells_of_each_key() {
    let scene = Scene::set().await;
    let keys: Vec<Key> = ["k", "denied", "forgotten", "gone"].map(key).into();
    attempt(&scene.store, storage_api::Operation::PutCreate).await.unwrap();
    let p = prefix(&scene);
    let body = format!(
        "<DeleteResult><Deleted><Key>{p}k</Key></Deleted>\
         <Error><Key>{p}denied</Key><Code>AccessDenied</Code><Message>no</Message></Error>\
         <Error><Key>{p}gone</Key><Code>NoSuchKey</Code><Message>no</Message></Error></DeleteResult>"
    );
    let mut fault = Fault::error(200, "");
    if let Fault::Answer { body: bytes, .. } = &mut fault {
        *bytes = body.into();
    }
    scene.proxy.inject(Rule::new(fault).of(RequestKind::Delete));
    let outcomes = scene.store.delete(&keys).await.unwrap();
    let kinds: Vec<_> = outcomes
        .iter()
        .map(|outcome| outcome.result.as_ref().map_err(|error| error.kind()).copied())
        .collect();
    assert_eq!(kinds, [Ok(()), Err(ErrorKind::PermissionDenied), Err(ErrorKind::Unexpected), Ok(())]);
    assert!(outcomes.iter().zip(&keys).all(|(outcome, key)| outcome.key == *key));
}
