//! Tests of the configuration file.

use super::*;

#[test]
fn every_key_has_its_place() {
    let text = "remote = 's3://b'\nbundle_bytes_target = 65536\nparts_in_flight = 2\n[s3]\nregion = 'here'\n\
                allow_http = true\nconnect_timeout = 2\nprogress_timeout = 0.5\nrequests_in_flight = 7\nretry_for = '90s'\n";
    let config = Config::parse(text).unwrap();
    assert_eq!((config.parts_in_flight, config.s3.requests_in_flight), (Some(2), NonZeroUsize::new(7)));
    assert_eq!(config.s3.retry_for, Some(Duration::from_secs(90)));
    let options: Vec<_> =
        config.s3.options.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let expected =
        [("allow_http", "true"), ("connect_timeout", "2"), ("progress_timeout", "0.5"), ("region", "here")];
    assert_eq!(options, expected);
}

#[test]
fn what_is_wrong_is_named_and_no_secret_is_repeated() {
    for (text, parts) in [
        ("aws_secret_access_key = 'hunter2'", ["unknown field `aws_secret_access_key`", "line 1"]),
        ("workdir = '/x'\nremote = hunter2", ["line 2", ""]),
        ("workdir = 7", ["line 1", "invalid type"]),
        ("[s3]\nsecret_access_key = 'hunter2'", ["\"secret_access_key\"", "looks like a credential"]),
        ("[s3]\ntoken = 'hunter2'", ["\"token\"", "looks like a credential"]),
        ("[s3]\ncolour = 'hunter2'", ["no option \"colour\"", "requests_in_flight"]),
        ("[s3]\nendpoint = 'http://me:hunter2@host'", ["endpoint", "without user and password"]),
        ("[s3]\ntags = ['a']", ["tags", "must be a text"]),
        ("[s3]\nrequests_in_flight = 0", ["requests_in_flight", "1 to 1000"]),
        ("[s3]\nrequests_in_flight = 'many'", ["requests_in_flight", "1 to 1000"]),
        ("[s3]\nretry_for = 'ever'", ["retry_for", "90s"]),
    ] {
        let why = Config::parse(text).unwrap_err();
        assert!(parts.iter().all(|part| why.contains(part)), "{text}: {why}");
        assert!(!why.contains("hunter2") && !why.contains('\n'), "{text}: {why}");
    }
}
