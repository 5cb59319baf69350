//! A private certificate authority for TLS tests, made with the `openssl` program and without the
//! machine's configuration.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::{process, user};

/// A certificate authority and the folder that it keeps its files in.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
}

/// A certificate and its key, as PEM files.
#[derive(Debug, Clone)]
pub struct Certificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// Makes one in a folder of its own.
    pub fn new(folder: &Path, name: &str) -> Result<Self> {
        let config = "[req]\ndistinguished_name=dn\nx509_extensions=ca\nprompt=no\n[dn]\n\
             CN=pitr test authority\n[ca]\nbasicConstraints=critical,CA:TRUE\n\
             keyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n";
        std::fs::write(folder.join("ca.cnf"), config)?;
        openssl(
            folder,
            &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "ca.key"],
        )?;
        let subject = format!("/CN={name}");
        openssl(
            folder,
            &[
                "req", "-x509", "-new", "-key", "ca.key", "-out", "ca.crt", "-days", "3650",
                "-config", "ca.cnf", "-subj", &subject,
            ],
        )?;
        Ok(Self { folder: folder.to_path_buf() })
    }

    /// What a client is told to trust.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// For a server reached as `localhost` or 127.0.0.1.
    pub fn server(&self, name: &str) -> Result<Certificate> {
        self.issue(name, "serverAuth", "DNS:localhost,IP:127.0.0.1")
    }

    /// For a server reached by none of the names that a test uses.
    pub fn stranger(&self, name: &str) -> Result<Certificate> {
        self.issue(name, "serverAuth", "DNS:elsewhere.invalid")
    }

    /// For a client whose user is the common name.
    pub fn client(&self, user: &str) -> Result<Certificate> {
        self.issue(user, "clientAuth", "DNS:client.invalid")
    }

    fn issue(&self, name: &str, usage: &str, names: &str) -> Result<Certificate> {
        let (key, request) = (format!("{name}.key"), format!("{name}.csr"));
        let (certificate, extensions) = (format!("{name}.crt"), format!("{name}.ext"));
        let text = format!(
            "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n\
             extendedKeyUsage={usage}\nsubjectAltName={names}\n"
        );
        std::fs::write(self.folder.join(&extensions), text)?;
        let subject = format!("/CN={name}");
        openssl(
            &self.folder,
            &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &key],
        )?;
        openssl(
            &self.folder,
            &[
                "req", "-new", "-key", &key, "-out", &request, "-config", "ca.cnf", "-subj",
                &subject,
            ],
        )?;
        openssl(
            &self.folder,
            &[
                "x509",
                "-req",
                "-in",
                &request,
                "-CA",
                "ca.crt",
                "-CAkey",
                "ca.key",
                "-CAcreateserial",
                "-days",
                "3650",
                "-extfile",
                &extensions,
                "-out",
                &certificate,
            ],
        )?;
        let key = self.folder.join(key);
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600))?;
        user::hand_over(&key)?;
        Ok(Certificate { certificate: self.folder.join(certificate), key })
    }
}

fn openssl(folder: &Path, arguments: &[&str]) -> Result<()> {
    let mut openssl = Command::new("openssl");
    openssl.current_dir(folder).args(arguments);
    process::run(openssl)?;
    Ok(())
}
