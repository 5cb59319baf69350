//! Secrets on a command line: everybody on the machine can read them there.
//!
//! Enters: words. Leaves: whether one holds a secret; the word itself is never repeated.

use std::ffi::OsString;

use super::error::{CliError, ErrorCode};

/// Keys whose value is a secret wherever they stand: libpq's, and those of the AWS chain.
const KEYS: [&str; 5] =
    ["password=", "passwd=", "secret_access_key=", "secret-access-key=", "session_token="];

pub(super) fn refuse<C: ErrorCode>(
    arguments: &[OsString],
    more: fn(&str) -> bool,
) -> Result<(), CliError<C>> {
    let words = arguments.iter().skip(1).map(|word| word.to_string_lossy());
    if !words.into_iter().any(|word| is_secret(&word) || more(&word)) {
        return Ok(());
    }
    Err(CliError::new(
        C::SECRET,
        "a password stands on the command line, where every user of this machine can read it",
        "change it; then give it in ~/.pgpass, PGPASSWORD, a service file, the file of --config or the AWS credential chain",
    ))
}

/// Whether it has a key for a secret, or a URL with `user:password@`.
fn is_secret(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    let user_info = word.split_once("://").and_then(|(_, rest)| {
        rest.split(['/', '?']).next().and_then(|authority| authority.rsplit_once('@'))
    });
    user_info.is_some_and(|(user, _)| user.split_once(':').is_some_and(|(_, p)| !p.is_empty()))
        || KEYS.iter().any(|key| lower.contains(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_seen_in_every_notation() {
        for word in [
            "s3://key:hush@bucket/prefix",
            "--source=postgresql://me:hush@host/db",
            "postgresql://me@host/?password=hush",
            "host=a PassWord=hush",
            "s3://b/p?secret-access-key=hush",
        ] {
            assert!(is_secret(word), "{word}");
        }
        for word in ["me@host:5432", "postgresql://me@host:5432/db", "a@b:c", "passfile=/x", "://@"]
        {
            assert!(!is_secret(word), "{word}");
        }
    }
}
