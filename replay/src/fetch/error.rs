//! Why a file could not be served: every one of these is doubt, none is proof of absence.

use std::path::PathBuf;

use proto::postgres::lsn::Timeline;
use proto::store::{Class, StoreError};

use crate::catalog::CatalogError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Archive(#[from] CatalogError),
    #[error("{name:?} is no file that recovery by this plan can need")]
    NotInPlan { name: String },
    #[error("the history of timeline {timeline} is damaged: {detail}")]
    History { timeline: Timeline, detail: String },
    #[error("the plan in {path} cannot be used: {detail}")]
    Plan { path: PathBuf, detail: String },
    #[error("{action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the running restore could not serve it: {detail}")]
    Prefetcher { detail: String },
    #[error("wal-fetch takes a file name and a path, and was given {found:?}")]
    Arguments { found: Vec<String> },
    #[error("the work stopped in the middle: {detail}")]
    Stopped { detail: String },
}

impl FetchError {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// What a caller may do about the store or the archive; `None` when neither is the cause.
    pub fn class(&self) -> Option<Class> {
        match self {
            Self::Store(error) => Some(error.class()),
            Self::Archive(error) => Some(error.class()),
            Self::History { .. } => Some(Class::Damaged),
            _ => None,
        }
    }

    /// The whole chain of causes in one line.
    pub fn told(&self) -> String {
        crate::fetch::error::chain(self)
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // A transparent error repeats its cause.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
