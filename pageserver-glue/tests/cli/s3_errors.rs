//! What an operator gets to see where S3 does not answer as it should: one line with the cause and the remedy, soon, and
//! no secret. The servers are in this process, because others do not check all of it.

use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use layerpack_tests::{Fault, KeyPair, READ_ONLY, READ_WRITE, Remote, Rule, S3Server, WireProxy};

use crate::support::{Bench, Kind, Run, put};

/// Within which a command whose store does not answer as it should has ended.
const SOON: Duration = Duration::from_secs(10);
const WRONG_SECRET: KeyPair = KeyPair { id: READ_WRITE.id, secret: "hunter2/not+the/secret" };
const STRANGER: KeyPair = KeyPair { id: "AKHUNTER2STRANGER", secret: "hunter2/of+a/stranger" };
const SESSION_TOKEN: &str = "hunter2sessiontoken";

const STATUS: &str = "status --remote {url}";
const BACKUP: &str = "backup --workdir {a} --remote {url}";

/// A bench whose remote is on `server`.
fn bench_on(server: &S3Server) -> Bench {
    let mut bench = Bench::with_layers(Kind::Directory, 1);
    bench.remote = Some(Remote::of(server));
    bench
}

/// Changes a bench's remote.
fn change(bench: &mut Bench, change: impl FnOnce(Remote) -> Remote) {
    bench.remote = bench.remote.take().map(change);
}

/// How a command ended, and after how long.
fn timed(mut command: Command) -> (Run, Duration) {
    #[expect(clippy::disallowed_methods, reason = "it is a promise to people how soon it ends")]
    let begun = Instant::now();
    let run = Run::from(command.output().unwrap());
    (run, begun.elapsed())
}

/// Runs it quietly, in JSON, and with everything that a log may say; checks what is the same for all errors, and that the
/// message has each of `parts`.
#[track_caller]
fn refused(bench: &Bench, arguments: &str, parts: &[&str]) {
    refused_with(&["", "-vv", "-vvv", "--json"], bench, arguments, parts);
}

/// The same, of an error that comes only after some seconds, quietly and with everything that a log may say.
#[track_caller]
fn refused_late(bench: &Bench, arguments: &str, parts: &[&str]) {
    refused_with(&["", "-vvv"], bench, arguments, parts);
}

/// The same with each of `options`, all at once.
#[track_caller]
fn refused_with(options: &[&str], bench: &Bench, arguments: &str, parts: &[&str]) {
    let pair = bench.remote.as_ref().unwrap().credentials;
    let secrets: Vec<&str> =
        pair.iter().flat_map(|pair| [pair.id, pair.secret]).chain([SESSION_TOKEN]).collect();
    let runs: Vec<_> = std::thread::scope(|scope| {
        let start = |options: &&str| {
            let mut command = bench.command(&format!("{arguments} {options}"));
            if *options == "-vvv" {
                command.env("AWS_SESSION_TOKEN", SESSION_TOKEN);
            }
            command.env("RUST_LOG", "trace");
            scope.spawn(move || timed(command))
        };
        let started: Vec<_> = options.iter().map(start).collect();
        started.into_iter().map(|run| run.join().unwrap()).collect()
    });
    for (options, (run, took)) in options.iter().zip(runs) {
        let stdout = String::from_utf8_lossy(&run.stdout).into_owned();
        assert_eq!(run.code, Some(6), "{options}: {stdout}{}", run.stderr);
        assert!(took < SOON, "{options}: it took {took:?}");
        for secret in &secrets {
            let shown = stdout.contains(secret) || run.stderr.contains(secret);
            assert!(!shown, "{options}: {stdout}{}", run.stderr);
        }
        let message = match *options {
            "--json" => {
                assert!(run.stderr.is_empty(), "{}", run.stderr);
                run.json()["error"].as_str().unwrap().to_owned()
            }
            _ => run.stderr.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
        };
        if options.is_empty() {
            let errors = run.stderr.lines().filter(|line| line.starts_with("error: ")).count();
            assert!(stdout.is_empty() && errors == 1, "{stdout}{}", run.stderr);
            println!("{took:.1?} {message}");
        }
        for part in parts {
            assert!(message.contains(part), "{options}: no {part:?} in {message}");
        }
        assert!(message.len() < 500 && !message.contains('\n'), "nobody reads this: {message}");
    }
}

#[test]
fn credentials_that_are_wrong() {
    let server = S3Server::start();
    let mut bench = bench_on(&server);
    for (pair, parts) in [
        (WRONG_SECRET, ["SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"]),
        (STRANGER, ["InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"]),
    ] {
        change(&mut bench, |remote| Remote { credentials: Some(pair), ..remote });
        for command in [STATUS, BACKUP] {
            refused(&bench, command, &parts);
        }
    }
}

#[test]
fn credentials_that_may_only_read() {
    let server = S3Server::start();
    let mut bench = bench_on(&server);
    bench.run(BACKUP).expect(0);
    change(&mut bench, |remote| Remote { credentials: Some(READ_ONLY), ..remote });
    bench.run(STATUS).expect(0);
    bench.run("restore --workdir {b} --remote {url}").expect(0);
    bench.assert_restored();
    bench.put_layer(1, 1000);
    refused(&bench, BACKUP, &["permission denied", "AccessDenied", "s3:PutObject"]);
}

/// A command that finds no credentials but those that a metadata service of the instance may have.
fn without_credentials(bench: &Bench, metadata_service: Option<&str>) -> Command {
    let mut command = bench.command(STATUS);
    put(&bench.path("empty"), b"");
    for name in ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"] {
        command.env(name, bench.path("empty"));
    }
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"] {
        command.env_remove(name);
    }
    match metadata_service {
        None => command.env("AWS_EC2_METADATA_DISABLED", "true"),
        Some(url) => {
            command.env_remove("AWS_EC2_METADATA_DISABLED").env("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
        }
    };
    command.env("HOME", bench.path("b"));
    command
}

#[test]
fn no_credentials_at_all() {
    let server = S3Server::start();
    let mut bench = bench_on(&server);
    change(&mut bench, |remote| Remote { credentials: None, ..remote });
    // Somebody who accepts connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    for metadata_service in [None, Some(silent_url.as_str())] {
        let (run, took) = timed(without_credentials(&bench, metadata_service));
        let run = run.expect(6).says(&["error: ", "no credentials", "AWS_ACCESS_KEY_ID", "AWS_PROFILE"]);
        assert!(run.stderr.lines().count() == 1 && took < SOON, "{took:?} {}", run.stderr);
        println!("{took:.1?} {}", run.stderr);
    }
}

#[test]
fn places_that_are_wrong() {
    let server = S3Server::start();
    let mut bench = bench_on(&server);
    let right = bench.remote.clone().unwrap();
    let bucket = right.url.replacen("layerpack", "no-such-bucket", 1);
    change(&mut bench, |remote| Remote { url: bucket, ..remote });
    for command in [STATUS, BACKUP] {
        refused(&bench, command, &["no-such-bucket", "NoSuchBucket", "bucket"]);
    }
    bench.remote = Some(right.with("region", "eu-west-9"));
    for command in [STATUS, BACKUP] {
        refused(&bench, command, &["region", "us-east-1"]);
    }
    // No store below that prefix, in a bucket that is there.
    bench.remote = Some(right);
    bench.run(STATUS).expect(6).says(&["no Layerpack store", "check the URL"]);
}

/// A bench behind a proxy that does `fault` to every request.
fn behind(server: &S3Server, fault: Fault) -> (Bench, WireProxy) {
    let mut bench = bench_on(server);
    let proxy = bench.proxied().unwrap();
    proxy.inject(Rule::new(fault).always());
    (bench, proxy)
}

/// Does it to each at once: they wait for most of their time.
fn all_at_once<T: Send>(cases: impl IntoIterator<Item = T>, check: impl Fn(T) + Sync) {
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(|| check(case));
        }
    });
}

#[test]
fn endpoints_that_do_not_answer() {
    let server = S3Server::start();
    // A port that was free a moment ago.
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dead = format!("http://{dead}");
    let no_tls = server.endpoint().replace("http://", "https://");
    let nowhere = "http://no-such-host.localhost:1";
    let cases =
        [(&*dead, "Connection refused"), (nowhere, "cannot be found"), (&no_tls, "no secure connection")];
    all_at_once(cases, |(endpoint, part)| {
        let mut bench = bench_on(&server);
        change(&mut bench, |remote| remote.by(endpoint));
        refused_late(&bench, STATUS, &[endpoint, part, "check", "endpoint"]);
    });
}

#[test]
fn what_answers_and_is_no_s3() {
    let server = S3Server::start();
    for status in [302, 403] {
        let (bench, proxy) = behind(&server, Fault::html(status));
        refused(&bench, BACKUP, &["with a web page", "endpoint", "a proxy", &proxy.endpoint()]);
    }
    all_at_once([200, 404, 502], |status| {
        let (bench, proxy) = behind(&server, Fault::html(status));
        refused_late(&bench, BACKUP, &["with a web page", "endpoint", "a proxy", &proxy.endpoint()]);
    });
    let (bench, proxy) = behind(&server, Fault::Garbage("SSH-2.0-OpenSSH_9.6\r\n".into()));
    refused_late(&bench, STATUS, &["endpoint", &proxy.endpoint()]);
}

#[test]
fn silence_is_given_up_soon() {
    let server = S3Server::start();
    let cases = [(Fault::StallBefore, STATUS), (Fault::StallBefore, BACKUP), (Fault::ResetBefore, BACKUP)];
    all_at_once(cases, |(fault, command)| {
        let (bench, _proxy) = behind(&server, fault);
        refused_late(&bench, command, &["check the endpoint"]);
    });
}

#[test]
fn what_the_store_refuses_for_now_and_what_for_good_are_told_apart() {
    let server = S3Server::start();
    for (status, code, parts) in [
        (503, "SlowDown", ["throttled", "run it again"]),
        (403, "AccessDenied", ["permission denied", "do not allow"]),
        (403, "RequestTimeTooSkewed", ["RequestTimeTooSkewed", "clock"]),
        (400, "ExpiredToken", ["ExpiredToken", "credentials"]),
    ] {
        let (bench, _proxy) = behind(&server, Fault::error(status, code));
        refused(&bench, "restore --workdir {b} --retry-for 1s --remote {url}", &parts);
    }
}
