//! A client of the object store, and the credentials that it used.
//!
//! Enters: an address. Leaves: a [`Session`]. Nothing is asked over the network before the first
//! request, except what the credential chain itself asks for.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::{ProvideRegion, RegionProviderChain};
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{AppName, BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::future::ProvideCredentials as CredentialsFuture;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::super::StoreError;
use super::address::S3Address;
use crate::disk::{Disk, SystemDisk};

pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// What a store without regions is signed for.
const REGION_OF_OTHERS: &str = "us-east-1";

/// A client with the credentials of one reading of the chain.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Client,
    used: Recorded,
}

impl Session {
    pub(super) async fn open(
        address: &S3Address,
        credentials: Option<&SharedCredentialsProvider>,
    ) -> Result<Self, StoreError> {
        let trust = match &address.ca_file {
            Some(_) => Some(trusting(address).await?),
            None => None,
        };
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).region(region(address));
        if let Some(profile) = &address.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(credentials) = credentials {
            loader = loader.credentials_provider(credentials.clone());
        }
        let shared = loader.load().await;
        if shared.region().is_none() {
            return Err(StoreError::Address {
                address: address.short(),
                detail: "no region is known; add region= to the address or set AWS_REGION"
                    .to_owned(),
            });
        }
        let used = Recorded { chain: shared.credentials_provider(), last: Arc::default() };
        let mut config = aws_sdk_s3::config::Builder::from(&shared)
            .credentials_provider(used.clone())
            .app_name(AppName::new("pitr").expect("the name is legal"))
            .force_path_style(address.path_style)
            // One attempt a call; asking again is the caller's.
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build())
            // Checksums are set by us, as headers: not every store understands trailers, and some
            // answer a ranged read with the checksum of the whole.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if let Some(endpoint) = &address.endpoint {
            config = config.endpoint_url(endpoint);
        }
        if let Some(trust) = trust {
            config = config.http_client(trust);
        }
        Ok(Self { client: Client::from_conf(config.build()), used })
    }

    /// Whether the chain now gives other credentials than `older` last used.
    pub(super) async fn differs_from(&self, older: &Self) -> bool {
        let Ok(new) = self.used.provide_credentials().await else { return false };
        let old = older.used.last.lock().expect("no panic while held");
        old.as_ref().is_none_or(|old| {
            (old.access_key_id(), old.secret_access_key(), old.session_token())
                != (new.access_key_id(), new.secret_access_key(), new.session_token())
        })
    }
}

fn region(address: &S3Address) -> impl ProvideRegion + 'static {
    let said = RegionProviderChain::first_try(address.region.clone().map(Region::new));
    if address.endpoint.is_none() {
        return said.or_default_provider();
    }
    // Elsewhere than in AWS nobody answers at the metadata address: do not wait for it.
    said.or_else(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new())
        .or_else(Region::new(REGION_OF_OTHERS))
}

/// A client that trusts the certificates of `ca-file` and no others.
async fn trusting(address: &S3Address) -> Result<SharedHttpClient, StoreError> {
    let path = address.ca_file.clone().unwrap_or_default();
    let refused = |detail: String| StoreError::Address {
        address: address.short(),
        detail: format!("ca-file {}: {detail}", path.display()),
    };
    let read = path.clone();
    let pem = tokio::task::spawn_blocking(move || SystemDisk.read(&read))
        .await
        .map_err(|e| refused(e.to_string()))?
        .map_err(|e| refused(e.to_string()))?;
    // The client panics on what it cannot parse, so it is parsed here first.
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| refused(e.to_string()))?;
        roots.add(certificate).map_err(|e| refused(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(refused("holds no certificate in PEM".to_owned()));
    }
    let trust = TlsContext::builder()
        .with_trust_store(TrustStore::empty().with_pem_certificate(pem))
        .build()
        .map_err(|e| refused(e.to_string()))?;
    Ok(Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder().proxy_config(ProxyConfig::from_env());
        connector.set_connector_settings(settings.cloned());
        if let Some(components) = components {
            connector.set_sleep_impl(components.sleep_impl());
        }
        connector
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .tls_context(trust.clone())
            .build()
    }))
}

/// The credential chain, remembering what it gave last: credentials that were rotated underneath us
/// are told from wrong ones by reading the chain anew and comparing.
#[derive(Clone)]
struct Recorded {
    chain: Option<SharedCredentialsProvider>,
    last: Arc<Mutex<Option<Credentials>>>,
}

impl std::fmt::Debug for Recorded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorded").finish_non_exhaustive()
    }
}

impl ProvideCredentials for Recorded {
    fn provide_credentials<'a>(&'a self) -> CredentialsFuture<'a>
    where
        Self: 'a,
    {
        CredentialsFuture::new(async {
            let Some(chain) = &self.chain else {
                return Err(aws_credential_types::provider::error::CredentialsError::not_loaded(
                    "no credential chain",
                ));
            };
            let given = chain.provide_credentials().await?;
            *self.last.lock().expect("no panic while held") = Some(given.clone());
            Ok(given)
        })
    }
}
