//! One frame of a base backup, as servers from 15 on send them inside copy data
//! (src/backend/backup/basebackup_copy.c).
//!
//! Enters: the content of one copy-data message. Leaves: what it is. Nothing is stored.

use bytes::{Buf, Bytes};

use super::error::Error;

/// What a frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupFrame {
    /// Nothing: such messages occur.
    Empty,
    /// Bytes of the archive, or of the manifest.
    Data(Bytes),
    /// Bytes sent so far, as the server counts them.
    Progress(u64),
    /// An archive begins: its name, and the place of its tablespace.
    Archive { name: String, location: String },
    /// The manifest begins.
    Manifest,
}

impl BackupFrame {
    /// # Errors
    /// When it is of a kind that no server sends.
    pub fn parse(mut bytes: Bytes) -> Result<Self, Error> {
        if bytes.is_empty() {
            return Ok(Self::Empty);
        }
        Ok(match bytes.get_u8() {
            b'd' => Self::Data(bytes),
            b'p' if bytes.len() == 8 => Self::Progress(bytes.get_u64()),
            b'n' => {
                // Two strings, each ended by a zero.
                let mut parts = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy);
                let mut part = || parts.next().unwrap_or_default().into_owned();
                Self::Archive { name: part(), location: part() }
            }
            b'm' => Self::Manifest,
            kind => {
                return Err(Error::unexpected("a frame of a backup", format!("kind {kind:#04x}")));
            }
        })
    }
}
