//! What every store must do, as functions that any store's tests run.
//!
//! Enters: an empty store (or an empty prefix of one) and a scratch folder. Leaves: nothing, or a
//! panic that says what the store did instead.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};

use super::{Body, Class, Key, Put, Range, Store, list_after, list_all};

type Shared = Arc<dyn Store>;

/// Every check, each under keys of its own.
///
/// # Panics
/// When the store breaks a rule.
pub async fn all(store: &Shared, scratch: &Path) {
    nothing_is_there_at_first(store).await;
    an_object_is_created_once_and_never_replaced(store).await;
    of_racing_puts_one_wins_and_its_bytes_stay(store).await;
    a_file_is_put_whole(store, scratch).await;
    ranges_are_what_was_asked_for(store).await;
    an_empty_object_is_an_object(store).await;
    a_large_object_comes_back_equal(store).await;
    odd_but_legal_keys_work(store).await;
    listings_follow_key_bytes_across_depth(store).await;
    listings_are_paged_and_continue_after_a_key(store).await;
    folders_are_names_with_something_below(store).await;
    a_deleted_object_is_absent_and_its_key_is_free(store).await;
}

fn key(text: &str) -> Key {
    Key::new(text)
}

fn body(bytes: &[u8]) -> Body {
    Body::Bytes(Bytes::copy_from_slice(bytes))
}

/// Bytes that do not repeat within a page and do not compress.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    use rand::{RngCore, SeedableRng};
    let mut bytes = vec![0; len];
    rand::rngs::StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

async fn put(store: &Shared, name: &str, bytes: &[u8]) -> Put {
    store.put(&key(name), &body(bytes)).await.expect("a put succeeds")
}

async fn get(store: &Shared, name: &str, range: Range) -> Bytes {
    store.get(&key(name), range).await.expect("a get succeeds")
}

async fn keys(store: &Shared, prefix: &str, after: Option<&str>) -> Vec<String> {
    let found = list_after(&**store, prefix, after).await.expect("a listing succeeds");
    found.iter().map(|object| object.key.to_string()).collect()
}

pub async fn nothing_is_there_at_first(store: &Shared) {
    assert_eq!(list_all(&**store, "").await.expect("an empty store can be listed"), []);
    assert_eq!(store.folders("").await.expect("its folders too"), Vec::<String>::new());
    assert_eq!(store.head(&key("none/such")).await.expect("head of nothing"), None);
    for range in [Range::All, Range::At { offset: 0, len: 0 }, Range::Last(5), Range::Last(0)] {
        let error = store.get(&key("none/such"), range).await.expect_err("there is nothing");
        assert_eq!(error.class(), Class::Absent, "{range:?}: {error}");
    }
    store.delete(&key("none/such")).await.expect("deleting nothing is no error");
}

pub async fn an_object_is_created_once_and_never_replaced(store: &Shared) {
    assert_eq!(put(store, "once/a", b"first").await, Put::Created);
    assert_eq!(put(store, "once/a", b"first").await, Put::Exists);
    assert_eq!(put(store, "once/a", b"another").await, Put::Exists);
    assert_eq!(get(store, "once/a", Range::All).await, "first");
    assert_eq!(store.head(&key("once/a")).await.expect("head"), Some(5));
}

pub async fn of_racing_puts_one_wins_and_its_bytes_stay(store: &Shared) {
    for round in 0..3u64 {
        let name = format!("race/{round}");
        let writers = (0..16u64).map(|writer| {
            let (store, name) = (store.clone(), name.clone());
            tokio::spawn(async move {
                let bytes = noise(64 << 10, round * 16 + writer);
                loop {
                    match store.put(&key(&name), &body(&bytes)).await {
                        Ok(done) => return (done, bytes),
                        // A store may answer a race with "conflict, ask again".
                        Err(error) => assert_eq!(error.class(), Class::Retry, "{error}"),
                    }
                }
            })
        });
        let done = join_all(writers).await;
        let won: Vec<Vec<u8>> = done
            .into_iter()
            .map(|writer| writer.expect("no writer panics"))
            .filter(|(put, _)| *put == Put::Created)
            .map(|(_, bytes)| bytes)
            .collect();
        assert_eq!(won.len(), 1, "one winner in round {round}");
        assert!(get(store, &name, Range::All).await == won[0], "the winner's bytes stay");
    }
}

pub async fn a_file_is_put_whole(store: &Shared, scratch: &Path) {
    let path = scratch.join("body");
    let bytes = noise((1 << 20) + 17, 7);
    std::fs::write(&path, &bytes).expect("the scratch folder is writable");
    let from_file = Body::File { path: path.clone(), len: bytes.len() as u64 };
    assert_eq!(store.put(&key("file/a"), &from_file).await.expect("put"), Put::Created);
    assert_eq!(store.put(&key("file/a"), &from_file).await.expect("put"), Put::Exists);
    assert!(get(store, "file/a", Range::All).await == bytes);

    // The file's own name is not needed any more, and a length that is not the file's is refused.
    let wrong = Body::File { path: path.clone(), len: bytes.len() as u64 + 1 };
    store.put(&key("file/b"), &wrong).await.expect_err("the file is shorter than it should be");
    std::fs::remove_file(&path).expect("remove");
    assert!(get(store, "file/a", Range::All).await == bytes);
    store.put(&key("file/b"), &from_file).await.expect_err("the file is gone");
    assert_eq!(store.head(&key("file/b")).await.expect("head"), None);
}

pub async fn ranges_are_what_was_asked_for(store: &Shared) {
    put(store, "range/a", b"0123456789").await;
    let cases = [
        (Range::All, "0123456789"),
        (Range::At { offset: 0, len: 4 }, "0123"),
        (Range::At { offset: 3, len: 4 }, "3456"),
        (Range::At { offset: 8, len: 4 }, "89"),
        (Range::At { offset: 0, len: u64::MAX }, "0123456789"),
        (Range::At { offset: 9, len: u64::MAX }, "9"),
        (Range::At { offset: 5, len: 0 }, ""),
        (Range::At { offset: 10, len: 1 }, ""),
        (Range::At { offset: 1 << 40, len: 1 }, ""),
        (Range::Last(3), "789"),
        (Range::Last(10), "0123456789"),
        (Range::Last(11), "0123456789"),
        (Range::Last(u64::MAX), "0123456789"),
        (Range::Last(0), ""),
    ];
    for (range, expected) in cases {
        assert_eq!(get(store, "range/a", range).await, expected, "{range:?}");
    }
}

pub async fn an_empty_object_is_an_object(store: &Shared) {
    assert_eq!(put(store, "empty/a", b"").await, Put::Created);
    assert_eq!(put(store, "empty/a", b"x").await, Put::Exists);
    assert_eq!(store.head(&key("empty/a")).await.expect("head"), Some(0));
    for range in [Range::All, Range::At { offset: 0, len: 9 }, Range::Last(9)] {
        assert_eq!(get(store, "empty/a", range).await, "", "{range:?}");
    }
    assert_eq!(keys(store, "empty/", None).await, ["empty/a"]);
}

pub async fn a_large_object_comes_back_equal(store: &Shared) {
    let bytes = noise(8 << 20, 8);
    assert_eq!(put(store, "large/a", &bytes).await, Put::Created);
    assert!(get(store, "large/a", Range::All).await == bytes);
    let piece = get(store, "large/a", Range::At { offset: (5 << 20) - 3, len: 1 << 20 }).await;
    assert!(piece == bytes[(5 << 20) - 3..][..1 << 20]);
}

pub async fn odd_but_legal_keys_work(store: &Shared) {
    let long = format!("odd/{}", "x".repeat(200));
    let odd = [
        "odd/a b",
        "odd/a+b",
        "odd/a%20b",
        "odd/a&b=c?d#e",
        "odd/.hidden",
        "odd/...",
        "odd/.tmp/a",
        "odd/é/日本",
        "odd/'\"<>",
        "odd/~tilde!*()@:,;$",
        long.as_str(),
    ];
    for name in odd {
        assert_eq!(put(store, name, name.as_bytes()).await, Put::Created, "{name}");
        assert_eq!(put(store, name, b"").await, Put::Exists, "{name}");
    }
    for name in odd {
        assert_eq!(get(store, name, Range::All).await, name, "{name}");
        assert_eq!(keys(store, name, None).await, [name]);
    }
    let expected: BTreeSet<String> = odd.iter().map(ToString::to_string).collect();
    assert_eq!(keys(store, "odd/", None).await, expected.into_iter().collect::<Vec<_>>());
}

pub async fn listings_follow_key_bytes_across_depth(store: &Shared) {
    // In the order of their bytes: '-' < '.' < '/' < '0' < 'A' < 'a'.
    let sorted = [
        "deep/A/z",
        "deep/a-b",
        "deep/a-b2/x",
        "deep/a.b",
        "deep/a/b",
        "deep/a/b.c/d",
        "deep/a/b0",
        "deep/a/c/d/e",
        "deep/a0",
        "deep/b",
        "deep2/a",
    ];
    for name in sorted.iter().rev() {
        put(store, name, b".").await;
    }
    assert_eq!(keys(store, "deep", None).await, sorted);
    assert_eq!(keys(store, "deep/", None).await, sorted[..10]);
    assert_eq!(keys(store, "deep/a", None).await, sorted[1..9]);
    assert_eq!(keys(store, "deep/a/", None).await, sorted[4..8]);
    assert_eq!(keys(store, "deep/a/b", None).await, sorted[4..7]);
    assert_eq!(keys(store, "deep/x", None).await, Vec::<String>::new());
    assert_eq!(keys(store, "deep/a/b/", None).await, Vec::<String>::new());
    for (place, name) in sorted.iter().enumerate() {
        assert_eq!(keys(store, "deep", Some(name)).await, sorted[place + 1..], "after {name}");
    }
    // What a listing continues after need not exist, nor lie below the prefix.
    assert_eq!(keys(store, "deep/", Some("deep/a/b.c")).await, sorted[5..10]);
    assert_eq!(keys(store, "deep/", Some("deep/a/b~")).await, sorted[7..10]);
    assert_eq!(keys(store, "deep/a/", Some("a")).await, sorted[4..8]);
    assert_eq!(keys(store, "deep/a/", Some("z")).await, Vec::<String>::new());
}

pub async fn listings_are_paged_and_continue_after_a_key(store: &Shared) {
    let names: Vec<String> = (0..1203).map(|n| format!("many/{}/{n:05}", n / 700)).collect();
    stream::iter(&names)
        .for_each_concurrent(16, |name| async move {
            assert_eq!(put(store, name, name.as_bytes()).await, Put::Created);
        })
        .await;
    let first = store.list("many/", None).await.expect("list");
    assert!(first.more && !first.objects.is_empty());
    assert!(first.objects.len() <= super::LIST_PAGE_MAX);
    assert!(first.objects.iter().all(|o| o.bytes == 12));
    assert_eq!(keys(store, "many/", None).await, names);
    assert_eq!(keys(store, "many/", Some(&names[998])).await, names[999..]);
    let rest = store.list("many/", Some(&names[1199])).await.expect("list");
    assert_eq!((rest.objects.len(), rest.more), (3, false));
}

pub async fn folders_are_names_with_something_below(store: &Shared) {
    for name in ["f/b/1", "f/b/2/3", "f/a/1/2", "f/a.b/1", "f/file", "f/0000000A/x"] {
        put(store, name, b".").await;
    }
    let names = async |folder: &str| store.folders(folder).await.expect("folders");
    assert_eq!(names("f/").await, ["0000000A", "a.b", "a", "b"]);
    assert_eq!(names("f/b/").await, ["2"]);
    assert_eq!(names("f/b/2/").await, Vec::<String>::new());
    assert_eq!(names("f/none/").await, Vec::<String>::new());
    assert!(names("").await.contains(&"f".to_owned()));
}

pub async fn a_deleted_object_is_absent_and_its_key_is_free(store: &Shared) {
    put(store, "gone/a", b"1").await;
    put(store, "gone/b", b"2").await;
    store.delete(&key("gone/a")).await.expect("delete");
    store.delete(&key("gone/a")).await.expect("deleting twice is no error");
    assert_eq!(store.head(&key("gone/a")).await.expect("head"), None);
    assert!(store.get(&key("gone/a"), Range::All).await.expect_err("gone").is_absent());
    assert_eq!(keys(store, "gone/", None).await, ["gone/b"]);
    assert_eq!(put(store, "gone/a", b"3").await, Put::Created);
    assert_eq!(get(store, "gone/a", Range::All).await, "3");
}
