//! Tests of remote URLs.

use super::*;

fn directory_of(text: &str) -> PathBuf {
    match text.parse::<RemoteUrl>().unwrap().place {
        Place::Directory(path) => path,
        _ => panic!("{text} was taken for S3"),
    }
}

#[test]
fn a_file_url_names_an_absolute_directory_percent_decoded() {
    assert_eq!(directory_of("file:///var/store"), PathBuf::from("/var/store"));
    assert_eq!(directory_of("file://localhost/var/store"), PathBuf::from("/var/store"));
    assert_eq!(directory_of("FILE://LocalHost/var/store"), PathBuf::from("/var/store"));
    assert_eq!(directory_of("file:///a%20b/%23c%3F/%C3%A4"), PathBuf::from("/a b/#c?/ä"));
}

#[test]
fn what_is_no_remote_says_why_and_what_is_one() {
    for (text, why) in [
        ("", "relative URL"),
        ("some/dir", "relative URL"),
        ("/abs/dir", "relative URL"),
        ("file://dir/sub", "three slashes"),
        // A URL parser takes these for /s, /var/x and /var/x.
        ("file:s", "three slashes"),
        ("file:tmp/x", "three slashes"),
        ("file:/var/x", "three slashes"),
        ("file:", "three slashes"),
        ("file://localhostile/x", "three slashes"),
        ("file:///dir?x=1", "%3F"),
        ("file:///dir#x", "%23"),
        ("file:///dir%00x", "NUL"),
        ("file:///a\\b", "%XX"),
        ("file:///a\tb", "%XX"),
        ("file:///a ", "%XX"),
        #[cfg(feature = "s3")]
        ("s3:///prefix", "no bucket"),
        ("ftp://host/dir", "\"ftp\" is not known"),
    ] {
        let message = text.parse::<RemoteUrl>().unwrap_err().to_string();
        assert!(message.contains(why) && message.contains("file:///dir"), "{text}: {message}");
    }
}

#[cfg(feature = "s3")]
#[tokio::test]
async fn an_s3_url_is_a_store_with_its_options() {
    let text = "s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=here";
    let remote: RemoteUrl = text.parse().unwrap();
    assert_eq!((remote.as_str(), remote.directory()), (text, None));
    // Nothing is asked of the store yet.
    remote.connect(Absent::Refuse).await.unwrap();
    let Place::S3(config) = remote.place else { panic!("{text} was taken for a directory") };
    assert_eq!(
        (&*config.bucket, config.prefix.as_str(), config.region.as_deref()),
        ("bucket", "prefix/", Some("here"))
    );

    let defaults = [("region", "there"), ("storage_class", "STANDARD_IA")];
    let defaults = defaults.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let remote = RemoteUrl::with_defaults(text, &defaults).unwrap();
    let Place::S3(config) = remote.place else { panic!("{text} was taken for a directory") };
    assert_eq!(
        (config.region.as_deref(), config.storage_class.as_deref()),
        (Some("here"), Some("STANDARD_IA"))
    );
}

#[test]
fn no_secret_is_repeated() {
    for (text, shown) in [
        ("s3://user:hunter2@bucket/prefix?region=here", "s3://..."),
        ("s3://user:hun/ter2@bucket", "s3://..."),
        ("s3://user:hun?ter2@bucket", "s3://..."),
        ("s3://user:hun#ter2@bucket", "s3://..."),
        ("user:hunter2@bucket", "://..."),
        ("s3://bucket/prefix?secret_access_key=hunter2", "s3://bucket/prefix?..."),
        ("s3://bucket/prefix#hunter2", "s3://bucket/prefix#..."),
    ] {
        assert_eq!(without_secrets(text), shown);
        let error = text.parse::<RemoteUrl>().unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(!said.contains("ter2") && !said.contains("user:"), "{said}");
    }
    for harmless in ["file:///a@b/c", "s3://bucket/prefix"] {
        assert_eq!(without_secrets(harmless), harmless);
    }
}

#[cfg(feature = "localfs")]
#[tokio::test]
async fn only_creating_makes_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let remote: RemoteUrl = format!("file://{}/store", dir.path().display()).parse().unwrap();
    assert!(matches!(remote.connect(Absent::Refuse).await, Err(RemoteError::Open { .. })));
    assert!(!dir.path().join("store").try_exists().unwrap());
    remote.connect(Absent::Create).await.unwrap();
    remote.connect(Absent::Refuse).await.unwrap();
}
