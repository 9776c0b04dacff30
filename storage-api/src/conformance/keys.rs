//! Keys that stores have been known to mangle.

use super::subject::Case;
use crate::Key;

/// Writes, reads, copies, lists and deletes each of `names`, all at once in the store.
async fn round_trip(case: &Case, names: &[String]) {
    for name in names {
        case.create(name, name.as_bytes()).await.unwrap();
        case.store.copy(&case.key(name), &case.key("copy")).await.unwrap();
        assert_eq!(case.read("copy").await, name.as_bytes(), "copy of {name:?}");
        case.delete("copy").await;
    }
    let mut sorted = names.to_vec();
    sorted.sort();
    assert_eq!(case.names().await, sorted);
    for name in names {
        assert_eq!(case.read(name).await, name.as_bytes(), "{name:?}");
        assert_eq!(case.store.head(&case.key(name)).await.unwrap().key, case.key(name));
        case.delete(name).await;
        case.assert_absent(name).await;
    }
    assert!(case.names().await.is_empty());
}

pub(super) async fn odd_characters_make_the_round_trip(case: Case) {
    let odd = [
        "a b",
        " ",
        "a ",
        "a+b",
        "a%b",
        "%2F",
        "%00",
        "a#b",
        "a?b=c&d",
        "a;b",
        "a:b",
        "a=b",
        "a@b",
        "a,b",
        "a$b",
        "a'b",
        "a\"b",
        "a<b>",
        "a|b",
        "a*b",
        "[a]",
        "{a}",
        "(a)",
        "a^b",
        "a~b",
        "`a`",
        "!",
        "-rf",
        "...",
        ".hidden",
        "a.",
        "ä",
        "日本語",
        "🐘",
    ];
    let names: Vec<_> = odd.iter().flat_map(|odd| [(*odd).to_owned(), format!("dir {odd}/{odd}")]).collect();
    round_trip(&case, &names).await;
}

pub(super) async fn keys_that_look_alike_are_different(case: Case) {
    let alike = ["a/b", "a%2Fb", "a%2fb", "A/b", "x y", "x+y", "x%20y", "\u{e9}", "e\u{301}", "E\u{301}"];
    round_trip(&case, &alike.map(str::to_owned)).await;
}

pub(super) async fn a_backslash_is_no_separator(case: Case) {
    // Alone, and beside the key that it is taken for.
    round_trip(&case, &["a\\b".to_owned(), "dir a\\b/a\\b".to_owned()]).await;
    round_trip(&case, &["a/b".to_owned(), "a\\b".to_owned()]).await;
}

pub(super) async fn long_keys_make_the_round_trip(case: Case) {
    let component = "x".repeat(Key::COMPONENT_LEN_MAX);
    let umlauts = "ü".repeat(Key::COMPONENT_LEN_MAX / 2);
    let mut longest = String::new();
    let room = case.key_bytes_max - case.prefix("").as_str().len();
    while longest.len() + component.len() < room {
        longest.push_str(&component);
        longest.push('/');
    }
    longest.push_str(&"y".repeat(room - longest.len()));
    assert_eq!(case.key(&longest).as_str().len(), case.key_bytes_max);
    round_trip(&case, &[format!("one/{component}"), umlauts, longest]).await;
}
