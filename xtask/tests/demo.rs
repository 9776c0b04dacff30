//! The demo on a remote: it runs, counts its requests, and stores only below a prefix of its own.

use std::process::Command;

use layerpack_tests::{Remote, RequestKind, WireProxy};

#[test]
fn the_demo_runs_on_a_remote_and_says_where_it_stored() {
    let mut remote = Remote::fresh();
    let Some(endpoint) = &remote.endpoint else {
        return xtask::skip("s3_demo", "the remote's URL has no endpoint to put a proxy before");
    };
    let proxy = WireProxy::start(endpoint);
    remote = remote.by(&proxy.endpoint());
    let mut demo = Command::new(env!("CARGO_BIN_EXE_xtask"));
    demo.args(["demo", "--source", "synthetic", "--remote", &remote.url]).envs(remote.environment());
    let run = demo.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{stdout}{stderr}");

    let (place, options) = remote.url.split_once('?').unwrap();
    let below = format!("below {place}/layerpack-demo-");
    assert!(
        stderr.contains(&below) && stdout.contains(&below) && stdout.contains(options),
        "{stdout}{stderr}"
    );
    let log = proxy.log();
    let of_store = |store: &str| {
        let store = format!("/{store}");
        log.iter()
            .filter(|request| request.path.contains(&store) || request.query.contains(&store[1..]))
            .count()
    };
    assert_eq!(of_store("layerpack-demo-"), log.len());
    // The label is two words, then Layerpack's number and that of one object per layer.
    let numbers = |label: &str| -> [usize; 2] {
        let line = stdout.lines().find(|line| line.starts_with(label)).unwrap();
        let numbers: Vec<_> = line.split_whitespace().skip(2).map(|word| word.parse().unwrap()).collect();
        numbers.try_into().unwrap()
    };
    let (backup, restore) = (numbers("backup requests"), numbers("restore requests"));
    let second = stdout.lines().find_map(|line| line.strip_prefix("a second backup: ")?.split(' ').next());
    let second: usize = second.unwrap().parse().unwrap();
    // Each store is also listed, to see what is in it.
    assert_eq!(of_store("store"), backup[0] + second + restore[0] + 1, "{stdout}");
    assert_eq!(of_store("one-object-per-layer"), backup[1] + restore[1] + 1, "{stdout}");
    assert!(
        log.iter().all(|request| request.kind != RequestKind::Head && request.kind != RequestKind::Other)
    );
}
