//! What a store can answer instead of doing what was asked, classified for retry by type.

use super::Key;

/// What to do about a failed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// There is no such object.
    Absent,
    /// Ask again, with backoff: network, timeout, throttling, 5xx, full disk.
    Retry,
    /// Asking again will not help until somebody changes something: credentials, permissions,
    /// wrong bucket, TLS. Capture goes on into the spool and asks again slowly.
    Config,
    /// The bytes are not what was written: never retried on the same object.
    Damaged,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    #[error("no object {key} in {address}")]
    Absent { address: String, key: Key },
    #[error("{action} {key} in {address}")]
    Io {
        address: String,
        action: &'static str,
        /// A key, or the prefix that was listed.
        key: String,
        #[source]
        source: std::io::Error,
    },
    /// An answer of the object store's API.
    #[error("{action} {key} in {address}: {code}{}", status_text(*.status))]
    Answer {
        address: String,
        action: &'static str,
        key: String,
        /// The API's own error code: `AccessDenied`, `SlowDown`, `NoSuchBucket` …
        code: String,
        status: Option<u16>,
        class: Class,
    },
    /// No answer: connection refused, reset, timed out, name not found, TLS.
    #[error("{action} {key} in {address}: {detail}")]
    Unreachable { address: String, action: &'static str, key: String, detail: String, class: Class },
    #[error("{key} in {address} is damaged: {detail}")]
    Damaged { address: String, key: Key, detail: String },
    /// To be read, and not there at all.
    #[error("there is no folder {address}")]
    NoRoot { address: String },
    #[error("archive address {address:?}: {detail}")]
    Address { address: String, detail: String },
}

fn status_text(status: Option<u16>) -> String {
    status.map(|s| format!(" (HTTP {s})")).unwrap_or_default()
}

impl StoreError {
    pub fn class(&self) -> Class {
        match self {
            Self::Absent { .. } => Class::Absent,
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::PermissionDenied
                | std::io::ErrorKind::ReadOnlyFilesystem
                | std::io::ErrorKind::NotADirectory
                | std::io::ErrorKind::IsADirectory
                | std::io::ErrorKind::InvalidFilename
                | std::io::ErrorKind::InvalidInput => Class::Config,
                _ => Class::Retry,
            },
            Self::Answer { class, .. } | Self::Unreachable { class, .. } => *class,
            Self::Damaged { .. } => Class::Damaged,
            Self::NoRoot { .. } | Self::Address { .. } => Class::Config,
        }
    }

    pub fn is_absent(&self) -> bool {
        self.class() == Class::Absent
    }
}
