//! What an answer, or the lack of one, means: by its code, status and type.
//!
//! Messages carry the API's code and never its text: the text of `SignatureDoesNotMatch`, for one,
//! repeats what was signed.

use std::error::Error;
use std::io;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_checksums::body::validate::Error as ChecksumError;

use super::super::{Class, StoreError};

/// What was asked, for the message.
#[derive(Debug, Clone)]
pub(super) struct Asked<'a> {
    pub(super) address: &'a str,
    /// What did not answer: an address alone would not tell a mistyped one.
    pub(super) endpoint: Option<&'a str>,
    pub(super) action: &'static str,
    pub(super) key: &'a str,
}

/// The code and status of a refusal that has come back as an answer.
pub(super) fn answer<E: ProvideErrorMetadata>(error: &SdkError<E>) -> Option<(&str, u16)> {
    let SdkError::ServiceError(answer) = error else { return None };
    Some((answer.err().code().unwrap_or_default(), answer.raw().status().as_u16()))
}

/// Whether other credentials might be answered otherwise.
pub(super) fn blames_credentials<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    match answer(error) {
        Some((code, status)) => {
            matches!(
                code,
                "ExpiredToken"
                    | "ExpiredTokenException"
                    | "InvalidAccessKeyId"
                    | "InvalidClientTokenId"
                    | "InvalidToken"
                    | "SignatureDoesNotMatch"
                    | "TokenRefreshRequired"
                    | "UnrecognizedClientException"
            ) || (code.is_empty() && matches!(status, 400 | 401 | 403)) // HEAD has no body.
        }
        None => false,
    }
}

impl Asked<'_> {
    pub(super) fn failed<E>(&self, error: &SdkError<E>) -> StoreError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        match error {
            SdkError::ServiceError(_) => {
                let (code, status) = answer(error).unwrap_or_default();
                self.answered(code, status)
            }
            SdkError::ResponseError(response) => {
                let status = response.raw().status().as_u16();
                self.answered("unreadable answer", status)
            }
            SdkError::TimeoutError(_) => self.unreachable("no answer in time", Class::Retry),
            // A request that could not even be made, such as one without a region.
            SdkError::ConstructionFailure(_) if !chain(error).any(|e| e.is::<io::Error>()) => {
                self.unreachable(texts(error), Class::Config)
            }
            other => self.unreachable(texts(other), class_of_failure(other)),
        }
    }

    pub(super) fn answered(&self, code: &str, status: u16) -> StoreError {
        StoreError::Answer {
            address: self.address.to_owned(),
            action: self.action,
            key: self.key.to_owned(),
            code: if code.is_empty() { reason(status) } else { code }.to_owned(),
            status: Some(status),
            class: class_of(code, status),
        }
    }

    pub(super) fn unreachable(&self, detail: impl Into<String>, class: Class) -> StoreError {
        let detail = match self.endpoint {
            Some(endpoint) => format!("{endpoint}: {}", detail.into()),
            None => detail.into(),
        };
        StoreError::Unreachable {
            address: self.address.to_owned(),
            action: self.action,
            key: self.key.to_owned(),
            detail,
            class,
        }
    }

    /// A body that broke off, or whose checksum is not its own.
    pub(super) fn broken_body(&self, error: &(dyn Error + 'static)) -> StoreError {
        let damaged = chain(error).any(|e| e.is::<ChecksumError>());
        self.unreachable(
            texts(error),
            if damaged { Class::Damaged } else { class_of_failure(error) },
        )
    }
}

/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>, and what others send.
fn class_of(code: &str, status: u16) -> Class {
    match (code, status) {
        ("NoSuchKey", _) => Class::Absent,
        (
            "BadDigest"
            | "ConditionalRequestConflict"
            | "IncompleteBody"
            | "InternalError"
            | "OperationAborted"
            | "RequestTimeout"
            | "ServiceUnavailable"
            | "SlowDown"
            | "ThrottlingException"
            | "TooManyRequests"
            | "XAmzContentChecksumMismatch"
            | "XAmzContentSHA256Mismatch",
            _,
        )
        | (_, 200..=299 | 408 | 409 | 425 | 429) => Class::Retry,
        // Not implemented, version not supported: the store will not learn it by being asked again.
        (_, 501 | 505) => Class::Config,
        (_, 500..) => Class::Retry,
        // Permissions, credentials, clock, bucket, region, encryption: somebody must change it.
        _ => Class::Config,
    }
}

/// A failure without an answer: no credentials or no trust is for somebody to mend; all else passes.
fn class_of_failure(error: &(dyn Error + 'static)) -> Class {
    for cause in chain(error) {
        if let Some(credentials) = cause.downcast_ref::<CredentialsError>() {
            return match credentials {
                CredentialsError::ProviderTimedOut(_) => Class::Retry,
                _ => Class::Config,
            };
        }
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return match tls {
                rustls::Error::DecryptError | rustls::Error::EncryptError => Class::Retry,
                _ => Class::Config,
            };
        }
    }
    Class::Retry
}

/// An error and its causes. An [`io::Error`] is not the source of what it wraps, so that is shown
/// too.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        wrapped.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source())
    })
}

/// What an error and its causes say, each once.
fn texts(error: &(dyn Error + 'static)) -> String {
    let mut said = String::new();
    for cause in chain(error) {
        // Some list what they tried over several lines.
        let text = cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        let says_something = !matches!(text.as_str(), "dispatch failure" | "other");
        if says_something && !said.contains(&text) {
            if !said.is_empty() {
                said.push_str(": ");
            }
            said.push_str(&text);
        }
    }
    said
}

fn reason(status: u16) -> &'static str {
    match status {
        301 | 307 | 308 => "redirected elsewhere",
        400 => "bad request",
        401 => "unauthorized",
        403 => "forbidden",
        404 => "not found",
        405 => "method not allowed",
        429 => "too many requests",
        500..=599 => "server error",
        _ => "unexpected answer",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_classed_by_code_and_status() {
        for (code, status, class) in [
            ("NoSuchKey", 404, Class::Absent),
            ("NoSuchBucket", 404, Class::Config),
            ("", 404, Class::Config),
            ("AccessDenied", 403, Class::Config),
            ("InvalidAccessKeyId", 403, Class::Config),
            ("SignatureDoesNotMatch", 403, Class::Config),
            ("RequestTimeTooSkewed", 403, Class::Config),
            ("PermanentRedirect", 301, Class::Config),
            ("NotImplemented", 501, Class::Config),
            ("SlowDown", 503, Class::Retry),
            ("SlowDown", 400, Class::Retry),
            ("", 500, Class::Retry),
            ("", 429, Class::Retry),
            ("ConditionalRequestConflict", 409, Class::Retry),
            ("BadDigest", 400, Class::Retry),
            ("InternalError", 200, Class::Retry),
        ] {
            assert_eq!(class_of(code, status), class, "{code} {status}");
        }
    }

    #[test]
    fn a_cause_is_found_inside_an_io_error() {
        let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let nested = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, tls));
        assert_eq!(class_of_failure(&nested), Class::Config);
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(class_of_failure(&refused), Class::Retry);
        let none = CredentialsError::not_loaded("nothing in the chain");
        assert_eq!(class_of_failure(&io::Error::other(none)), Class::Config);
    }
}
