//! Bulk deletes.

use super::subject::{Case, kind};
use crate::{DeleteOutcome, ErrorKind, Key};

fn assert_all_deleted(outcomes: Vec<DeleteOutcome>, mut keys: Vec<Key>) {
    let mut answered = Vec::new();
    for DeleteOutcome { key, result } in outcomes {
        result.unwrap();
        answered.push(key);
    }
    answered.sort();
    keys.sort();
    assert_eq!(answered, keys);
}

pub(super) async fn deleting_a_missing_key_succeeds(case: Case) {
    let keys = vec![case.key("missing"), case.key("also/missing/deeper")];
    for _ in 0..2 {
        assert_all_deleted(case.store.delete(&keys).await.unwrap(), keys.clone());
    }
    assert_all_deleted(case.store.delete(&[]).await.unwrap(), Vec::new());
}

pub(super) async fn a_delete_answers_for_every_key(case: Case) {
    case.fill(&["b", "d/a", "a", "kept"]).await;
    let keys: Vec<_> = ["d/a", "missing", "b", "d/missing", "a"].map(|name| case.key(name)).into();
    assert_all_deleted(case.store.delete(&keys).await.unwrap(), keys);
    for name in ["a", "b", "d/a"] {
        case.assert_absent(name).await;
    }
    assert_eq!(case.names().await, ["kept"]);
}

pub(super) async fn a_delete_takes_as_many_keys_as_announced(case: Case) {
    let most = case.store.capabilities().delete_keys_max;
    let mut keys: Vec<_> = (0..most - 1).map(|n| case.key(&format!("missing-{n:05}"))).collect();
    case.fill(&["object", "other"]).await;
    keys.push(case.key("object"));
    assert_all_deleted(case.store.delete(&keys).await.unwrap(), keys.clone());
    assert_eq!(case.names().await, ["other"]);
    keys.push(case.key("other"));
    assert_eq!(kind(case.store.delete(&keys).await), ErrorKind::Invalid);
    assert_eq!(case.names().await, ["other"], "a refused delete deletes nothing");
}

pub(super) async fn a_delete_leaves_its_neighbours(case: Case) {
    case.fill(&["d/a", "d/ab", "d-a", "d/c/a"]).await;
    case.delete("d/a").await;
    assert_eq!(case.names().await, ["d-a", "d/ab", "d/c/a"]);
    case.delete("d/c/a").await;
    case.delete("d/ab").await;
    assert_eq!(case.names().await, ["d-a"]);
    assert_eq!(case.read("d-a").await, b"d-a");
}
