//! A network that cuts, hangs, flips and swallows.

use proto::store::retry::{Backoff, Policy, retrying};
use proto::store::{Class, conformance};
use tests::tcp_proxy::{Behaviour, TcpProxy};

use super::*;

async fn through(proxy: &TcpProxy, prefix: &str) -> Result<Arc<dyn Store>> {
    let address = Seaweed::shared()?.url_via(proxy.port(), BUCKET, prefix);
    open_as(&address, Identity::Writer).await
}

#[tokio::test]
async fn nobody_at_the_port_is_worth_asking_again() -> Result<()> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let address = Seaweed::shared()?.url_via(port, BUCKET, "nobody");
    let store = open_as(&address, Identity::Writer).await?;
    let error = store.put(&key("a"), &body("x")).await.expect_err("nobody answers");
    assert_eq!(error.class(), Class::Retry);
    assert!(error.to_string().contains("refused"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_put_whose_answer_was_lost_is_found_done() -> Result<()> {
    let proxy = TcpProxy::start(Seaweed::shared()?.port())?;
    let store = through(&proxy, "swallowed").await?;
    proxy.set(Behaviour::SwallowAnswer);
    let error = store.put(&key("a"), &body("x")).await.expect_err("the answer was lost");
    assert_eq!(error.class(), Class::Retry, "{error}");
    assert!(proxy.faults() > 0);
    proxy.set(Behaviour::Pass);
    assert_eq!(store.put(&key("a"), &body("x")).await?, Put::Exists);
    assert_eq!(store.get(&key("a"), Range::All).await?, "x");
    Ok(())
}

#[tokio::test]
async fn a_put_that_was_cut_leaves_nothing_and_is_sent_whole_again() -> Result<()> {
    let proxy = TcpProxy::start(Seaweed::shared()?.port())?;
    let store = through(&proxy, "cut").await?;
    let scratch = tempfile::tempdir()?;
    let bytes = conformance::noise(4 << 20, 1);
    let path = scratch.path().join("body");
    std::fs::write(&path, &bytes)?;
    for (name, body) in [
        ("bytes", Body::from(bytes.clone())),
        ("file", Body::File { path, len: bytes.len() as u64 }),
    ] {
        proxy.set(Behaviour::CutAfterUp(1 << 20));
        let before = proxy.faults();
        let error = store.put(&key(name), &body).await.expect_err("cut");
        assert_eq!(error.class(), Class::Retry, "{error}");
        assert!(proxy.faults() > before);
        proxy.set(Behaviour::Pass);
        assert_eq!(store.head(&key(name)).await?, None, "no short object");
        assert_eq!(store.put(&key(name), &body).await?, Put::Created);
        assert!(store.get(&key(name), Range::All).await? == bytes);
    }
    Ok(())
}

#[tokio::test]
async fn a_bit_that_flips_on_the_way_up_is_refused() -> Result<()> {
    let proxy = TcpProxy::start(Seaweed::shared()?.port())?;
    let store = through(&proxy, "flip-up").await?;
    let scratch = tempfile::tempdir()?;
    let bytes = conformance::noise(1 << 20, 2);
    let path = scratch.path().join("body");
    std::fs::write(&path, &bytes)?;
    // A body from a file is not hashed into the signature: only its checksum stands for it.
    let body = Body::File { path, len: bytes.len() as u64 };
    proxy.set(Behaviour::FlipUp(500_000));
    let error = store.put(&key("a"), &body).await.expect_err("flipped");
    assert_eq!(error.class(), Class::Retry, "{error}");
    assert!(proxy.faults() > 0);
    proxy.set(Behaviour::Pass);
    assert_eq!(store.put(&key("a"), &body).await?, Put::Created);
    assert!(store.get(&key("a"), Range::All).await? == bytes);
    Ok(())
}

#[tokio::test]
async fn a_body_that_breaks_off_or_flips_on_the_way_down_is_never_handed_on() -> Result<()> {
    let proxy = TcpProxy::start(Seaweed::shared()?.port())?;
    let store = through(&proxy, "down").await?;
    let bytes = conformance::noise(4 << 20, 3);
    store.put(&key("a"), &Body::from(bytes.clone())).await?;

    proxy.set(Behaviour::CutAfterDown(1 << 20));
    for range in [Range::All, Range::At { offset: 9, len: 3 << 20 }] {
        let failed = store.get(&key("a"), range).await.map(|bytes| bytes.len());
        assert_eq!(failed.expect_err("cut").class(), Class::Retry);
    }

    proxy.set(Behaviour::Cut);
    assert_eq!(store.head(&key("a")).await.expect_err("cut").class(), Class::Retry);
    // Once a connection: the store reads again by itself.
    let before = proxy.faults();
    proxy.set(Behaviour::FlipDown(1 << 20));
    assert!(store.get(&key("a"), Range::All).await? == bytes);
    assert!(proxy.faults() > before);

    proxy.set(Behaviour::Pass);
    assert!(store.get(&key("a"), Range::All).await? == bytes);
    Ok(())
}

#[tokio::test]
async fn a_store_that_comes_back_is_used_again() -> Result<()> {
    let proxy = TcpProxy::start(Seaweed::shared()?.port())?;
    let store = through(&proxy, "back").await?;
    proxy.set(Behaviour::Cut);
    let mut failures = 0;
    let put = retrying(
        Policy::Forever,
        &mut Backoff::seeded(1),
        async || store.put(&key("a"), &body("x")).await,
        |_, _| {
            failures += 1;
            if failures == 3 {
                proxy.set(Behaviour::Pass);
            }
        },
    )
    .await?;
    assert_eq!((put, failures), (Put::Created, 3));
    Ok(())
}

#[tokio::test]
async fn silence_ends_at_the_deadline() -> Result<()> {
    let proxy = TcpProxy::start(Seaweed::shared()?.port())?;
    let store = through(&proxy, "silence").await?;
    store.put(&key("a"), &body("x")).await?;
    proxy.set(Behaviour::Blackhole);
    // No byte comes, so only timers can end the call: let them run ahead.
    tokio::time::pause();
    let answer = store.get(&key("a"), Range::All).await.map(|bytes| bytes.len());
    let error = answer.expect_err("silence");
    assert_eq!(error.class(), Class::Retry, "{error}");
    Ok(())
}
