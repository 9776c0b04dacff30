//! Several processes on one store, and processes that are killed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use storage_api::{
    Body, Clock, Crc32c, GetRange, Key, KeyPrefix, ManualClock, ObjectStore, ObjectStoreExt, PutMode,
    SystemClock,
};
use storage_localfs::LocalStore;
use tempfile::TempDir;

/// Tells this test program, started once more by a test, which directory is its store.
const CHILD_ROOT: &str = "STORAGE_LOCALFS_TEST_ROOT";
/// And its number among its kind.
const CHILD_NUMBER: &str = "STORAGE_LOCALFS_TEST_NUMBER";

const KILLS: u64 = 30;
const OVERWRITTEN: &str = "overwrites/always-the-same";
const RACERS: usize = 4;
const RACES: usize = 300;

fn key(key: &str) -> Key {
    Key::new(key).unwrap()
}

/// Bytes that say which they are: none of another seed or length are like them.
fn bytes_of(seed: u64) -> Vec<u8> {
    let len = 1 + (seed * 7919) % 100_000;
    let mut bytes: Vec<u8> = seed.to_be_bytes().into();
    let mut state = seed;
    for _ in 0..len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.push((state >> 56) as u8);
    }
    bytes
}

fn start(test: &str, root: &Path, number: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD_ROOT, root)
        .env(CHILD_NUMBER, number.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a child says, one word after its first "said ", line by line.
fn said(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.map_while(Result::ok).filter_map(|line| line.split_once("said ").map(|(_, said)| said.to_owned()))
}

fn say(words: &str) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "said {words}").unwrap();
    stdout.flush().unwrap();
}

fn child() -> Option<(LocalStore, u64)> {
    let root = std::env::var_os(CHILD_ROOT)?;
    let number = std::env::var(CHILD_NUMBER).unwrap().parse().unwrap();
    Some((LocalStore::open(Path::new(&root)).unwrap(), number))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_and_nothing_is_torn_by_kill_9() {
    let root = TempDir::new().unwrap();
    let mut acknowledged: HashMap<Key, u64> = HashMap::new();
    let (mut swept, mut count) = (0, 0);
    for round in 0..KILLS {
        let mut putter = start("child_that_puts_until_killed", root.path(), round);
        let lines = said(&mut putter);
        let reader = std::thread::spawn(move || lines.collect::<Vec<_>>());
        // Spread over the round, so that the kills meet every step of a put.
        std::thread::sleep(Duration::from_millis(40 + (round * 37) % 160));
        putter.kill().unwrap();
        putter.wait().unwrap();
        for line in reader.join().unwrap() {
            // The last line may be cut.
            let Some((name, seed)) = line.split_once(' ') else { continue };
            let Ok(seed) = seed.trim_end_matches('.').parse() else { continue };
            if line.ends_with('.') {
                acknowledged.insert(key(name), seed);
            }
        }
        swept += check_after_kill(root.path(), &acknowledged).await;
        count += acknowledged.len();
        // What was overwritten stays for the next round.
        acknowledged.retain(|key, _| key.as_str() == OVERWRITTEN);
    }
    println!("{count} acknowledged, {swept} leftovers swept");
    assert!(count > 50, "only {count} puts were acknowledged");
    assert!(swept > 0, "no put was killed halfway");
}

/// Checks every object, deletes all but one, and returns how many leftovers were swept.
async fn check_after_kill(root: &Path, acknowledged: &HashMap<Key, u64>) -> u64 {
    let clock = ManualClock::new(SystemClock.now() + Duration::from_secs(7200));
    let store = LocalStore::open(root).unwrap().with_clock(Arc::new(clock));
    let mut present = HashMap::new();
    for object in store.list_all(&KeyPrefix::root()).await.unwrap() {
        let (_, bytes) = store.get_bytes(&object.key, GetRange::Full, 1 << 20).await.unwrap();
        let seed = u64::from_be_bytes(*bytes.first_chunk().unwrap());
        assert!(bytes == bytes_of(seed), "{} is torn: {} bytes", object.key, bytes.len());
        present.insert(object.key, seed);
    }
    for (key, seed) in acknowledged {
        // An overwrite that was not acknowledged may have happened too.
        let found = present.get(key);
        assert!(found >= Some(seed), "{key} was acknowledged with {seed}, and what is there is {found:?}");
    }
    let swept = store.sweep_stale(Duration::from_secs(3600)).await.unwrap();
    assert_eq!(stage_files(root), Vec::<String>::new());
    let deleted: Vec<_> = present.into_keys().filter(|key| key.as_str() != OVERWRITTEN).collect();
    for keys in deleted.chunks(store.capabilities().delete_keys_max) {
        assert!(store.delete(keys).await.unwrap().iter().all(|outcome| outcome.result.is_ok()));
    }
    swept
}

fn stage_files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(stage_files(&entry.path()));
        } else if name.starts_with(".layerpack-") {
            found.push(name);
        }
    }
    found
}

/// Runs only in processes that the test above starts and kills.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_puts_until_killed() {
    let Some((store, round)) = child() else { return };
    let store = Arc::new(store);
    let tasks: Vec<_> = (0..4u64)
        .map(|task| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                // Bounded, should nobody kill it.
                for n in 0..10_000u64 {
                    let seed = round * 100_000 + n * 4 + task;
                    let name = match task {
                        0 => format!("new-dir-{seed}/deep/object"),
                        1 => format!("creates/{seed}"),
                        2 => OVERWRITTEN.to_owned(),
                        _ => format!("multipart/{}", n % 3),
                    };
                    put(&store, &key(&name), seed, task).await;
                    say(&format!("{name} {seed}."));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

async fn put(store: &LocalStore, key: &Key, seed: u64, task: u64) {
    let bytes = bytes_of(seed);
    match task {
        0 | 1 => drop(store.put(key, Body::new(bytes), PutMode::Create).await.unwrap()),
        2 => drop(store.put(key, Body::new(bytes), PutMode::Overwrite).await.unwrap()),
        _ => {
            let upload = store.multipart_create(key).await.unwrap();
            let (first, second) = bytes.split_at(bytes.len() / 2);
            let parts = [
                store.multipart_put(key, &upload, 1, Body::new(first.to_vec())).await.unwrap(),
                store.multipart_put(key, &upload, 2, Body::new(second.to_vec())).await.unwrap(),
            ];
            store.multipart_complete(key, &upload, &parts, Crc32c::of(&bytes)).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_racing_processes_exactly_one_creates() {
    let root = TempDir::new().unwrap();
    let mut racers: Vec<_> = (0..RACERS as u64).map(|n| start("child_that_races", root.path(), n)).collect();
    let mut lines: Vec<_> = racers.iter_mut().map(said).collect();
    for lines in &mut lines {
        assert_eq!(lines.next().as_deref(), Some("ready"));
    }
    // Closing their input starts them.
    drop(racers.iter_mut().map(|racer| racer.stdin.take().unwrap()).collect::<Vec<ChildStdin>>());
    let mut winners: HashMap<usize, Vec<usize>> = HashMap::new();
    for (number, lines) in lines.into_iter().enumerate() {
        for line in lines {
            winners.entry(line.strip_prefix("won ").unwrap().parse().unwrap()).or_default().push(number);
        }
    }
    for mut racer in racers {
        assert!(racer.wait().unwrap().success());
    }
    let store = LocalStore::open(root.path()).unwrap();
    for race in 0..RACES {
        let winner = &winners[&race];
        assert_eq!(winner.len(), 1, "race {race} was won by {winner:?}");
        let (_, bytes) = store.get_bytes(&race_key(race), GetRange::Full, 1 << 20).await.unwrap();
        assert!(bytes == bytes_of(winner[0] as u64), "the object of race {race} is not its winner's");
    }
    let wins: Vec<_> =
        (0..RACERS).map(|n| winners.values().filter(|winner| winner[0] == n).count()).collect();
    println!("wins: {wins:?}");
    assert!(wins.iter().filter(|wins| **wins > 0).count() > 1, "nobody raced: {wins:?}");
}

fn race_key(race: usize) -> Key {
    key(&format!("races/{race}/object"))
}

/// Runs only in processes that the test above starts.
#[tokio::test]
async fn child_that_races() {
    let Some((store, number)) = child() else { return };
    say("ready");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    for race in 0..RACES {
        match store.put(&race_key(race), Body::new(bytes_of(number)), PutMode::Create).await {
            Ok(_) => {
                say(&format!("won {race}"));
                // Who has won steps back: one that came first would run through all races alone.
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => assert!(error.is_already_exists(), "{error:?}"),
        }
    }
}
