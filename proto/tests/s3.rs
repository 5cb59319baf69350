//! The S3 store against a real server: the rules of every store, and what only a network can do.

#[path = "s3/faults.rs"]
mod faults;
#[path = "s3/refusals.rs"]
mod refusals;
#[path = "s3/tls.rs"]
mod tls;

use std::sync::Arc;

use anyhow::Result;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use proto::store::s3::S3Store;
use proto::store::{Access, Body, Key, Put, Range, Store, conformance, list_all, probe};
use tests::seaweed::{BUCKET, Identity, Seaweed};

fn key(text: &str) -> Key {
    Key::new(text)
}

fn body(text: &'static str) -> Body {
    Body::Bytes(text.into())
}

fn credentials(access_key: &str, secret_key: &str) -> SharedCredentialsProvider {
    SharedCredentialsProvider::new(Credentials::new(access_key, secret_key, None, None, "tests"))
}

async fn open_as(address: &str, who: Identity) -> Result<Arc<dyn Store>> {
    let keys = credentials(who.access_key(), who.secret_key());
    let url = url::Url::parse(address)?;
    Ok(Arc::new(S3Store::open_as(&url, Access::ReadWrite, Some(keys)).await?))
}

async fn open(prefix: &str) -> Result<Arc<dyn Store>> {
    open_as(&Seaweed::shared()?.url(BUCKET, prefix), Identity::Writer).await
}

#[tokio::test]
async fn s3_does_what_every_store_must() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    conformance::all(&open("conformance").await?, scratch.path()).await;
    Ok(())
}

#[tokio::test]
async fn the_probe_finds_every_feature() -> Result<()> {
    let store = open("probed").await?;
    let features = probe::probe(&store, "probe/").await?;
    assert_eq!(features.missing(), Vec::<&str>::new());
    assert_eq!((features.checksums, features.delete), (Some(true), true));
    assert_eq!(list_all(&*store, "").await?, []);
    Ok(())
}

#[tokio::test]
async fn an_archive_stays_below_its_prefix() -> Result<()> {
    let (inner, outer, sibling) = (open("a/b").await?, open("a").await?, open("a/bc").await?);
    inner.put(&key("x/y"), &body("1")).await?;
    sibling.put(&key("z"), &body("2")).await?;
    let names = async |store: &Arc<dyn Store>| -> Result<Vec<String>> {
        let found = list_all(&**store, "").await?;
        Ok(found.iter().map(|object| object.key.to_string()).collect())
    };
    assert_eq!(names(&inner).await?, ["x/y"]);
    assert_eq!(names(&outer).await?, ["b/x/y", "bc/z"]);
    assert_eq!(inner.folders("").await?, ["x"]);
    assert_eq!(Seaweed::shared()?.keys(BUCKET, "a/b/")?, ["a/b/x/y"]);

    let whole = open_as(&Seaweed::shared()?.url(BUCKET, ""), Identity::Writer).await?;
    assert_eq!(whole.get(&key("a/b/x/y"), Range::All).await?, "1");
    assert!(whole.folders("").await?.contains(&"a".to_owned()));
    Ok(())
}

#[tokio::test]
async fn objects_that_can_be_none_of_ours_are_passed_over() -> Result<()> {
    // Consoles make objects whose names end in a slash.
    let seaweed = Seaweed::shared()?;
    let store = open("strangers").await?;
    seaweed.put(BUCKET, "strangers/folder/", Vec::new())?;
    store.put(&key("folder/ours"), &body("x")).await?;
    let found = list_all(&*store, "").await?;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].key, key("folder/ours"));
    Ok(())
}

#[tokio::test]
async fn what_the_address_asks_for_is_sent_with_every_object() -> Result<()> {
    let seaweed = Seaweed::shared()?;
    let address = format!("{}&storage-class=STANDARD_IA", seaweed.url(BUCKET, "classed"));
    let store = open_as(&address, Identity::Writer).await?;
    assert_eq!(store.put(&key("a"), &body("x")).await?, Put::Created);
    let head = seaweed.client(Identity::Admin).head_object().bucket(BUCKET).key("classed/a");
    let head = head.send().await?;
    assert_eq!(head.storage_class().map(|class| class.as_str()), Some("STANDARD_IA"));
    Ok(())
}
