//! `s3://bucket/prefix?…` and its parameters.
//!
//! Enters: a parsed URL. Leaves: everything that a connection needs except credentials, which never
//! stand in an address. A parameter that is not known is refused by name: it may be a misspelt one
//! that was meant to encrypt.

use std::path::PathBuf;

use ::url::Url;
use aws_sdk_s3::types::{ServerSideEncryption, StorageClass};

const PARAMETERS: &str =
    "endpoint, region, path-style, sse, kms-key, storage-class, ca-file, profile";

/// Where in which object store, and how objects are written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Address {
    pub bucket: String,
    /// Without slashes at its ends; empty for the whole bucket.
    pub prefix: String,
    /// With its scheme; AWS itself when `None`.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// The bucket in the path rather than in the host name; unless said, only with an endpoint.
    pub path_style: bool,
    pub encryption: Option<ServerSideEncryption>,
    pub kms_key: Option<String>,
    pub storage_class: Option<StorageClass>,
    /// The only certificate authorities that are trusted, instead of the system's.
    pub ca_file: Option<PathBuf>,
    pub profile: Option<String>,
}

impl S3Address {
    /// # Errors
    /// What is wrong with it, without repeating any value.
    pub fn parse(url: &Url) -> Result<Self, String> {
        if !url.username().is_empty() || url.password().is_some() {
            return Err("credentials do not belong into an address; the AWS credential chain \
                        (environment, profile, role) supplies them"
                .to_owned());
        }
        if url.port().is_some() || url.fragment().is_some() {
            return Err("write s3://bucket/prefix; a host goes into endpoint=".to_owned());
        }
        let mut address = Self {
            bucket: url.host_str().filter(|host| !host.is_empty()).ok_or("no bucket")?.to_owned(),
            prefix: prefix(url.path())?,
            endpoint: None,
            region: None,
            path_style: false,
            encryption: None,
            kms_key: None,
            storage_class: None,
            ca_file: None,
            profile: None,
        };
        let mut path_style = None;
        let mut seen: Vec<String> = Vec::new();
        for (name, value) in url.query_pairs() {
            if seen.contains(&name.to_string()) {
                return Err(format!("the parameter {name} is given twice"));
            }
            if value.is_empty() {
                return Err(format!("the parameter {name} has no value"));
            }
            if name == "path-style" {
                path_style = Some(truth(&value)?);
            } else {
                address.set(&name, &value)?;
            }
            seen.push(name.into_owned());
        }
        address.path_style = path_style.unwrap_or(address.endpoint.is_some());
        address.check_encryption()?;
        Ok(address)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "endpoint" => self.endpoint = Some(endpoint(value)?),
            "region" => self.region = Some(value.to_owned()),
            "kms-key" => self.kms_key = Some(value.to_owned()),
            "ca-file" => self.ca_file = Some(value.into()),
            "profile" => self.profile = Some(value.to_owned()),
            "sse" => {
                let known = ServerSideEncryption::try_parse(value)
                    .map_err(|_| "sse is AES256, aws:kms or aws:kms:dsse".to_owned())?;
                self.encryption = Some(known);
            }
            "storage-class" => {
                if matches!(value, "GLACIER" | "DEEP_ARCHIVE") {
                    return Err(format!(
                        "objects of the storage class {value} cannot be read at once, and a \
                         restore reads at once; GLACIER_IR can be"
                    ));
                }
                self.storage_class = Some(StorageClass::from(value));
            }
            other => {
                return Err(format!("there is no parameter {other:?}; there are {PARAMETERS}"));
            }
        }
        Ok(())
    }

    fn check_encryption(&mut self) -> Result<(), String> {
        match (&self.kms_key, &self.encryption) {
            (Some(_), None) => self.encryption = Some(ServerSideEncryption::AwsKms),
            (Some(_), Some(ServerSideEncryption::Aes256)) => {
                return Err("kms-key goes with sse=aws:kms".to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    /// Bucket and prefix, for messages.
    pub fn short(&self) -> String {
        if self.prefix.is_empty() {
            format!("s3://{}", self.bucket)
        } else {
            format!("s3://{}/{}", self.bucket, self.prefix)
        }
    }
}

fn prefix(path: &str) -> Result<String, String> {
    let path = percent_encoding::percent_decode_str(path.trim_matches('/'))
        .decode_utf8()
        .map_err(|_| "the prefix is not UTF-8".to_owned())?;
    if !path.is_empty() && super::super::Key::parse(&path).is_none() {
        return Err("the prefix has an empty, . or .. part".to_owned());
    }
    Ok(path.into_owned())
}

fn endpoint(value: &str) -> Result<String, String> {
    let text = if value.contains("://") { value.to_owned() } else { format!("https://{value}") };
    let url = Url::parse(&text).map_err(|e| format!("endpoint is not an address: {e}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err("endpoint is http://host:port or https://host:port".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err("endpoint is a host and a port, without credentials or parameters".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn truth(value: &str) -> Result<bool, String> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("path-style is true or false".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<S3Address, String> {
        S3Address::parse(&Url::parse(text).unwrap())
    }

    #[test]
    fn every_parameter_is_understood() {
        let address = parse(
            "s3://my_bucket/a/b%20c/?endpoint=http://[::1]:8333/&region=eu-1&path-style=false\
             &sse=aws:kms&kms-key=arn:aws:kms:eu-1:1:key/2&storage-class=STANDARD_IA\
             &ca-file=/etc/ca.pem&profile=backup",
        )
        .unwrap();
        let expected = S3Address {
            bucket: "my_bucket".to_owned(),
            prefix: "a/b c".to_owned(),
            endpoint: Some("http://[::1]:8333".to_owned()),
            region: Some("eu-1".to_owned()),
            path_style: false,
            encryption: Some(ServerSideEncryption::AwsKms),
            kms_key: Some("arn:aws:kms:eu-1:1:key/2".to_owned()),
            storage_class: Some(StorageClass::StandardIa),
            ca_file: Some("/etc/ca.pem".into()),
            profile: Some("backup".to_owned()),
        };
        assert_eq!(address, expected);
        assert_eq!(address.short(), "s3://my_bucket/a/b c");
    }

    #[test]
    fn an_endpoint_means_https_and_path_style_unless_said() {
        let address = parse("s3://b?endpoint=minio.local:9000").unwrap();
        assert_eq!(address.endpoint.as_deref(), Some("https://minio.local:9000"));
        assert!(address.path_style);
        assert!(!parse("s3://b/p").unwrap().path_style);
        assert_eq!(parse("s3://b").unwrap().short(), "s3://b");
    }

    #[test]
    fn a_key_alone_means_kms() {
        let address = parse("s3://b?kms-key=k").unwrap();
        assert_eq!(address.encryption, Some(ServerSideEncryption::AwsKms));
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name_and_not_by_value() {
        for (text, named) in [
            ("s3://b?secret_access_key=hush", "secret_access_key"),
            ("s3://b?regoin=hush", "regoin"),
            ("s3://b?region=", "region"),
            ("s3://b?region=a&region=b", "region"),
            ("s3://b?sse=hush", "sse"),
            ("s3://b?sse=AES256&kms-key=hush", "kms-key"),
            ("s3://b?path-style=hush", "path-style"),
            ("s3://b?endpoint=http://a:hush@c", "endpoint"),
            ("s3://b?endpoint=ftp://hush", "endpoint"),
            ("s3://b?storage-class=GLACIER", "GLACIER_IR"),
            ("s3://b:80/p", "endpoint"),
            ("s3://b/a//b", "prefix"),
            ("s3:///p", "bucket"),
            ("s3://a:hush@b", "credential chain"),
        ] {
            let refused = parse(text).expect_err(text);
            assert!(refused.contains(named) && !refused.contains("hush"), "{text}: {refused}");
        }
    }
}
