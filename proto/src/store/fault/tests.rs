use super::super::folder::FolderStore;
use super::super::{Access, conformance, list_all};
use super::*;

fn key(text: &str) -> Key {
    Key::new(text)
}

fn body(text: &'static str) -> Body {
    Body::Bytes(text.into())
}

async fn faulty(seed: u64) -> (tempfile::TempDir, Arc<FaultStore>, Faults) {
    let dir = tempfile::tempdir().unwrap();
    let inner = FolderStore::open(dir.path().join("archive"), Access::ReadWrite).await.unwrap();
    let (store, faults) = FaultStore::new(Arc::new(inner), seed);
    (dir, store, faults)
}

#[tokio::test]
async fn without_faults_it_does_what_every_store_must() {
    let (dir, store, faults) = faulty(1).await;
    let store: Arc<dyn Store> = store;
    conformance::all(&store, dir.path()).await;
    assert_eq!(faults.fired_in_all(), 0);
    assert!(faults.calls(Op::Put) > 1000);
}

#[tokio::test]
async fn a_lost_answer_leaves_the_object_and_a_failure_before_leaves_none() {
    let (_dir, store, faults) = faulty(1).await;
    faults.script(Rule::once(Op::Put, Fault::FailBefore(Class::Retry)).on("a"));
    faults.script(Rule::once(Op::Put, Fault::FailAfter(Class::Retry)).on("b"));
    for name in ["a", "b"] {
        let error = store.put(&key(name), &body("x")).await.unwrap_err();
        assert_eq!(error.class(), Class::Retry);
    }
    assert_eq!(store.put(&key("a"), &body("x")).await.unwrap(), Put::Created);
    assert_eq!(store.put(&key("b"), &body("x")).await.unwrap(), Put::Exists);
    assert_eq!((faults.fired(Kind::FailBefore), faults.fired(Kind::FailAfter)), (1, 1));
}

#[tokio::test]
async fn rules_skip_and_repeat_as_they_say() {
    let (_dir, store, faults) = faulty(1).await;
    store.put(&key("a"), &body("x")).await.unwrap();
    let rule = Rule::once(Op::Head, Fault::FailBefore(Class::Config)).after(1).times(2);
    faults.script(rule);
    let mut failed = Vec::new();
    for _ in 0..5 {
        failed.push(store.head(&key("a")).await.is_err());
    }
    assert_eq!(failed, [false, true, true, false, false]);
}

#[tokio::test]
async fn reads_come_short_flipped_or_not_at_all() {
    let (_dir, store, faults) = faulty(3).await;
    store.put(&key("a"), &body("0123456789")).await.unwrap();
    store.put(&key("b"), &body("0123456789")).await.unwrap();
    let get = async || store.get(&key("a"), Range::All).await;
    faults.script(Rule::once(Op::Get, Fault::Short));
    assert!(get().await.unwrap().len() < 10);
    faults.script(Rule::once(Op::Get, Fault::Flip));
    let flipped = get().await.unwrap();
    let bits: u32 = flipped.iter().zip(b"0123456789").map(|(a, b)| (a ^ b).count_ones()).sum();
    assert_eq!((flipped.len(), bits), (10, 1));
    faults.script(Rule::once(Op::Get, Fault::Omit));
    assert!(get().await.unwrap_err().is_absent());
    faults.script(Rule::once(Op::List, Fault::HideNewest(1)));
    assert_eq!(list_all(&*store, "").await.unwrap().len(), 1);
    assert_eq!(list_all(&*store, "").await.unwrap().len(), 2);
    assert_eq!(get().await.unwrap(), "0123456789");
    assert_eq!(faults.fired_in_all(), 4);
}

#[tokio::test]
async fn away_fails_everything_until_it_is_back() {
    let (_dir, store, faults) = faulty(1).await;
    faults.set_away(true);
    for class in [
        store.put(&key("a"), &body("x")).await.unwrap_err().class(),
        store.get(&key("a"), Range::All).await.unwrap_err().class(),
        store.head(&key("a")).await.unwrap_err().class(),
        store.list("", None).await.unwrap_err().class(),
        store.folders("").await.unwrap_err().class(),
        store.delete(&key("a")).await.unwrap_err().class(),
    ] {
        assert_eq!(class, Class::Retry);
    }
    faults.heal();
    assert_eq!(store.head(&key("a")).await.unwrap(), None);
    assert_eq!(faults.fired(Kind::Away), 6);
}

#[tokio::test]
async fn the_same_seed_gives_the_same_faults() {
    let run = async |seed| {
        let (_dir, store, faults) = faulty(seed).await;
        faults.set_chances(vec![
            (0.2, Fault::FailBefore(Class::Retry)),
            (0.2, Fault::FailAfter(Class::Retry)),
        ]);
        let mut failed = Vec::new();
        for n in 0..40 {
            failed.push(store.put(&key(&format!("k{n}")), &body("x")).await.is_err());
        }
        assert!(faults.fired(Kind::FailBefore) > 0 && faults.fired(Kind::FailAfter) > 0);
        failed
    };
    assert_eq!(run(7).await, run(7).await);
    assert_ne!(run(7).await, run(8).await);
}
