//! Options of S3 remotes, in URLs and in the configuration file, as they show on the wire and in errors.

use layerpack_tests::{Fault, RequestKind, Rule};

use crate::support::{Bench, Kind, put};

#[test]
fn a_configuration_file_says_where_and_how() {
    let mut bench = Bench::with_layers(Kind::S3, 3);
    let Some(proxy) = bench.proxied() else {
        return xtask::skip("s3_configuration", "the remote's URL has no endpoint to put a proxy before");
    };
    let url = bench.url();
    let (place, options) = url.split_once('?').unwrap();
    // What the URL had, and more.
    let mut text = format!("remote = {place:?}\nparts_in_flight = 2\n\n[s3]\n");
    for option in options.split('&') {
        let (name, value) = option.split_once('=').unwrap();
        text.push_str(&format!("{name} = {value:?}\n"));
    }
    text.push_str(
        "user_agent = 'from-the-file'\nconnect_timeout = 2\nrequests_in_flight = 3\nretry_for = '90s'\n",
    );
    put(&bench.path("config"), text.as_bytes());
    bench.run("backup --config {config} --workdir {a}").expect(0);
    bench.run("restore --config {config} --workdir {b}").expect(0);
    bench.assert_restored();
    let log = proxy.log();
    assert!(
        log.iter().all(|request| request.header("user-agent").unwrap().contains("from-the-file")),
        "{log:?}"
    );

    let before = log.len();
    let own = format!("status --config {{config}} --remote {place}?user_agent=from-the-url");
    bench.run(&own).expect(0);
    let after = &proxy.log()[before..];
    assert!(
        after.iter().all(|request| request.header("user-agent").unwrap().contains("from-the-url")),
        "{after:?}"
    );
}

#[test]
fn options_show_on_the_wire() {
    let mut bench = Bench::with_layers(Kind::S3, 3);
    let Some(proxy) = bench.proxied() else {
        return xtask::skip("s3_options", "the remote's URL has no endpoint to put a proxy before");
    };
    let remote = bench.remote.take().unwrap().with("storage_class", "STANDARD").with("checksums", "whole");
    bench.remote = Some(remote);
    bench.run("backup --workdir {a} --remote {url}").expect(0);
    let puts: Vec<_> = proxy.log().into_iter().filter(|request| request.kind == RequestKind::Put).collect();
    assert!(!puts.is_empty());
    for put in puts {
        assert_eq!(put.header("x-amz-storage-class"), Some("STANDARD"), "{put:?}");
        assert!(put.header("x-amz-checksum-crc32c").is_some(), "{put:?}");
    }
}

#[test]
fn retries_last_as_long_as_they_are_told_to() {
    let mut bench = Bench::with_layers(Kind::S3, 3);
    let Some(proxy) = bench.proxied() else {
        return xtask::skip("s3_retries", "the remote's URL has no endpoint to put a proxy before");
    };
    bench.run("backup --workdir {a} --remote {url}").expect(0);
    let attempts = |arguments: &str, config: &str| {
        put(&bench.path("config"), config.as_bytes());
        proxy.inject(Rule::new(Fault::error(503, "SlowDown")).of(RequestKind::List).always());
        let before = proxy.broken().len();
        bench
            .run(&format!("restore --config {{config}} --workdir {{b}} --remote {{url}} {arguments}"))
            .expect(6);
        proxy.heal();
        proxy.broken().len() - before
    };
    assert_eq!(attempts("--retry-for 0s", ""), 1);
    assert_eq!(attempts("", "[s3]\nretry_for = '0s'\n"), 1);
    assert!(attempts("--retry-for 2s", "[s3]\nretry_for = '0s'\n") > 1);
    bench.run("restore --workdir {b} --remote {url}").expect(0);
    bench.assert_restored();
}

#[test]
fn wrong_urls_and_files_are_wrong_calls_and_repeat_no_secret() {
    let bench = Bench::with_layers(Kind::Directory, 1);
    let commands = ["status --remote", "status --json --remote", "backup --workdir {a} --remote", "inspect"];
    for (url, part) in [
        ("s3://user:hunter2@bucket/tenants/", "user or password"),
        ("s3://user:hun?ter2@bucket/tenants/", "is not the URL"),
        ("s3://user:hun/ter2@bucket/tenants/", "is not the URL"),
        ("s3://bucket/tenants/?secret_access_key=hunter2", "looks like a credential"),
        ("s3://bucket/tenants/?endpoint=http://user:hunter2@127.0.0.1", "without user and password"),
        ("s3://bucket/tenants/?colour=hunter2", "there is no option"),
        ("s3://bucket/tenants/?endpoint=http://store.example:9000", "allow_http=true"),
        ("s3:///tenants/", "names no bucket"),
    ] {
        for command in commands {
            let run = bench.run(&format!("{command} {url}")).expect(2);
            let said = String::from_utf8(run.stdout).unwrap() + &run.stderr;
            assert!(!said.contains("hunter2") && !said.contains("ter2"), "{command} {url}: {said}");
            // What is no URL of an object is said first.
            assert!(said.contains(part) || command == "inspect", "{command} {url}: {said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }
    for (file, part) in [
        ("[s3]\ncolour = 'hunter2'\n", "colour"),
        ("[s3]\nsecret_access_key = 'hunter2'\n", "secret_access_key"),
        ("secret_access_key = 'hunter2'\n", "secret_access_key"),
        ("remote = 's3://user:hunter2@bucket'\n", "user or password"),
    ] {
        put(&bench.path("config"), file.as_bytes());
        let run = bench.run("status --config {config}").expect(2).says(&[part]);
        assert!(!run.stderr.contains("hunter2") && run.stderr.lines().count() == 1, "{}", run.stderr);
    }
}
