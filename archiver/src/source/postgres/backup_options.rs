//! How a base backup is asked for, in the words of each version (repl_gram.y).

use super::error::Error;
use super::session::VERSION_OPTION_LIST;

pub(super) const COMMAND: &str = "BASE_BACKUP";
/// basebackup.c, `MAX_RATE_LOWER` and `MAX_RATE_UPPER`.
const RATES: std::ops::RangeInclusive<u32> = 32..=1_048_576;
/// xlog.c refuses more (MAXPGPATH).
const LABEL_BYTES_MAX: usize = 1024;

/// How fast the server may read its disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checkpoint {
    /// Begin at once.
    #[default]
    Fast,
    /// Begin at the end of a checkpoint that takes its time.
    Spread,
}

/// Kilobytes a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxRate(u32);

#[derive(Clone, Debug)]
pub struct BackupOptions {
    pub label: String,
    pub checkpoint: Checkpoint,
    pub max_rate: Option<MaxRate>,
}

impl BackupOptions {
    pub(super) fn command(&self, version: u32) -> Result<String, Error> {
        if self.label.len() > LABEL_BYTES_MAX || self.label.contains(['\0', '\n']) {
            return Err(Error::unexpected("a label of one line below 1024 bytes", &self.label));
        }
        let label = format!("LABEL '{}'", self.label.replace('\'', "''"));
        let rate = self.max_rate.map(|rate| format!("MAX_RATE {}", rate.0));
        let fast = self.checkpoint == Checkpoint::Fast;
        let new = version >= VERSION_OPTION_LIST;
        let checkpoint = match (new, fast) {
            (true, true) => Some("CHECKPOINT 'fast'"),
            (true, false) => Some("CHECKPOINT 'spread'"),
            (false, true) => Some("FAST"),
            (false, false) => None,
        };
        let wait = if new { "WAIT 0" } else { "NOWAIT" };
        let mut words = vec![label, "PROGRESS".to_owned()];
        words.extend(checkpoint.map(str::to_owned));
        words.extend(
            [wait, "TABLESPACE_MAP", "MANIFEST 'yes'", "MANIFEST_CHECKSUMS 'SHA256'"]
                .map(str::to_owned),
        );
        words.extend(rate);
        Ok(if new {
            format!("{COMMAND} ({})", words.join(", "))
        } else {
            format!("{COMMAND} {}", words.join(" "))
        })
    }
}

impl MaxRate {
    /// # Errors
    /// When the server would refuse it.
    pub fn kilobytes(kilobytes: u32) -> Result<Self, Error> {
        if RATES.contains(&kilobytes) {
            Ok(Self(kilobytes))
        } else {
            Err(Error::MaxRate { kilobytes })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_is_asked_for_as_each_version_wants_it() {
        let options = BackupOptions {
            label: "it's".into(),
            checkpoint: Checkpoint::Fast,
            max_rate: Some(MaxRate::kilobytes(32).expect("the least")),
        };
        assert_eq!(
            options.command(140_023).expect("valid"),
            "BASE_BACKUP LABEL 'it''s' PROGRESS FAST NOWAIT TABLESPACE_MAP MANIFEST 'yes' \
             MANIFEST_CHECKSUMS 'SHA256' MAX_RATE 32"
        );
        assert_eq!(
            options.command(150_000).expect("valid"),
            "BASE_BACKUP (LABEL 'it''s', PROGRESS, CHECKPOINT 'fast', WAIT 0, TABLESPACE_MAP, \
             MANIFEST 'yes', MANIFEST_CHECKSUMS 'SHA256', MAX_RATE 32)"
        );
        let label = "x".repeat(1025);
        assert!(BackupOptions { label, ..options }.command(150_000).is_err());
    }

    #[test]
    fn a_rate_that_the_server_would_refuse_is_refused_here() {
        for kilobytes in [0, 31, 1_048_577] {
            assert!(MaxRate::kilobytes(kilobytes).is_err());
        }
        assert!(MaxRate::kilobytes(1_048_576).is_ok());
    }
}
