//! `backup_label`, the file that tells recovery where to begin (xlogbackup.c, `build_backup_content`).
//!
//! Enters: the file's text. Leaves: its facts, to be compared with what the server said.

use proto::postgres::lsn::{Lsn, Timeline};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupLabel {
    /// The redo point.
    pub start: Lsn,
    pub checkpoint: Option<Lsn>,
    pub timeline: Option<Timeline>,
    pub from_standby: bool,
}

impl BackupLabel {
    /// `None` when the text has no start.
    pub fn parse(text: &str) -> Option<Self> {
        let value =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let first_word = |text: &str| text.split(' ').next().and_then(|word| word.parse().ok());
        Some(Self {
            start: value("START WAL LOCATION").and_then(first_word)?,
            checkpoint: value("CHECKPOINT LOCATION").and_then(first_word),
            timeline: value("START TIMELINE").and_then(|text| text.parse().ok()).map(Timeline),
            from_standby: value("BACKUP FROM") == Some("standby"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_read() {
        let text = "START WAL LOCATION: 0/A000028 (file 00000001000000000000000A)\n\
            CHECKPOINT LOCATION: 0/A000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
            START TIME: 2026-11-20 14:19:47 UTC\nLABEL: a: b\nSTART TIMELINE: 3\n";
        let label = BackupLabel::parse(text).expect("a label");
        assert_eq!(label.start, Lsn(0x0A00_0028));
        assert_eq!(label.checkpoint, Some(Lsn(0x0A00_0060)));
        assert_eq!(label.timeline, Some(Timeline(3)));
        assert!(!label.from_standby);
        assert_eq!(BackupLabel::parse("LABEL: START WAL LOCATION: 0/1\n"), None);
    }
}
