//! What cannot be captured is refused, each with its own words.

use anyhow::Result;
use archiver::source::mongodb::capture::{CaptureError, Continue};
use archiver::source::mongodb::{Class, ConnectOptions, Error, preflight, start};
use proto::position::Offset;
use tests::mongod::ReplicaSet;

use crate::common::Follower;

async fn refusal(url: &str) -> Result<Error> {
    let options = ConnectOptions::parse(url).await?;
    match preflight::connect(&options).await {
        Ok(found) => anyhow::bail!("it was let in: {:?}", found.facts),
        Err(error) => Ok(error),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_of_no_set_and_one_of_another_are_refused() -> Result<()> {
    let standalone = ReplicaSet::builder(1).standalone()?;
    let error = refusal(&standalone.url()).await?;
    assert!(matches!(error, Error::Standalone { .. }), "{error:?}");
    assert_eq!(error.class(), Class::Unsupported);
    let set = ReplicaSet::single()?;
    let error = refusal(&format!("mongodb://{}/?replicaSet=other", set.nodes()[0].host())).await?;
    assert!(matches!(error, Error::WrongSetName { .. }), "{error:?}");
    let other = ReplicaSet::single()?;
    let of = |url: String| async move {
        let options = ConnectOptions::parse(&url).await?;
        let found = preflight::connect(&options).await?;
        let first = start::first_entry(&found.member).await?;
        anyhow::Ok((options, found.facts, first))
    };
    let (_, facts, _) = of(set.url()).await?;
    let (options, others, first) = of(other.url()).await?;
    assert_ne!(facts.id, others.id);
    assert_eq!(
        (facts.version.as_str(), facts.fcv.as_str()),
        (others.version.as_str(), others.fcv.as_str())
    );
    let from = Continue { next: Offset(0), last: None, open: None, first: first.ts };
    let follower = Follower::go_on(options, facts.id, first, from, Default::default());
    let ended = follower.ended().await;
    assert!(matches!(ended, Err(CaptureError::WrongSet { .. })), "{ended:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_member_shows_the_same_identity_whatever_happens_to_it() -> Result<()> {
    let set = ReplicaSet::three()?;
    let mut found = Vec::new();
    for round in 0..2 {
        for node in set.nodes() {
            let options = ConnectOptions::parse(&node.url()).await?;
            let connected = preflight::connect(&options).await?;
            found.push((connected.facts.id, connected.facts.name));
            connected.member.close().await;
        }
        if round == 0 {
            set.step_down()?;
        }
    }
    assert_eq!(found.len(), 6);
    assert!(found.iter().all(|other| *other == found[0]), "{found:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_may_not_read_the_oplog_is_told_what_is_missing() -> Result<()> {
    let set = ReplicaSet::builder(1).auth().start()?;
    set.create_user("weak", "its-own", &["readAnyDatabase"])?;
    set.create_user("tail", "its-own", &[])?;
    let error = refusal(&set.url_of(None)).await?;
    assert!(matches!(error, Error::NoCredentials { .. }), "{error:?}");
    for user in ["weak", "tail"] {
        let error = refusal(&set.url_of(Some((user, "its-own")))).await?;
        assert!(matches!(error, Error::NoRight { right: "read local.oplog.rs", .. }), "{error:?}");
        assert_eq!(error.class(), Class::Permission);
    }
    let error = refusal(&set.url_of(Some(("weak", "wrong")))).await?;
    assert_eq!(error.class(), Class::Config, "{error:?}");
    assert!(!format!("{error:?} {error}").contains("wrong-password"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_certificate_of_nobody_we_trust_is_no_reason_to_wait() -> Result<()> {
    let set = ReplicaSet::builder(1).tls().start()?;
    let found = preflight::connect(&ConnectOptions::parse(&set.url()).await?).await?;
    found.member.close().await;
    let host = set.nodes()[0].host();
    let error = refusal(&format!("mongodb://{host}/?tls=true&directConnection=true")).await?;
    assert_eq!(error.class(), Class::Config, "{error:?}");
    let error = refusal(&format!("mongodb://{host}/?directConnection=true")).await?;
    assert_eq!(error.class(), Class::Retry, "a server that hangs up says no more: {error:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_there_is_waited_for() -> Result<()> {
    let error = refusal("mongodb://127.0.0.1:1,127.0.0.1:2/?replicaSet=rs0").await?;
    let Error::EveryMember { tried } = &error else { panic!("{error:?}") };
    assert_eq!(tried.len(), 2);
    assert_eq!(error.class(), Class::Retry);
    Ok(())
}
