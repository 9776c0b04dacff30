//! What racing callers may see.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::Barrier;

use super::subject::{Case, noise};
use crate::{ErrorKind, GetRange, ObjectStoreExt};

const CREATORS: usize = 64;

pub(super) async fn of_racing_creates_exactly_one_wins(case: Case) {
    let start = Arc::new(Barrier::new(CREATORS));
    let tasks = (0..CREATORS).map(|creator| {
        let (case, start) = (case.clone(), Arc::clone(&start));
        tokio::spawn(async move {
            start.wait().await;
            case.create("deep/down/object", &creators_bytes(creator)).await
        })
    });
    let results: Vec<_> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
    let winners: Vec<_> = (0..CREATORS).filter(|creator| results[*creator].is_ok()).collect();
    assert_eq!(winners.len(), 1, "the creators {winners:?} won");
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error:?}");
    }
    assert!(
        case.read("deep/down/object").await == creators_bytes(winners[0]),
        "the object is not the winner's"
    );
}

/// Bytes of a length of their own, so that a mixture of two is seen.
fn creators_bytes(creator: usize) -> Vec<u8> {
    noise(creator as u64, 20_000 + creator)
}

pub(super) async fn readers_of_an_overwritten_key_see_whole_objects(case: Case) {
    const ROUNDS: u8 = 40;
    case.overwrite("object", &uniform(0)).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (case, done) = (case.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                loop {
                    let bytes = case.read("object").await;
                    assert!(bytes == uniform(bytes[0]), "{} bytes are of more than one object", bytes.len());
                    assert_eq!(case.names().await, ["object"]);
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                }
            })
        })
        .collect();
    for round in 1..=ROUNDS {
        case.overwrite("object", &uniform(round)).await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    for reader in join_all(readers).await {
        reader.unwrap();
    }
    assert!(case.read("object").await == uniform(ROUNDS));
}

/// Equal bytes, as many as only they have.
fn uniform(byte: u8) -> Vec<u8> {
    vec![byte; 200_000 + 1_000 * usize::from(byte % 7)]
}

pub(super) async fn a_read_that_is_overwritten_is_not_mixed(case: Case) {
    let (old, new) = (noise(1, 4 << 20), noise(2, 4 << 20));
    for is_deleted in [false, true] {
        case.overwrite("object", &old).await.unwrap();
        let mut response = case.store.get(&case.key("object"), GetRange::Full).await.unwrap();
        let first = response.stream.next().await.unwrap().unwrap();
        if is_deleted {
            case.delete("object").await;
        } else {
            case.overwrite("object", &new).await.unwrap();
        }
        // A store may break the answer off; what it must not do is to go on with other bytes.
        if let Ok(rest) = response.stream.try_collect::<Vec<_>>().await {
            let read = [&[first][..], &rest].concat().concat();
            assert!(read == old, "{} bytes that are not the old object's", read.len());
        }
    }
}

pub(super) async fn creates_survive_deletes_of_their_neighbours(case: Case) {
    const NEIGHBOURS: usize = 8;
    const ROUNDS: usize = 10;
    let tasks = (0..NEIGHBOURS).map(|neighbour| {
        let case = case.clone();
        tokio::spawn(async move {
            let name = format!("deep/down/{neighbour}");
            for round in 0..ROUNDS {
                case.create(&name, &noise(round as u64, 100)).await.unwrap();
                assert_eq!(case.read(&name).await, noise(round as u64, 100));
                case.delete(&name).await;
            }
        })
    });
    for task in join_all(tasks).await {
        task.unwrap();
    }
    assert!(case.store.list_all(&case.prefix("")).await.unwrap().is_empty());
}
