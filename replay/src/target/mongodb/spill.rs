//! Log that waits for the end of its transaction: in memory up to a bound, behind it in a file.
//!
//! Enters: entries. Leaves: the same, one at a time. The file has no name from its first moment on, so
//! that no crash leaves it behind; it is emptied whenever nothing waits.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use bson::{RawDocument, RawDocumentBuf};

/// Bytes of entries that are held in memory, of all transactions that are open.
pub(super) const MEMORY_MAX: usize = 64 << 20;

#[derive(Debug)]
pub(super) struct Spill {
    limit: usize,
    /// Bytes that stand in memory.
    held: usize,
    file: Option<File>,
    /// Bytes of the file.
    end: u64,
}

/// An entry that waits.
#[derive(Debug)]
pub(super) enum Waiting {
    Held(RawDocumentBuf),
    Filed { at: u64, length: usize },
}

impl Default for Spill {
    fn default() -> Self {
        Self::new(MEMORY_MAX)
    }
}

impl Spill {
    pub(super) const fn new(limit: usize) -> Self {
        Self { limit, held: 0, file: None, end: 0 }
    }

    /// Keeps an entry.
    ///
    /// # Errors
    /// When the file cannot be made or written.
    pub(super) fn keep(&mut self, entry: &RawDocument) -> io::Result<Waiting> {
        let length = entry.as_bytes().len();
        if self.held + length <= self.limit {
            self.held += length;
            return Ok(Waiting::Held(entry.to_owned()));
        }
        let mut file = match self.file.take() {
            Some(file) => file,
            None => tempfile::tempfile()?,
        };
        let at = self.end;
        file.seek(SeekFrom::Start(at))?;
        file.write_all(entry.as_bytes())?;
        self.end += length as u64;
        self.file = Some(file);
        Ok(Waiting::Filed { at, length })
    }

    /// The entry again; it waits no longer.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn take(&mut self, waiting: Waiting) -> io::Result<RawDocumentBuf> {
        let (at, length) = match waiting {
            Waiting::Held(entry) => {
                self.held -= entry.as_bytes().len();
                return Ok(entry);
            }
            Waiting::Filed { at, length } => (at, length),
        };
        let mut bytes = vec![0; length];
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        file.read_exact_at(&mut bytes, at)?;
        RawDocumentBuf::from_bytes(bytes)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// An entry whose transaction comes to nothing.
    pub(super) fn drop(&mut self, waiting: &Waiting) {
        if let Waiting::Held(entry) = waiting {
            self.held -= entry.as_bytes().len();
        }
    }

    /// Nothing waits any more: the file's room is given back.
    ///
    /// # Errors
    /// When the file cannot be cut.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        if let Some(file) = self.file.as_ref().filter(|_| self.end > 0) {
            file.set_len(0)?;
            self.end = 0;
        }
        Ok(())
    }

    /// Bytes in memory, and in the file.
    #[cfg(test)]
    pub(super) const fn sizes(&self) -> (usize, u64) {
        (self.held, self.end)
    }
}
