//! Objects in S3, or in what speaks its protocol.
//!
//! Enters: keys and bodies. Leaves: objects, each by a single PutObject with If-None-Match and a
//! CRC32C that the store checks before it keeps anything. After a crash at any line an object is
//! whole or absent, because the store says so. Every call is one attempt with a deadline; only
//! credentials that were rotated in the meantime are tried again within it.

mod address;
mod body;
mod connect;
mod error;
mod list;

pub use address::S3Address;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::ChecksumMode;
use bytes::Bytes;

use super::{Access, Body, Class, Key, Page, Put, Range, Store, StoreError};
use connect::Session;
use error::Asked;

/// How long an attempt may take besides moving its bytes.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// The slowest link that is waited for.
const BYTES_PER_SECOND_MIN: u64 = 100 << 10;
/// How often the credential chain is read anew because of a refusal, at most.
const RENEW_INTERVAL: Duration = Duration::from_secs(5);

/// A store in a bucket, below a prefix.
#[derive(Debug)]
pub struct S3Store {
    address: S3Address,
    /// As people write it.
    text: String,
    /// Bucket and prefix, for messages.
    short: String,
    access: Access,
    /// Instead of the standard chain.
    credentials: Option<SharedCredentialsProvider>,
    /// Whether it was seen to list keys in another order than that of their bytes, as stores do
    /// that keep folders (SeaweedFS, directory buckets).
    unordered: AtomicBool,
    session: RwLock<Arc<Session>>,
    renewed: tokio::sync::Mutex<Option<tokio::time::Instant>>,
}

impl S3Store {
    /// Makes a client; asks the store nothing yet.
    ///
    /// # Errors
    /// When the address is wrong, or its certificate file cannot be used.
    pub async fn open(url: &::url::Url, access: Access) -> Result<Self, StoreError> {
        Self::open_as(url, access, None).await
    }

    /// As [`S3Store::open`], with these credentials instead of the standard chain's.
    ///
    /// # Errors
    /// As [`S3Store::open`].
    pub async fn open_as(
        url: &::url::Url,
        access: Access,
        credentials: Option<SharedCredentialsProvider>,
    ) -> Result<Self, StoreError> {
        let address = S3Address::parse(url).map_err(|detail| StoreError::Address {
            address: format!("s3://{}{}", url.host_str().unwrap_or_default(), url.path()),
            detail,
        })?;
        Ok(Self {
            text: url.to_string(),
            short: address.short(),
            session: RwLock::new(Arc::new(Session::open(&address, credentials.as_ref()).await?)),
            address,
            access,
            credentials,
            unordered: AtomicBool::new(false),
            renewed: tokio::sync::Mutex::default(),
        })
    }

    fn full(&self, key: &str) -> String {
        if self.address.prefix.is_empty() {
            key.to_owned()
        } else {
            format!("{}/{key}", self.address.prefix)
        }
    }

    fn asked<'a>(&'a self, action: &'static str, key: &'a str) -> Asked<'a> {
        Asked { address: &self.short, endpoint: self.address.endpoint.as_deref(), action, key }
    }

    fn writable(&self, key: &Key) -> Result<(), StoreError> {
        if self.access == Access::ReadWrite {
            return Ok(());
        }
        let detail = format!("opened for reading only: {key} cannot be changed");
        Err(StoreError::Address { address: self.short.clone(), detail })
    }

    /// One request within its deadline: the answer, or the refusal, or the failure to get either.
    async fn call<T, E, F>(
        &self,
        asked: &Asked<'_>,
        bytes: u64,
        request: impl Fn(Client) -> F + Send + Sync,
    ) -> Result<Result<T, SdkError<E>>, StoreError>
    where
        T: Send,
        E: ProvideErrorMetadata + Send,
        F: Future<Output = Result<T, SdkError<E>>> + Send,
    {
        let attempt = async {
            let session = self.session.read().expect("no panic while held").clone();
            match request(session.client.clone()).await {
                Err(refused) if error::blames_credentials(&refused) => {
                    match self.renew(&session).await {
                        Some(renewed) => request(renewed.client.clone()).await,
                        None => Err(refused),
                    }
                }
                done => done,
            }
        };
        tokio::time::timeout(deadline(bytes), attempt)
            .await
            .map_err(|_| asked.unreachable("no answer in time", Class::Retry))
    }

    /// A session with other credentials than `refused`, if the chain now has others.
    async fn renew(&self, refused: &Arc<Session>) -> Option<Arc<Session>> {
        let mut renewed = self.renewed.lock().await;
        let current = self.session.read().expect("no panic while held").clone();
        if !Arc::ptr_eq(&current, refused) {
            return Some(current);
        }
        if renewed.is_some_and(|at| at.elapsed() < RENEW_INTERVAL) {
            return None;
        }
        *renewed = Some(tokio::time::Instant::now());
        let new = Arc::new(Session::open(&self.address, self.credentials.as_ref()).await.ok()?);
        if !new.differs_from(refused).await {
            return None;
        }
        tracing::info!(archive = %self.short, "credentials were rotated; using the new ones");
        *self.session.write().expect("no panic while held") = new.clone();
        Some(new)
    }

    async fn put_with(&self, key: &Key, body: &Body, checksum: &str) -> Result<Put, StoreError> {
        let asked = self.asked("put", key.as_str());
        let stream = body::reopenable(body);
        let answer = self
            .call(&asked, body.len(), |client| {
                // The body is opened anew for each request.
                let stream = stream();
                let request = client
                    .put_object()
                    .bucket(&self.address.bucket)
                    .key(self.full(key.as_str()))
                    .if_none_match("*")
                    .checksum_crc32_c(checksum)
                    .content_length(i64::try_from(body.len()).unwrap_or(i64::MAX))
                    .set_server_side_encryption(self.address.encryption.clone())
                    .set_ssekms_key_id(self.address.kms_key.clone())
                    .set_storage_class(self.address.storage_class.clone());
                async move {
                    let stream = stream.await.map_err(SdkError::construction_failure)?;
                    request.body(stream).send().await
                }
            })
            .await?;
        match answer {
            Ok(stored) if stored.checksum_crc32_c().is_some_and(|theirs| theirs != checksum) => {
                Err(StoreError::Damaged {
                    address: self.short.clone(),
                    key: key.clone(),
                    detail: "the store kept other bytes than were sent".to_owned(),
                })
            }
            Ok(_) => Ok(Put::Created),
            Err(refused) => match error::answer(&refused) {
                Some(("PreconditionFailed", _) | (_, 412)) => Ok(Put::Exists),
                _ => Err(asked.failed(&refused)),
            },
        }
    }

    async fn get_once(&self, key: &Key, range: Range) -> Result<Bytes, StoreError> {
        let asked = self.asked("get", key.as_str());
        let header = body::range_header(range);
        let answer = self
            .call(&asked, 0, |client| {
                let request = client
                    .get_object()
                    .bucket(&self.address.bucket)
                    .key(self.full(key.as_str()))
                    .set_range(header.clone())
                    .set_checksum_mode((range == Range::All).then_some(ChecksumMode::Enabled));
                async move { request.send().await }
            })
            .await?;
        match answer {
            Ok(answer) => {
                let length = answer.content_length.and_then(|n| u64::try_from(n).ok());
                let read = body::read(&asked, range, answer);
                tokio::time::timeout(deadline(length.unwrap_or(u64::MAX)), read)
                    .await
                    .map_err(|_| asked.unreachable("the body stopped coming", Class::Retry))?
            }
            Err(refused) => match error::answer(&refused) {
                Some(("NoSuchKey", _)) => Err(self.absent(key)),
                // The object has no byte in that range.
                Some((_, 416)) => Ok(Bytes::new()),
                _ => Err(asked.failed(&refused)),
            },
        }
    }

    fn absent(&self, key: &Key) -> StoreError {
        StoreError::Absent { address: self.short.clone(), key: key.clone() }
    }
}

#[async_trait]
impl Store for S3Store {
    async fn put(&self, key: &Key, body: &Body) -> Result<Put, StoreError> {
        self.writable(key)?;
        let checksum = body::checksum(&self.asked("put", key.as_str()), body).await?;
        self.put_with(key, body, &checksum).await
    }

    async fn get(&self, key: &Key, range: Range) -> Result<Bytes, StoreError> {
        if matches!(range, Range::Last(0) | Range::At { len: 0, .. }) {
            return match self.head(key).await? {
                Some(_) => Ok(Bytes::new()),
                None => Err(self.absent(key)),
            };
        }
        match self.get_once(key, range).await {
            // A bit may have flipped on the way: damaged is what is damaged twice.
            Err(error) if error.class() == Class::Damaged => {
                self.get_once(key, range).await.map_err(|again| match again.class() {
                    Class::Damaged => StoreError::Damaged {
                        address: self.short.clone(),
                        key: key.clone(),
                        detail: again.to_string(),
                    },
                    _ => again,
                })
            }
            done => done,
        }
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        let asked = self.asked("head", key.as_str());
        let answer = self
            .call(&asked, 0, |client| {
                let request =
                    client.head_object().bucket(&self.address.bucket).key(self.full(key.as_str()));
                async move { request.send().await }
            })
            .await?;
        match answer {
            Ok(found) => match found.content_length().and_then(|n| u64::try_from(n).ok()) {
                Some(bytes) => Ok(Some(bytes)),
                None => {
                    Err(asked.unreachable("the answer does not say how long it is", Class::Retry))
                }
            },
            Err(refused) => match error::answer(&refused) {
                // The answer to HEAD has no body that tells a missing key from a missing bucket.
                Some((_, 404)) => match self.get_once(key, Range::At { offset: 0, len: 1 }).await {
                    Err(error) if error.is_absent() => Ok(None),
                    Err(error) => Err(error),
                    Ok(_) => Err(asked.unreachable("it was just created", Class::Retry)),
                },
                _ => Err(asked.failed(&refused)),
            },
        }
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, StoreError> {
        self.list_in_order(prefix, after).await
    }

    async fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        self.folder_names(folder).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.writable(key)?;
        let asked = self.asked("delete", key.as_str());
        let answer = self
            .call(&asked, 0, |client| {
                let request = client
                    .delete_object()
                    .bucket(&self.address.bucket)
                    .key(self.full(key.as_str()));
                async move { request.send().await }
            })
            .await?;
        match answer {
            Ok(_) => Ok(()),
            Err(refused) if matches!(error::answer(&refused), Some(("NoSuchKey", _))) => Ok(()),
            Err(refused) => Err(asked.failed(&refused)),
        }
    }

    async fn refuses_wrong_checksum(&self, key: &Key) -> Result<Option<bool>, StoreError> {
        self.writable(key)?;
        let wrong = body::checksum_of(b"other bytes");
        let body = Body::Bytes(Bytes::from_static(b"these bytes"));
        match self.put_with(key, &body, &wrong).await {
            Ok(_) => Ok(Some(false)),
            Err(StoreError::Answer { status: Some(400), .. }) => Ok(Some(true)),
            Err(StoreError::Damaged { .. }) => Ok(Some(false)),
            Err(error) => Err(error),
        }
    }

    fn address(&self) -> String {
        self.text.clone()
    }
}

fn deadline(bytes: u64) -> Duration {
    // A day is longer than any object takes, and keeps the sum from overflowing.
    let moving = Duration::from_secs((bytes / BYTES_PER_SECOND_MIN).min(24 * 3600));
    ATTEMPT_TIMEOUT + moving
}
