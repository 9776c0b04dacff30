//! The proxy between a hand-made client and a hand-made upstream, byte by byte.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream as Client;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{Remote, S3Server};

const BODY_BYTES: usize = 100_000;

fn body() -> Vec<u8> {
    (0..BODY_BYTES).map(|at| (at % 251).to_le_bytes()[0]).collect()
}

/// An upstream that answers every request with the head of it, the bytes it got, and a long body.
fn upstream() -> Serving {
    Serving::start("upstream", async |mut stream: TcpStream| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let text = String::from_utf8_lossy(&head).to_lowercase();
        let len = text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        let mut sent = vec![0; len.map_or(0, |len| len.parse().unwrap())];
        if stream.read_exact(&mut sent).await.is_err() {
            return;
        }
        let answer = [head, sent, body()].concat();
        let status = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", answer.len());
        // The proxy may be gone.
        let _ = stream.write_all(status.as_bytes()).await;
        let _ = stream.write_all(&answer).await;
    })
    .unwrap()
}

/// Sends a request, and reads until the connection ends.
fn ask(proxy: &WireProxy, request: &str) -> (Vec<u8>, Option<ErrorKind>) {
    let mut stream = Client::connect(proxy.endpoint().strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (answer, None),
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
            Err(error) => return (answer, Some(error.kind())),
        }
    }
}

const GET: &str = "GET /bucket/tenants/a?x=1 HTTP/1.1\r\nhost: who.ever:1\r\nconnection: close\r\n\r\n";
const PUT: &str =
    "PUT /bucket/log/1 HTTP/1.1\r\nhost: who.ever:1\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";

/// The part of an answer behind its head.
fn after_head(answer: &[u8]) -> &[u8] {
    let at = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head") + 4;
    &answer[at..]
}

fn broken_by(fault: Fault, request: &str) -> (Vec<u8>, Option<ErrorKind>, WireRequest) {
    let upstream = upstream();
    let proxy = WireProxy::start(&format!("http://{}", upstream.address()));
    proxy.inject(Rule::new(fault));
    let (answer, error) = ask(&proxy, request);
    let log = proxy.log();
    assert_eq!((log.len(), proxy.broken().len()), (1, 1));
    (answer, error, log[0].clone())
}

#[test]
fn requests_go_through_unchanged_and_are_counted() {
    let upstream = upstream();
    let proxy = WireProxy::start(&format!("http://{}/", upstream.address()));
    let (answer, error) = ask(&proxy, PUT);
    assert_eq!(error, None);
    let echoed = after_head(&answer);
    let text = String::from_utf8_lossy(after_head(&answer));
    assert!(text.starts_with("PUT /bucket/log/1 HTTP/1.1\r\nhost: who.ever:1\r\n"), "{}", &text[..100]);
    assert!(text.contains("\r\n\r\nhello"));
    assert!(echoed.ends_with(&body()));
    ask(&proxy, GET);
    let counts = proxy.counts();
    assert_eq!((counts.put, counts.get, counts.requests()), (1, 1, 2));
    assert_eq!(counts.bytes_sent, 5);
    assert!(counts.bytes_received > 2 * BODY_BYTES as u64);
    let log = proxy.log();
    assert_eq!((log[1].path.as_str(), log[1].query.as_str()), ("/bucket/tenants/a", "x=1"));
    assert_eq!((log[0].status, log[0].bytes_down), (Some(200), echoed.len() as u64));
    assert!(proxy.broken().is_empty());
}

#[test]
fn kinds_are_told_by_what_s3_makes_of_a_request() {
    let upstream = upstream();
    let proxy = WireProxy::start(&format!("http://{}", upstream.address()));
    for (line, kind) in [
        ("GET /b/k", RequestKind::Get),
        ("HEAD /b/k", RequestKind::Head),
        ("PUT /b/k?x-id=PutObject", RequestKind::Put),
        ("DELETE /b/k", RequestKind::Delete),
        ("GET /b?list-type=2&prefix=p", RequestKind::List),
        ("GET /b/?list-type=2", RequestKind::List),
        ("POST /b?delete", RequestKind::Delete),
        ("POST /b/k?uploads", RequestKind::Multipart),
        ("PUT /b/k?partNumber=1&uploadId=u", RequestKind::Multipart),
        ("DELETE /b/k?uploadId=u", RequestKind::Multipart),
        ("GET /b?uploads=", RequestKind::Multipart),
        ("GET /", RequestKind::Other),
        ("HEAD /b", RequestKind::Other),
        ("GET /b?location", RequestKind::Other),
    ] {
        ask(&proxy, &format!("{line} HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"));
        assert_eq!(proxy.log().last().unwrap().kind, kind, "{line}");
    }
    let copy = "PUT /b/k HTTP/1.1\r\nhost: h\r\nx-amz-copy-source: b/x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    ask(&proxy, copy);
    assert_eq!(proxy.counts().copy, 1);
}

#[test]
fn resets_are_resets_before_and_after_the_effect() {
    let (answer, error, request) = broken_by(Fault::ResetBefore, PUT);
    assert_eq!((answer.len(), error), (0, Some(ErrorKind::ConnectionReset)));
    assert_eq!((request.bytes_up, request.status), (0, None));
    let (answer, error, request) = broken_by(Fault::ResetAfter, PUT);
    assert_eq!((answer.len(), error), (0, Some(ErrorKind::ConnectionReset)));
    assert_eq!(request.bytes_up, 5, "it took effect");
}

#[test]
fn bodies_are_cut_where_they_should_be() {
    for (fault, expected) in [
        (Fault::ResetInBody(5_000), Some(ErrorKind::ConnectionReset)),
        (Fault::CloseInBody(5_000), None),
        (Fault::StallInBody(5_000), Some(ErrorKind::WouldBlock)),
    ] {
        let (answer, error, request) = broken_by(fault.clone(), GET);
        assert_eq!(error, expected, "{fault:?}");
        assert_eq!((after_head(&answer).len(), request.bytes_down), (5_000, 5_000), "{fault:?}");
        let announced = format!("content-length: {}", BODY_BYTES + GET.len() - "connection: close\r\n".len());
        assert!(String::from_utf8_lossy(&answer).contains(&announced), "{fault:?}");
    }
}

#[test]
fn one_bit_is_flipped() {
    let (answer, _, _) = broken_by(Fault::FlipInRequest(4), PUT);
    assert!(String::from_utf8_lossy(&answer).contains("\r\n\r\nhelln"));
    let (answer, error, request) = broken_by(Fault::FlipInAnswer(0), GET);
    assert_eq!((after_head(&answer)[0], error), (b'G' ^ 1, None));
    assert!(after_head(&answer).ends_with(&body()) && request.is_broken);
}

#[test]
fn answers_are_made_up_and_garbled() {
    let (answer, _, request) = broken_by(Fault::error(503, "SlowDown"), PUT);
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("<Code>SlowDown</Code>"), "{text}");
    assert_eq!((request.status, request.bytes_up), (Some(503), 0));
    let (answer, _, _) = broken_by(Fault::html(200), GET);
    assert!(String::from_utf8_lossy(&answer).contains("text/html"));
    let (answer, _, _) = broken_by(Fault::Garbage("SSH-2.0-nonsense\r\n".into()), GET);
    assert_eq!(answer, b"SSH-2.0-nonsense\r\n");
}

#[test]
fn stalls_send_nothing_and_delays_come_late() {
    for (fault, up) in [(Fault::StallBefore, 0), (Fault::StallAfter, 5)] {
        let (answer, error, request) = broken_by(fault, PUT);
        assert_eq!((answer.len(), error, request.bytes_up), (0, Some(ErrorKind::WouldBlock), up));
    }
    let (answer, error, _) = broken_by(Fault::Delay(Duration::from_millis(200)), GET);
    assert!(after_head(&answer).ends_with(&body()) && error.is_none());
    let (answer, error, _) = broken_by(Fault::Trickle(Duration::from_millis(50)), GET);
    assert!(after_head(&answer).ends_with(&body()) && error.is_none());
    let (answer, error, _) = broken_by(Fault::Delay(Duration::from_secs(60)), GET);
    assert_eq!((answer.len(), error), (0, Some(ErrorKind::WouldBlock)));
}

#[test]
fn rules_choose_their_requests() {
    let upstream = upstream();
    let proxy = WireProxy::start(&format!("http://{}", upstream.address()));
    let busy = || Fault::error(503, "SlowDown");
    proxy.inject(Rule::new(busy()).of(RequestKind::Put).containing("/log/").skipping(1).times(2));
    proxy.inject(Rule::new(Fault::error(500, "InternalError")).containing("x=1").always());
    for request in [PUT, GET, PUT, PUT, PUT, GET] {
        ask(&proxy, request);
    }
    let statuses: Vec<_> = proxy.log().into_iter().filter_map(|request| request.status).collect();
    assert_eq!(statuses, [200, 500, 503, 503, 200, 500]);
    proxy.heal();
    ask(&proxy, GET);
    assert_eq!(proxy.log().last().unwrap().status, Some(200));
}

#[test]
fn a_dropped_server_no_longer_answers() {
    let server = S3Server::start();
    let address = server.endpoint().strip_prefix("http://").unwrap().to_owned();
    assert!(Client::connect(&address).is_ok());
    assert!(Remote::of(&server).url.contains(&address));
    drop(server);
    assert!(Client::connect(&address).is_err());
}

/// An upstream that answers every request on one connection after the other, and how many connections it has seen.
fn counting_upstream() -> (Serving, Arc<AtomicUsize>) {
    let connections = Arc::<AtomicUsize>::default();
    let counter = Arc::clone(&connections);
    let serving = Serving::start("upstream", move |mut stream: TcpStream| {
        counter.fetch_add(1, Ordering::Relaxed);
        async move {
            let mut last = [0; 4];
            while let Ok(byte) = stream.read_u8().await {
                last = [last[1], last[2], last[3], byte];
                if last == *b"\r\n\r\n" {
                    // The proxy may be gone.
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
                }
            }
        }
    });
    (serving.unwrap(), connections)
}

#[test]
fn kept_connections_are_used_again() {
    let (upstream, connections) = counting_upstream();
    let url = format!("http://{}", upstream.address());
    let (kept, own) = (WireProxy::keeping_connections(&url), WireProxy::start(&url));
    for _ in 0..3 {
        let (answer, error) = ask(&kept, GET);
        assert!(answer.ends_with(b"hello") && error.is_none(), "{error:?}");
        // The client may have it all before the proxy knows that it has.
        let is_idle = (0..5_000).any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            kept.shared.upstream.is_idle()
        });
        assert!(is_idle);
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
    for _ in 0..3 {
        ask(&own, GET);
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1 + 3);
}
