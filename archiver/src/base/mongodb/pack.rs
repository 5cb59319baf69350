//! Documents become objects: frames of whole documents, objects of up to 4 MiB.
//!
//! Enters: raw documents, one after the other. Leaves: objects in the store and what each one
//! holds. A frame and an object are all that is kept in memory. After a crash the objects written
//! so far belong to no base.

use bytes::{Bytes, BytesMut};

use proto::mongodb::base::PieceObject;
use proto::segment::{FRAME_RAW, RunningHash};

use super::copy::Meters;
use crate::base::BaseError;
use crate::base::parts::{Destination, PART_MAX};

/// Raw bytes of an object, so that well-compressed ones can be loaded in parallel too.
const OBJECT_RAW_MAX: u64 = 64 << 20;

/// The writer of one piece.
pub(super) struct Packer<'a, 'm> {
    to: &'a Destination,
    meters: &'a Meters<'m>,
    /// `00012-001-1`: collection, range, attempt.
    name: String,
    frame: Vec<u8>,
    /// Documents in the frame.
    framed: u64,
    open: Open,
    objects: Vec<PieceObject>,
}

struct Open {
    stored: BytesMut,
    hash: RunningHash,
    documents: u64,
}

impl Open {
    /// Of its full size at once: memory that is not written to is not taken, and a buffer that grows is
    /// there twice.
    fn new() -> Self {
        let (stored, hash) = (BytesMut::with_capacity(PART_MAX), RunningHash::default());
        Self { stored, hash, documents: 0 }
    }
}

impl<'a, 'm> Packer<'a, 'm> {
    pub(super) fn new(to: &'a Destination, meters: &'a Meters<'m>, name: String) -> Self {
        let (frame, open, objects) = (Vec::new(), Open::new(), Vec::new());
        Self { to, meters, name, frame, framed: 0, open, objects }
    }

    pub(super) async fn push(&mut self, document: &[u8]) -> Result<(), BaseError> {
        if !self.frame.is_empty() && self.frame.len() + document.len() > FRAME_RAW {
            self.close_frame().await?;
        }
        self.frame.extend_from_slice(document);
        self.framed += 1;
        Ok(())
    }

    /// Writes what is left; returns when all objects are durable.
    pub(super) async fn finish(mut self) -> Result<Vec<PieceObject>, BaseError> {
        self.close_frame().await?;
        self.close_object().await?;
        Ok(self.objects)
    }

    async fn close_frame(&mut self) -> Result<(), BaseError> {
        if self.frame.is_empty() {
            return Ok(());
        }
        let (codec, raw) = (self.to.codec, std::mem::take(&mut self.frame));
        let packed = tokio::task::spawn_blocking(move || (codec.compress(&raw), raw)).await?;
        let (compressed, raw) = packed;
        let compressed = compressed
            .map_err(|source| BaseError::Compress { stream: self.name.clone(), source })?;
        let full = self.open.stored.len() + compressed.len() > PART_MAX
            || self.open.hash.bytes() + raw.len() as u64 > OBJECT_RAW_MAX;
        if full {
            self.close_object().await?;
        }
        self.open.stored.extend_from_slice(&compressed);
        self.open.hash.update(&raw);
        self.open.documents += std::mem::take(&mut self.framed);
        self.meters.read(raw.len() as u64);
        self.frame = raw;
        self.frame.clear();
        // One large document must not hold its memory for the rest of the collection.
        self.frame.shrink_to(2 * FRAME_RAW);
        Ok(())
    }

    async fn close_object(&mut self) -> Result<(), BaseError> {
        let open = std::mem::replace(&mut self.open, Open::new());
        if open.stored.is_empty() {
            return Ok(());
        }
        let object = format!("{}.bson.zst.{:06}", self.name, self.objects.len() + 1);
        let stored: Bytes = open.stored.freeze();
        let bytes = stored.len() as u64;
        self.to.put(&object, stored).await?;
        self.meters.stored(bytes);
        let (raw_bytes, hash) = (open.hash.bytes(), open.hash.now());
        let documents = open.documents;
        self.objects.push(PieceObject { object, bytes, raw_bytes, documents, hash });
        Ok(())
    }
}
