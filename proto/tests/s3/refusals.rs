//! What the store refuses, and that each refusal says whether asking again can help.

use std::sync::atomic::{AtomicBool, Ordering};

use aws_credential_types::provider::future::ProvideCredentials as CredentialsFuture;
use aws_credential_types::provider::{ProvideCredentials, error::CredentialsError};
use proto::store::{Class, StoreError};

use super::*;

async fn every_call(store: &Arc<dyn Store>) -> Vec<StoreError> {
    let (key, mut errors) = (key("refused/a"), Vec::new());
    errors.extend(store.put(&key, &body("x")).await.err());
    errors.extend(store.get(&key, Range::All).await.err());
    errors.extend(store.get(&key, Range::Last(3)).await.err());
    errors.extend(store.head(&key).await.err());
    errors.extend(store.list("refused/", None).await.err());
    errors.extend(store.folders("").await.err());
    errors
}

/// Every call fails in the same class, and no message tells a secret.
async fn refused(store: &Arc<dyn Store>, class: Class) -> Vec<String> {
    let errors = every_call(store).await;
    assert_eq!(errors.len(), 6, "{errors:?}");
    errors
        .iter()
        .map(|error| {
            assert_eq!(error.class(), class, "{error}");
            let text = format!("{error} {error:?}");
            assert!(!text.contains("secret") && !text.contains("hush"), "{text}");
            error.to_string()
        })
        .collect()
}

#[tokio::test]
async fn a_bucket_that_does_not_exist_is_not_an_empty_archive() -> Result<()> {
    let address = Seaweed::shared()?.url("no-such-bucket", "p");
    let store = open_as(&address, Identity::Writer).await?;
    let texts = refused(&store, Class::Config).await;
    // Whether the writer may create buckets is asked before whether this one exists.
    assert!(texts[1..].iter().all(|text| text.contains("NoSuchBucket")), "{texts:?}");
    Ok(())
}

#[tokio::test]
async fn wrong_credentials_are_a_matter_of_configuration() -> Result<()> {
    let address = Seaweed::shared()?.url(BUCKET, "refused");
    let stranger = open_as(&address, Identity::Stranger).await?;
    assert!(refused(&stranger, Class::Config).await[0].contains("InvalidAccessKeyId"));

    let url = url::Url::parse(&address)?;
    let keys = credentials(Identity::Writer.access_key(), "hush");
    let wrong: Arc<dyn Store> =
        Arc::new(S3Store::open_as(&url, Access::ReadWrite, Some(keys)).await?);
    assert!(refused(&wrong, Class::Config).await[0].contains("SignatureDoesNotMatch"));
    Ok(())
}

#[derive(Debug)]
struct NoCredentials;

impl ProvideCredentials for NoCredentials {
    fn provide_credentials<'a>(&'a self) -> CredentialsFuture<'a>
    where
        Self: 'a,
    {
        CredentialsFuture::ready(Err(CredentialsError::not_loaded("nothing in the chain")))
    }
}

#[tokio::test]
async fn without_credentials_nothing_is_asked() -> Result<()> {
    let url = url::Url::parse(&Seaweed::shared()?.url(BUCKET, "refused"))?;
    let none = SharedCredentialsProvider::new(NoCredentials);
    let store: Arc<dyn Store> =
        Arc::new(S3Store::open_as(&url, Access::ReadWrite, Some(none)).await?);
    refused(&store, Class::Config).await;
    Ok(())
}

#[tokio::test]
async fn a_reader_may_not_write_and_is_told_so() -> Result<()> {
    let address = Seaweed::shared()?.url(BUCKET, "read-only");
    open_as(&address, Identity::Writer).await?.put(&key("a"), &body("x")).await?;
    let reader = open_as(&address, Identity::Reader).await?;
    assert_eq!(reader.get(&key("a"), Range::All).await?, "x");
    assert_eq!(list_all(&*reader, "").await?.len(), 1);
    let denied = reader.put(&key("b"), &body("x")).await.expect_err("no right");
    assert!(denied.to_string().contains("AccessDenied"), "{denied}");
    assert_eq!(denied.class(), Class::Config);
    assert_eq!(reader.delete(&key("a")).await.expect_err("no right").class(), Class::Config);
    assert_eq!(reader.head(&key("b")).await?, None);
    Ok(())
}

#[tokio::test]
async fn a_store_opened_for_reading_does_not_even_ask_to_write() -> Result<()> {
    let url = url::Url::parse(&Seaweed::shared()?.url(BUCKET, "refused"))?;
    let admin = credentials(Identity::Admin.access_key(), Identity::Admin.secret_key());
    let store = S3Store::open_as(&url, Access::ReadOnly, Some(admin)).await?;
    assert_eq!(store.put(&key("a"), &body("x")).await.expect_err("refused").class(), Class::Config);
    assert_eq!(store.delete(&key("a")).await.expect_err("refused").class(), Class::Config);
    assert_eq!(store.head(&key("a")).await?, None);
    Ok(())
}

/// The stranger's keys until it is told otherwise, then the writer's.
#[derive(Debug, Default)]
struct Rotating(AtomicBool);

impl ProvideCredentials for Rotating {
    fn provide_credentials<'a>(&'a self) -> CredentialsFuture<'a>
    where
        Self: 'a,
    {
        let rotated = self.0.load(Ordering::Relaxed);
        let who = if rotated { Identity::Writer } else { Identity::Stranger };
        let keys = Credentials::new(who.access_key(), who.secret_key(), None, None, "rotating");
        CredentialsFuture::ready(Ok(keys))
    }
}

#[derive(Debug, Clone)]
struct Shared(Arc<Rotating>);

impl ProvideCredentials for Shared {
    fn provide_credentials<'a>(&'a self) -> CredentialsFuture<'a>
    where
        Self: 'a,
    {
        self.0.provide_credentials()
    }
}

#[tokio::test]
async fn rotated_credentials_are_used_without_a_restart() -> Result<()> {
    let url = url::Url::parse(&Seaweed::shared()?.url(BUCKET, "rotated"))?;
    let rotating = Arc::new(Rotating::default());
    let chain = SharedCredentialsProvider::new(Shared(rotating.clone()));
    let store = S3Store::open_as(&url, Access::ReadWrite, Some(chain)).await?;
    rotating.0.store(true, Ordering::Relaxed);
    assert_eq!(store.put(&key("first"), &body("x")).await?, Put::Created);

    // And from good to bad it says so, each time.
    let bad = SharedCredentialsProvider::new(Shared(Arc::default()));
    let store = S3Store::open_as(&url, Access::ReadWrite, Some(bad)).await?;
    for _ in 0..3 {
        assert_eq!(store.head(&key("first")).await.expect_err("bad").class(), Class::Config);
    }
    Ok(())
}
