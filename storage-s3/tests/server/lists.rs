//! Lists of a server that goes directory by directory, with neighbours of directories wherever they can be.

use layerpack_tests::{Quirk, RequestKind, S3Server};
use storage_api::{Body, KeyPrefix, ListRequest, MemoryStore, ObjectStore, PutMode};

use crate::{Scene, key};

/// Names of directories, and of what stands between them and their blocks in byte order.
const COMPONENTS: [&str; 4] = ["a", "a-", "a-b", "a0"];

fn keys() -> Vec<String> {
    let mut keys = Vec::new();
    for first in COMPONENTS {
        keys.push(first.to_owned() + ".");
        for second in COMPONENTS {
            keys.push(format!("{first}/{second}"));
            keys.push(format!("{first}/{second}./{second}"));
        }
    }
    keys
}

/// The objects and common prefixes of all pages.
async fn all(store: &dyn ObjectStore, mut request: ListRequest) -> Vec<(Vec<String>, Vec<String>)> {
    let mut pages: Vec<(Vec<String>, Vec<String>)> = Vec::new();
    loop {
        let page = store.list(&request).await.unwrap();
        let objects = page.objects.iter().map(|object| object.key.to_string()).collect();
        let prefixes = page.common_prefixes.iter().map(ToString::to_string).collect();
        pages.push((objects, prefixes));
        assert!(pages.len() < 100, "the list does not end");
        match page.next {
            Some(next) => request.start_after = Some(next),
            None => break,
        }
    }
    // A last page may be empty.
    if pages.len() > 1
        && pages.last().is_some_and(|(objects, prefixes)| objects.is_empty() && prefixes.is_empty())
    {
        pages.pop();
    }
    pages
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_of_every_size_is_that_of_a_sorted_map() {
    let scene = Scene::on(S3Server::with_quirk(Quirk::ListsByDirectory), &[]).await;
    let expected = MemoryStore::new();
    for name in keys() {
        for store in [&scene.store as &dyn ObjectStore, &expected] {
            store.put(&key(&name), Body::new("x"), PutMode::Create).await.unwrap();
        }
    }
    let starts = ["a", "a-", "a-/a", "a-b", "a/a-b", "a/a-b./a", "a0/", "a-b/a-", "b"].map(Some);
    for prefix in ["", "a/", "a-b/"] {
        for rolled_up in [false, true] {
            for start in starts.into_iter().chain([None]) {
                for max_keys in [1, 2, 3, 7, 1000] {
                    let request = ListRequest {
                        prefix: KeyPrefix::new(prefix).unwrap(),
                        start_after: start.map(str::to_owned),
                        rolled_up,
                        max_keys: Some(max_keys),
                    };
                    let found = all(&scene.store, request.clone()).await;
                    assert_eq!(found, all(&expected, request.clone()).await, "{request:?}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeline_costs_few_requests_more() {
    let scene = Scene::on(S3Server::with_quirk(Quirk::ListsByDirectory), &[]).await;
    for seq in 0..30 {
        for name in [format!("t/log/{seq:016x}.tar.zst"), format!("t/payload/0001-ab-{seq}.tar.zst")] {
            scene.store.put(&key(&name), Body::new("x"), PutMode::Create).await.unwrap();
        }
    }
    let requests = async |prefix: &str, max_keys| {
        let prefix = KeyPrefix::new(prefix).unwrap();
        let before = scene.proxy.counts().list;
        let pages =
            all(&scene.store, ListRequest { prefix, max_keys: Some(max_keys), ..Default::default() }).await;
        assert!(scene.proxy.log().iter().all(|request| request.kind != RequestKind::Other));
        (pages.len(), scene.proxy.counts().list - before)
    };
    assert_eq!(requests("t/", 1000).await, (1, 1));
    assert_eq!(requests("t/log/", 1000).await, (1, 1));
    // A page after the first asks for the two low bytes of the last key, for its end, and for itself.
    assert_eq!(requests("t/log/", 10).await, (3, 1 + 2 * 4));
    // The first page ends in a directory, the others in one that they began in or in the second.
    let (pages, lists) = requests("t/", 10).await;
    assert!(pages == 6 && lists <= 6 * 7, "{lists} requests for {pages} pages");
}
