//! HTTPS: which certificates are trusted.

use std::path::Path;

use proto::store::Class;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tests::certificates::{Authority, Certificate};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;

/// Speaks TLS to clients and passes what they say to the shared server.
async fn tls_before_s3(certificate: &Certificate) -> Result<u16> {
    let chain =
        CertificateDer::pem_file_iter(&certificate.certificate)?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&certificate.key)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let (acceptor, target) = (TlsAcceptor::from(Arc::new(config)), Seaweed::shared()?.port());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut client = acceptor.accept(client).await?;
                let mut server = TcpStream::connect(("127.0.0.1", target)).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    Ok(port)
}

async fn over_tls(port: u16, ca_file: Option<&Path>) -> Result<Arc<dyn Store>> {
    let trust = ca_file.map(|path| format!("&ca-file={}", path.display())).unwrap_or_default();
    let endpoint = format!("https://127.0.0.1:{port}");
    let address = format!("s3://{BUCKET}/tls?endpoint={endpoint}{trust}");
    open_as(&address, Identity::Writer).await
}

#[tokio::test]
async fn only_the_named_authority_is_trusted() -> Result<()> {
    let (ours, theirs) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let authority = Authority::new(ours.path(), "ours")?;
    let other = Authority::new(theirs.path(), "theirs")?;
    let port = tls_before_s3(&authority.server("localhost")?).await?;

    let trusting = over_tls(port, Some(&authority.certificate())).await?;
    assert_eq!(trusting.put(&key("a"), &body("x")).await?, Put::Created);
    assert_eq!(trusting.get(&key("a"), Range::All).await?, "x");
    let scratch = tempfile::tempdir()?;
    let path = scratch.path().join("body");
    std::fs::write(&path, conformance::noise(3 << 20, 4))?;
    let file = Body::File { path, len: 3 << 20 };
    assert_eq!(trusting.put(&key("file"), &file).await?, Put::Created);

    for ca_file in [Some(other.certificate()), None] {
        let store = over_tls(port, ca_file.as_deref()).await?;
        let error = store.get(&key("a"), Range::All).await.expect_err("not trusted");
        assert_eq!(error.class(), Class::Config, "{error}");
        assert!(error.to_string().contains("certificate"), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::new(folder.path(), "ours")?;
    let port = tls_before_s3(&authority.stranger("elsewhere")?).await?;
    let store = over_tls(port, Some(&authority.certificate())).await?;
    let error = store.put(&key("b"), &body("x")).await.expect_err("another name");
    assert_eq!(error.class(), Class::Config, "{error}");
    Ok(())
}

#[tokio::test]
async fn https_to_a_server_that_speaks_http_is_a_wrong_address() -> Result<()> {
    let store = over_tls(Seaweed::shared()?.port(), None).await?;
    let error = store.put(&key("b"), &body("x")).await.expect_err("no TLS there");
    assert_eq!(error.class(), Class::Config, "{error}");
    Ok(())
}

#[tokio::test]
async fn a_certificate_file_that_holds_none_is_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "no certificate")?;
    for path in [empty, folder.path().join("missing.pem")] {
        let error = over_tls(1, Some(&path)).await.expect_err("no certificate");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
    Ok(())
}
