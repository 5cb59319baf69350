//! From an archive's address, as people write it, to its store.
//!
//! Enters: a path, `file:///…` or `s3://…`. Leaves: an open [`Store`]. An address that carries a
//! secret is refused, because it would stand in process lists and logs, and it is not repeated.

use std::path::PathBuf;
use std::sync::Arc;

use super::folder::FolderStore;
use super::s3::S3Store;
use super::{Access, Store, StoreError};

/// Opens the store at `address`.
///
/// # Errors
/// [`StoreError::Address`] when the address says nothing that can be opened; whatever the store
/// finds wrong when it is opened.
pub async fn open(address: &str, access: Access) -> Result<Arc<dyn Store>, StoreError> {
    let refused =
        |detail: String| StoreError::Address { address: without_secrets(address), detail };
    match parse(address).map_err(refused)? {
        Place::Folder(path) => {
            let path = std::path::absolute(&path).map_err(|e| refused(e.to_string()))?;
            Ok(Arc::new(FolderStore::open(path, access).await?))
        }
        Place::S3(url) => Ok(Arc::new(S3Store::open(&url, access).await?)),
    }
}

/// What an address names.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Folder(PathBuf),
    S3(::url::Url),
}

fn parse(address: &str) -> Result<Place, String> {
    if address.is_empty() {
        return Err("it is empty; give a folder or s3://bucket/prefix".to_owned());
    }
    let Some((scheme, rest)) = address.split_once("://") else {
        if address.starts_with("file:") || address.starts_with("s3:") {
            return Err("write two slashes after the colon: file:///path, s3://bucket".to_owned());
        }
        return Ok(Place::Folder(address.into()));
    };
    match scheme {
        "file" => file_path(rest).map(Place::Folder),
        "s3" => ::url::Url::parse(address).map(Place::S3).map_err(|e| e.to_string()),
        other => Err(format!(
            "there is no store of the kind {other:?}; there are a path, file:///path and \
             s3://bucket/prefix"
        )),
    }
}

fn file_path(rest: &str) -> Result<PathBuf, String> {
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return Err("a file address has three slashes: file:///path".to_owned());
    }
    let path = percent_encoding::percent_decode_str(path)
        .decode_utf8()
        .map_err(|_| "the path is not UTF-8".to_owned())?;
    Ok(path.into_owned().into())
}

/// The address up to its parameters, without what stands before an `@` in its host.
fn without_secrets(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(address: &str) -> String {
        parse(address).unwrap_err()
    }

    #[test]
    fn paths_and_file_urls_name_folders() {
        for (address, path) in [
            ("/var/archive", "/var/archive"),
            ("archive", "archive"),
            ("./a b", "./a b"),
            ("file:///var/archive", "/var/archive"),
            ("file://localhost/var/a%20b", "/var/a b"),
        ] {
            assert_eq!(parse(address), Ok(Place::Folder(path.into())), "{address}");
        }
    }

    #[test]
    fn an_address_that_names_nothing_says_what_to_write() {
        assert!(refusal("").contains("s3://"));
        assert!(refusal("file://archive").contains("three slashes"));
        assert!(refusal("file:/archive").contains("two slashes"));
        assert!(refusal("gs://bucket").contains("s3://bucket/prefix"));
    }

    #[tokio::test]
    async fn an_address_with_a_secret_is_refused_and_not_repeated() {
        for address in [
            "s3://KEYID:hush@bucket/prefix",
            "s3://hush@bucket",
            "gs://a:hush@bucket?x=hush",
            "file://hush@host/path",
        ] {
            let error = open(address, Access::ReadWrite).await.unwrap_err().to_string();
            assert!(!error.contains("hush"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_relative_path_is_held_against_a_change_of_folder() {
        let store = open("archive-of-no-one", Access::ReadWrite).await.unwrap();
        assert!(store.address().starts_with('/'));
    }
}
