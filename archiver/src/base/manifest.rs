//! The server's own manifest (`backup_manifest`), which `pg_verifybackup` reads.
//!
//! Enters: its bytes. Leaves: one compressed object, held in memory until it is whole.

use bytes::BytesMut;

use proto::archive::base::ObjectRef;
use proto::segment::{Codec, FRAME_RAW, RunningHash};

use super::error::BaseError;

/// A manifest has about 200 bytes a file, a quarter of that compressed: 300,000 files. One that is
/// larger is left out, with a warning, rather than held in memory.
const MANIFEST_MAX: usize = 16 << 20;

/// The server's manifest, compressed as it comes.
pub(super) struct Manifest {
    codec: Codec,
    raw: Vec<u8>,
    hash: RunningHash,
    stored: BytesMut,
    too_large: bool,
}

impl Manifest {
    pub(super) fn new(codec: Codec) -> Self {
        let (raw, hash, stored) = (Vec::new(), RunningHash::default(), BytesMut::new());
        Self { codec, raw, hash, stored, too_large: false }
    }

    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), BaseError> {
        self.hash.update(bytes);
        while !bytes.is_empty() && !self.too_large {
            let taken = bytes.len().min(FRAME_RAW - self.raw.len());
            self.raw.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.raw.len() == FRAME_RAW {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BaseError> {
        let compressed = self.codec.compress(&self.raw);
        let stream = || "backup_manifest".to_owned();
        let frame =
            compressed.map_err(|source| BaseError::Compress { stream: stream(), source })?;
        self.raw.clear();
        self.stored.extend_from_slice(&frame);
        if self.stored.len() > MANIFEST_MAX {
            tracing::warn!(
                "the server's manifest is too large and left out: pg_verifybackup cannot be used"
            );
            self.too_large = true;
            self.stored = BytesMut::new();
        }
        Ok(())
    }

    pub(super) fn finish(&mut self) -> Result<Option<(ObjectRef, BytesMut)>, BaseError> {
        if self.hash.bytes() == 0 {
            return Ok(None);
        }
        if !self.raw.is_empty() {
            self.flush()?;
        }
        if self.too_large {
            return Ok(None);
        }
        let object = ObjectRef {
            object: "backup_manifest.zst".to_owned(),
            bytes: self.stored.len() as u64,
            raw_bytes: self.hash.bytes(),
            hash: self.hash.now(),
        };
        Ok(Some((object, std::mem::take(&mut self.stored))))
    }
}
