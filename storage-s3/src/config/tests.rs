//! URLs and options.

use super::*;

fn parse(url: &str) -> Result<S3Config, InvalidS3Url> {
    S3Config::from_url(&Url::parse(url).unwrap())
}

#[test]
fn a_bare_url_is_a_bucket_with_the_defaults() {
    assert_eq!(parse("s3://bucket").unwrap(), S3Config::new("bucket"));
    assert_eq!(parse("s3://bucket/").unwrap(), S3Config::new("bucket"));
    let deep = parse("s3://bucket/a/b%20c/").unwrap();
    assert_eq!(deep.prefix.as_str(), "a/b c/");
    assert!(!deep.is_path_style());
}

#[test]
fn every_option_has_its_place() {
    let url = "s3://b/p?endpoint=http://127.0.0.1:9000&region=eu-west-1&profile=work&storage_class=STANDARD_IA\
               &sse=aws:kms&sse_kms_key_id=abc&tags=a:b,c:d&checksums=parts&connect_timeout=2&progress_timeout=0.5s\
               &user_agent=mine";
    let config = parse(url).unwrap();
    assert_eq!(config.endpoint.as_ref().unwrap().as_str(), "http://127.0.0.1:9000/");
    assert_eq!(config.region.as_deref(), Some("eu-west-1"));
    assert_eq!(config.profile.as_deref(), Some("work"));
    assert_eq!(config.storage_class.as_deref(), Some("STANDARD_IA"));
    assert_eq!(config.encryption, Encryption::SseKms { key_id: Some("abc".into()) });
    assert_eq!(config.tags, [("a".into(), "b".into()), ("c".into(), "d".into())]);
    assert_eq!(config.checksums, Checksums::Parts);
    assert_eq!(config.connect_timeout, Duration::from_secs(2));
    assert_eq!(config.progress_timeout, Duration::from_millis(500));
    assert_eq!(config.user_agent, "mine");
    assert!(config.is_path_style());
    // The order of the two does not matter.
    let kms = parse("s3://b?sse_kms_key_id=abc&sse=aws:kms").unwrap();
    assert_eq!(kms.encryption, Encryption::SseKms { key_id: Some("abc".into()) });
    assert!(!parse("s3://b?endpoint=https://s3.eu-west-1.amazonaws.com").unwrap().is_path_style());
    assert!(!parse("s3://b?endpoint=https://r2.example&path_style=false").unwrap().is_path_style());
}

#[test]
fn the_options_of_a_url_go_before_those_of_a_file() {
    let url = Url::parse("s3://b?endpoint=http://store.example&region=here").unwrap();
    let defaults = [("region", "there"), ("allow_http", "true"), ("storage_class", "GLACIER_IR")];
    let config = S3Config::from_url_with(&url, defaults).unwrap();
    assert_eq!(config.region.as_deref(), Some("here"));
    assert_eq!(config.storage_class.as_deref(), Some("GLACIER_IR"));
    S3Config::from_url(&url).unwrap_err();
    let unknown = S3Config::from_url_with(&url, [("colour", "red")]).unwrap_err();
    assert!(unknown.to_string().contains("colour"), "{unknown}");
}

#[test]
fn what_is_wrong_is_said_and_no_secret_is_repeated() {
    for (url, expected) in [
        ("s3://b?colour=red", "there is no option \"colour\": the options are endpoint, region"),
        ("s3://user:hunter2@b/", "it holds a user or password"),
        ("s3://b?secret_access_key=hunter2", "looks like a credential"),
        ("s3://b?AWS_SECRET=hunter2", "looks like a credential"),
        ("s3://b?X-Amz-Security-Token=hunter2", "looks like a credential"),
        ("s3://b?endpoint=http://user:hunter2@127.0.0.1", "without user and password"),
        ("s3://b?endpoint=ftp://host", "http://host:port or https://host works"),
        ("s3://b:9000/p", "a port belongs into the endpoint"),
        ("s3://b/a#b", "# is written %23"),
        ("s3://b/a//b", "a component is empty"),
        ("s3://b/%2E%2E/b", "it names no bucket"),
        ("s3://b?sse=rot13", "AES256 and aws:kms work"),
        ("s3://b?allow_http=perhaps", "true or false work"),
        ("s3://b?progress_timeout=soon", "a number of seconds"),
        ("s3://b?progress_timeout=NaN", "a number of seconds"),
        ("s3://b?checksums=md5", "whole, parts and none work"),
        ("s3://b?tags=a", "name:value"),
        ("s3://b?endpoint=http://store.example:9000", "use https, or add allow_http=true"),
    ] {
        match parse(url) {
            Err(error) => {
                let text = error.to_string();
                // A URL parser takes dots out of paths before anybody sees them.
                assert!(text.contains(expected), "{url}: {text}");
                assert!(!text.contains("hunter2"), "{url}: {text}");
            }
            Ok(config) => assert_eq!((url, config.prefix.as_str()), ("s3://b/%2E%2E/b", "b/")),
        }
    }
}

#[test]
fn plain_http_is_for_this_machine_unless_asked_for() {
    for host in ["127.0.0.1:9000", "127.8.9.1", "localhost:1", "[::1]:8333", "minio.localhost"] {
        parse(&format!("s3://b?endpoint=http://{host}")).unwrap();
    }
    for host in ["10.0.0.1", "localhost.example", "store"] {
        parse(&format!("s3://b?endpoint=http://{host}")).unwrap_err();
        parse(&format!("s3://b?endpoint=http://{host}&allow_http=true")).unwrap();
    }
}

#[test]
fn credentials_are_not_shown() {
    let mut config = S3Config::new("b");
    config.credentials = Some(StaticCredentials {
        access_key_id: "AKIAHUNTER2".into(),
        secret_access_key: "hunter2".into(),
        session_token: Some("hunter2token".into()),
    });
    let shown = format!("{config:?} {config:#?}").to_lowercase();
    assert!(shown.contains("staticcredentials") && !shown.contains("hunter2"), "{shown}");
}
