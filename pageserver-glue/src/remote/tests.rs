//! Tests of remote URLs.

use super::*;

fn directory_of(text: &str) -> PathBuf {
    match text.parse::<RemoteUrl>().unwrap().place {
        Place::Directory(path) => path,
        Place::S3 => panic!("{text} was taken for S3"),
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
        ("s3:///prefix", "no bucket"),
        ("ftp://host/dir", "\"ftp\" is not known"),
    ] {
        let message = text.parse::<RemoteUrl>().unwrap_err().to_string();
        assert!(message.contains(why) && message.contains("file:///dir"), "{text}: {message}");
    }
}

#[test]
fn s3_is_recognised_and_not_built_in() {
    let remote: RemoteUrl = "s3://bucket/prefix?endpoint=http://127.0.0.1:9000".parse().unwrap();
    let error = remote.connect(Absent::Create).unwrap_err();
    assert!(matches!(error, RemoteError::NotBuiltIn { backend: "s3", .. }), "{error}");
}

#[cfg(feature = "localfs")]
#[test]
fn only_creating_makes_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let remote: RemoteUrl = format!("file://{}/store", dir.path().display()).parse().unwrap();
    assert!(matches!(remote.connect(Absent::Refuse), Err(RemoteError::Open { .. })));
    assert!(!dir.path().join("store").try_exists().unwrap());
    remote.connect(Absent::Create).unwrap();
    remote.connect(Absent::Refuse).unwrap();
}
