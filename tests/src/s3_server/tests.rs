//! The server as a client sees it that no one here wrote: the AWS SDK.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Config, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedMultipartUpload, CompletedPart, Delete,
    EncodingType, ObjectIdentifier,
};
use storage_api::{Body, Crc32c, Key, KeyPrefix, ListRequest, PutMode};

use super::*;

const PART_BYTES: usize = 5 << 20;

fn config(server: &S3Server, pair: KeyPair, region: &'static str) -> aws_sdk_s3::config::Builder {
    Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(server.endpoint())
        .region(Region::new(region))
        .credentials_provider(Credentials::new(pair.id, pair.secret, None, None, "test"))
        .force_path_style(true)
        .retry_config(RetryConfig::disabled())
}

/// A client that adds nothing of its own to requests.
fn plain(server: &S3Server, pair: KeyPair) -> Client {
    Client::from_conf(
        config(server, pair, REGION)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build(),
    )
}

/// The status and code of a refusal.
fn refused<T: std::fmt::Debug, E: ProvideErrorMetadata + std::fmt::Debug>(
    answer: Result<T, SdkError<E>>,
) -> (u16, String) {
    let error = answer.expect_err("it must be refused");
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    (status, error.into_service_error_code())
}

trait Code {
    fn into_service_error_code(self) -> String;
}

impl<E: ProvideErrorMetadata> Code for SdkError<E> {
    fn into_service_error_code(self) -> String {
        self.as_service_error().and_then(ProvideErrorMetadata::code).unwrap_or_default().to_owned()
    }
}

fn crc(bytes: &[u8]) -> String {
    answers::checksum_text(Crc32c::of(bytes))
}

async fn fill(server: &S3Server, keys: &[&str]) {
    for key in keys {
        let key = Key::new(*key).unwrap();
        server.store().put(&key, Body::new(key.as_str().to_owned()), PutMode::Create).await.unwrap();
    }
}

#[tokio::test]
async fn the_sdk_with_its_defaults_makes_the_round_trip() {
    let server = S3Server::start();
    let client = Client::from_conf(config(&server, READ_WRITE, REGION).build());
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let key = "a b/ä+%2F&?.tar.zst";
    client.put_object().bucket(BUCKET).key(key).body(bytes.clone().into()).send().await.unwrap();
    let stored = server.store().get(&Key::new(key).unwrap(), storage_api::GetRange::Full).await.unwrap();
    assert_eq!(stored.info.size, bytes.len() as u64);
    let got = client.get_object().bucket(BUCKET).key(key).send().await.unwrap();
    assert_eq!(got.content_length(), Some(3_000_000));
    assert!(got.body.collect().await.unwrap().to_vec() == bytes);
}

#[tokio::test]
async fn a_second_create_and_a_wrong_checksum_are_refused() {
    let server = S3Server::start();
    let client = plain(&server, READ_WRITE);
    let put = |body: &'static [u8]| {
        client.put_object().bucket(BUCKET).key("k").body(ByteStream::from_static(body)).if_none_match("*")
    };
    let wrong = put(b"first").checksum_crc32_c(crc(b"other")).send().await;
    assert_eq!(refused(wrong), (400, "BadDigest".into()));
    let first = put(b"first").checksum_crc32_c(crc(b"first")).send().await.unwrap();
    assert_eq!(first.checksum_crc32_c(), Some(crc(b"first").as_str()));
    assert_eq!(refused(put(b"second").send().await), (412, "PreconditionFailed".into()));
    let head = client.head_object().bucket(BUCKET).key("k").checksum_mode(ChecksumMode::Enabled).send().await;
    let head = head.unwrap();
    assert_eq!(head.checksum_crc32_c(), Some(crc(b"first").as_str()));
    assert_eq!(head.checksum_type(), Some(&ChecksumType::FullObject));
    assert_eq!(head.e_tag(), first.e_tag());
}

#[tokio::test]
async fn quirks_are_what_they_say() {
    let server = S3Server::with_quirk(Quirk::IgnoresIfNoneMatch);
    let client = plain(&server, READ_WRITE);
    for _ in 0..2 {
        client.put_object().bucket(BUCKET).key("k").if_none_match("*").send().await.unwrap();
    }
    let server = S3Server::with_quirk(Quirk::KeepsNoChecksums);
    let client = plain(&server, READ_WRITE);
    client.put_object().bucket(BUCKET).key("k").checksum_crc32_c(crc(b"")).send().await.unwrap();
    let got = client.get_object().bucket(BUCKET).key("k").checksum_mode(ChecksumMode::Enabled).send().await;
    assert_eq!(got.unwrap().checksum_crc32_c(), None);
    let server = S3Server::with_quirk(Quirk::IgnoresRanges);
    let client = plain(&server, READ_WRITE);
    fill(&server, &["0123456789"]).await;
    let got = client.get_object().bucket(BUCKET).key("0123456789").range("bytes=3-5").send().await.unwrap();
    assert_eq!((got.content_range(), got.content_length()), (None, Some(10)));
}

#[tokio::test]
async fn ranges_are_cut_and_refused_as_on_s3() {
    let server = S3Server::start();
    let client = plain(&server, READ_WRITE);
    fill(&server, &["0123456789"]).await;
    let get = |range: &str| client.get_object().bucket(BUCKET).key("0123456789").range(range).send();
    for (range, bytes, content_range) in [
        ("bytes=3-5", "345", "bytes 3-5/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=8-99", "89", "bytes 8-9/10"),
        ("bytes=-4", "6789", "bytes 6-9/10"),
        ("bytes=-99", "0123456789", "bytes 0-9/10"),
    ] {
        let got = get(range).await.unwrap();
        assert_eq!(got.content_range(), Some(content_range));
        assert_eq!(got.body.collect().await.unwrap().to_vec(), bytes.as_bytes(), "{range}");
    }
    assert_eq!(refused(get("bytes=10-").await), (416, "InvalidRange".into()));
}

#[tokio::test]
async fn lists_have_pages_and_roll_up() {
    let server = S3Server::start();
    let client = plain(&server, READ_WRITE);
    fill(&server, &["p/a", "p/b/1", "p/b/2", "p/c d", "p/ä", "q"]).await;
    let list = || client.list_objects_v2().bucket(BUCKET).prefix("p/");
    let mut keys = Vec::new();
    let mut pages = list().max_keys(2).into_paginator().send();
    while let Some(page) = pages.next().await {
        let page = page.unwrap();
        assert!(page.contents().len() <= 2);
        keys.extend(page.contents().iter().filter_map(|object| object.key().map(str::to_owned)));
    }
    assert_eq!(keys, ["p/a", "p/b/1", "p/b/2", "p/c d", "p/ä"]);

    let page = list().encoding_type(EncodingType::Url).start_after("p/b/2").send().await.unwrap();
    let keys: Vec<_> = page.contents().iter().filter_map(|object| object.key()).collect();
    assert_eq!(keys, ["p/c%20d", "p/%C3%A4"]);

    // A common prefix in which the list starts is there while keys of it follow.
    for (start_after, expected) in [("p/a", vec!["p/b/"]), ("p/b/1", vec!["p/b/"]), ("p/b/2", vec![])] {
        let page = list().delimiter("/").start_after(start_after).send().await.unwrap();
        let prefixes: Vec<_> = page.common_prefixes().iter().filter_map(|common| common.prefix()).collect();
        assert_eq!(prefixes, expected, "after {start_after}");
    }
    let page = list().delimiter("/").start_after("p/b/1").max_keys(1).send().await.unwrap();
    assert_eq!((page.common_prefixes().len(), page.is_truncated()), (1, Some(true)));
    let next = list().delimiter("/").continuation_token(page.next_continuation_token().unwrap()).send().await;
    assert_eq!(next.unwrap().contents()[0].key(), Some("p/c d"));
}

#[tokio::test]
async fn deletes_answer_for_every_key() {
    let server = S3Server::start();
    fill(&server, &["a", "b", "c"]).await;
    let keys = |keys: &[&str]| {
        let objects = keys.iter().map(|key| ObjectIdentifier::builder().key(*key).build().unwrap());
        Delete::builder().set_objects(Some(objects.collect())).build().unwrap()
    };
    let client = plain(&server, READ_WRITE);
    let delete = client.delete_objects().bucket(BUCKET).delete(keys(&["a", "missing", "b//"]));
    // The SDK adds the checksum that S3 requires here.
    let answer = delete.send().await.unwrap();
    let deleted: Vec<_> = answer.deleted().iter().filter_map(|deleted| deleted.key()).collect();
    assert_eq!(deleted, ["a", "missing"]);
    assert_eq!(answer.errors()[0].key(), Some("b//"));
    client.delete_object().bucket(BUCKET).key("b").send().await.unwrap();
    let left = server.store().list(&ListRequest::default()).await.unwrap().objects;
    assert_eq!(left.len(), 1);
}

#[tokio::test]
async fn copies_take_whole_objects_and_ranges() {
    let server = S3Server::start();
    fill(&server, &["from me"]).await;
    let client = plain(&server, READ_WRITE);
    let source = format!("{BUCKET}/from%20me");
    client.copy_object().bucket(BUCKET).key("to").copy_source(&source).send().await.unwrap();
    let missing = client.copy_object().bucket(BUCKET).key("to").copy_source(format!("{BUCKET}/no"));
    assert_eq!(refused(missing.send().await), (404, "NoSuchKey".into()));

    let begun = client.create_multipart_upload().bucket(BUCKET).key("part").send().await.unwrap();
    let upload = begun.upload_id().unwrap();
    let copy = client.upload_part_copy().bucket(BUCKET).key("part").upload_id(upload).part_number(1);
    let copied = copy.copy_source(&source).copy_source_range("bytes=5-6").send().await.unwrap();
    let tag = copied.copy_part_result().and_then(|result| result.e_tag()).unwrap();
    let part = CompletedPart::builder().part_number(1).e_tag(tag).build();
    let parts = CompletedMultipartUpload::builder().parts(part).build();
    let complete = client.complete_multipart_upload().bucket(BUCKET).key("part").upload_id(upload);
    complete.multipart_upload(parts).send().await.unwrap();
    let got = client.get_object().bucket(BUCKET).key("part").send().await.unwrap();
    assert_eq!(got.body.collect().await.unwrap().to_vec(), b"me");
}

#[tokio::test]
async fn uploads_in_parts_check_every_checksum() {
    let server = S3Server::start();
    let client = plain(&server, READ_WRITE);
    let begun = client
        .create_multipart_upload()
        .bucket(BUCKET)
        .key("k")
        .checksum_algorithm(ChecksumAlgorithm::Crc32C)
        .checksum_type(ChecksumType::FullObject);
    let begun = begun.send().await.unwrap();
    let upload = begun.upload_id().unwrap();
    let bytes = [vec![1u8; PART_BYTES], vec![2; 10]];
    let part =
        |number: i32| client.upload_part().bucket(BUCKET).key("k").upload_id(upload).part_number(number);
    let wrong = part(1).checksum_crc32_c(crc(b"x")).body(bytes[0].clone().into()).send().await;
    assert_eq!(refused(wrong), (400, "BadDigest".into()));
    let mut parts = Vec::new();
    for (number, bytes) in (1..).zip(&bytes) {
        let put = part(number).checksum_crc32_c(crc(bytes)).body(bytes.clone().into()).send().await.unwrap();
        let named =
            CompletedPart::builder().part_number(number).set_e_tag(put.e_tag).checksum_crc32_c(crc(bytes));
        parts.push(named.build());
    }
    let complete = |parts: &[CompletedPart], whole: &[u8]| {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.to_vec())).build();
        let complete = client.complete_multipart_upload().bucket(BUCKET).key("k").upload_id(upload);
        complete
            .multipart_upload(parts)
            .checksum_crc32_c(crc(whole))
            .checksum_type(ChecksumType::FullObject)
            .send()
    };
    let whole = bytes.concat();
    let swapped: Vec<_> = parts.iter().rev().cloned().collect();
    assert_eq!(refused(complete(&swapped, &whole).await), (400, "InvalidPartOrder".into()));
    assert_eq!(refused(complete(&parts, b"other").await), (400, "BadDigest".into()));
    let unknown = CompletedPart::builder().part_number(3).e_tag("x").build();
    assert_eq!(refused(complete(&[unknown], &whole).await), (400, "InvalidPart".into()));
    assert!(client.get_object().bucket(BUCKET).key("k").send().await.is_err());
    complete(&parts, &whole).await.unwrap();
    let got = client.get_object().bucket(BUCKET).key("k").checksum_mode(ChecksumMode::Enabled).send().await;
    let got = got.unwrap();
    assert_eq!(got.checksum_crc32_c(), Some(crc(&whole).as_str()));
    assert!(got.body.collect().await.unwrap().to_vec() == whole);
    let abort = client.abort_multipart_upload().bucket(BUCKET).key("k").upload_id(upload).send().await;
    assert_eq!(refused(abort), (404, "NoSuchUpload".into()));
}

#[tokio::test]
async fn a_checksum_of_the_whole_is_made_of_the_parts_where_none_is_sent() {
    let server = S3Server::start();
    let client = plain(&server, READ_WRITE);
    let begun = client.create_multipart_upload().bucket(BUCKET).key("k").send().await.unwrap();
    let upload = begun.upload_id().unwrap();
    let mut parts = Vec::new();
    let bytes = [vec![1u8; PART_BYTES], vec![2; 10]];
    for (number, bytes) in (1..).zip(&bytes) {
        let part = client.upload_part().bucket(BUCKET).key("k").upload_id(upload).part_number(number);
        let put = part.body(bytes.clone().into()).send().await.unwrap();
        parts.push(CompletedPart::builder().part_number(number).set_e_tag(put.e_tag).build());
    }
    let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    let complete = client.complete_multipart_upload().bucket(BUCKET).key("k").upload_id(upload);
    complete.multipart_upload(parts).send().await.unwrap();
    let info = server.store().head(&Key::new("k").unwrap()).await.unwrap();
    assert_eq!(info.crc32c, Some(Crc32c::of(&bytes.concat())));
}

#[tokio::test]
async fn pending_uploads_have_pages() {
    let server = S3Server::start();
    let client = plain(&server, READ_WRITE);
    for key in ["u/a", "u/a", "u/b", "v"] {
        client.create_multipart_upload().bucket(BUCKET).key(key).send().await.unwrap();
    }
    let expected = server.store().multipart_list(&KeyPrefix::new("u/").unwrap()).await.unwrap();
    let mut found = Vec::new();
    let mut marker: (Option<String>, Option<String>) = (None, None);
    for _ in 0..3 {
        let list = client.list_multipart_uploads().bucket(BUCKET).prefix("u/").max_uploads(1);
        let list = list.set_key_marker(marker.0).set_upload_id_marker(marker.1);
        let page = list.send().await.unwrap();
        found.extend(page.uploads().iter().filter_map(|upload| upload.upload_id().map(str::to_owned)));
        assert_eq!(page.is_truncated(), Some(found.len() < 3));
        marker = (page.next_key_marker, page.next_upload_id_marker);
    }
    let expected: Vec<_> = expected.into_iter().map(|pending| pending.upload.0).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn strangers_readers_and_other_places_are_refused() {
    let server = S3Server::start();
    fill(&server, &["k"]).await;
    let get = |client: &Client| client.get_object().bucket(BUCKET).key("k").send();
    let wrong = KeyPair { secret: "wrong", ..READ_WRITE };
    assert_eq!(refused(get(&plain(&server, wrong)).await), (403, "SignatureDoesNotMatch".into()));
    let unknown = KeyPair { id: "AKNOBODY", ..READ_WRITE };
    assert_eq!(refused(get(&plain(&server, unknown)).await), (403, "InvalidAccessKeyId".into()));

    let reader = plain(&server, READ_ONLY);
    get(&reader).await.unwrap();
    reader.list_objects_v2().bucket(BUCKET).send().await.unwrap();
    assert_eq!(
        refused(reader.put_object().bucket(BUCKET).key("k").send().await),
        (403, "AccessDenied".into())
    );
    let begin = reader.create_multipart_upload().bucket(BUCKET).key("k").send().await;
    assert_eq!(refused(begin), (403, "AccessDenied".into()));
    let delete = reader.delete_object().bucket(BUCKET).key("k").send().await;
    assert_eq!(refused(delete), (403, "AccessDenied".into()));

    let missing = plain(&server, READ_WRITE).get_object().bucket("missing").key("k").send().await;
    assert_eq!(refused(missing), (404, "NoSuchBucket".into()));
    let elsewhere = Client::from_conf(config(&server, READ_WRITE, "eu-west-1").build());
    let error = get(&elsewhere).await.expect_err("signed for another region");
    assert!(error.request_id().is_some(), "{error:?}");
    let response = error.raw_response().expect("an answer");
    assert_eq!(response.headers().get("x-amz-bucket-region"), Some(REGION));
    assert_eq!(refused::<(), _>(Err(error)), (400, "AuthorizationHeaderMalformed".into()));
    let absent = plain(&server, READ_WRITE).get_object().bucket(BUCKET).key("absent").send().await;
    assert_eq!(refused(absent), (404, "NoSuchKey".into()));
}
