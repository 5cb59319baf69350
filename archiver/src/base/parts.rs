//! Pieces of a tar stream become parts: objects of up to 4 MiB, written while the next one fills.
//!
//! Enters: pieces, in order. Leaves: `<stream>.tar.zst.<number>` in the store, and what each one
//! holds. Two frames are compressed at once, one part is on its way while the next one fills: memory
//! is two parts and a few pieces, whatever the database's size and however slow the store is.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use proto::archive::base::{TarPart, TarStream, WithinMember};
use proto::archive::layout::Lineage;
use proto::segment::{Codec, RunningHash, SegmentError};
use proto::store::retry::{Backoff, Policy};
use proto::store::{Body, Class, Key, Put, Range, Store, StoreError};

use super::error::BaseError;
use super::split::Piece;

/// Stored bytes of a part: not more than this.
pub const PART_MAX: usize = 4 << 20;
/// Raw bytes of a part, so that parts of zeros can be unpacked in parallel too.
const PART_RAW_MAX: u64 = 64 << 20;
const COMPRESSORS: usize = 2;
/// Beside the part that fills. Another one would cost four more of the 64 MiB that the whole
/// sidecar may take.
const UPLOADS_MAX: usize = 1;

/// Where a base's objects go.
#[derive(Debug, Clone)]
pub struct Destination {
    pub store: Arc<dyn Store>,
    pub lineage: Lineage,
    pub id: String,
    pub codec: Codec,
    pub policy: Policy,
}

type Compressed = Result<(Piece, Vec<u8>), SegmentError>;
type Job = (Piece, oneshot::Sender<Compressed>);

/// The writer of one tar stream.
#[derive(Debug)]
pub struct PartWriter {
    to: Destination,
    /// `base`, or the oid of a tablespace.
    name: String,
    compressors: [mpsc::Sender<Job>; COMPRESSORS],
    next_compressor: usize,
    compressing: FuturesOrdered<oneshot::Receiver<Compressed>>,
    open: Option<OpenPart>,
    uploads: JoinSet<Result<BytesMut, BaseError>>,
    /// Buffers of parts that are stored, to be filled again.
    free: Vec<BytesMut>,
    parts: Vec<TarPart>,
}

#[derive(Debug)]
struct OpenPart {
    stored: BytesMut,
    hash: RunningHash,
    raw_start: u64,
    within: Option<WithinMember>,
}

impl PartWriter {
    pub fn new(to: Destination, name: String) -> Self {
        let codec = to.codec;
        Self {
            to,
            name,
            compressors: std::array::from_fn(|_| compressor(codec)),
            next_compressor: 0,
            compressing: FuturesOrdered::new(),
            open: None,
            uploads: JoinSet::new(),
            free: Vec::new(),
            parts: Vec::new(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of the parts that are whole.
    pub fn stored_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// Takes the next piece; waits while compression or the store is behind.
    ///
    /// # Errors
    /// When the store or the compressor failed, for this piece or an earlier one.
    pub async fn push(&mut self, piece: Piece) -> Result<(), BaseError> {
        while self.compressing.len() >= COMPRESSORS {
            self.append_next().await?;
        }
        let (answer, compressed) = oneshot::channel();
        let compressor = &self.compressors[self.next_compressor];
        self.next_compressor = (self.next_compressor + 1) % COMPRESSORS;
        compressor.send((piece, answer)).await.map_err(|_| BaseError::CompressorGone)?;
        self.compressing.push_back(compressed);
        Ok(())
    }

    /// Writes what is left and waits until every part is durable.
    ///
    /// # Errors
    /// When the store or the compressor failed.
    pub async fn finish(
        mut self,
        tablespace: Option<u32>,
        raw_bytes: u64,
    ) -> Result<TarStream, BaseError> {
        while !self.compressing.is_empty() {
            self.append_next().await?;
        }
        self.close_part().await?;
        while !self.uploads.is_empty() {
            self.one_stored().await?;
        }
        Ok(TarStream { name: self.name, tablespace, raw_bytes, parts: self.parts })
    }

    async fn append_next(&mut self) -> Result<(), BaseError> {
        let Some(compressed) = self.compressing.next().await else { return Ok(()) };
        let (piece, frame) = compressed
            .map_err(|_| BaseError::CompressorGone)?
            .map_err(|source| BaseError::Compress { stream: self.name.clone(), source })?;
        if self.open.as_ref().is_some_and(|part| part.ends_before(&piece, frame.len())) {
            self.close_part().await?;
        }
        if self.open.is_none() {
            let stored = self.free.pop().unwrap_or_else(|| BytesMut::with_capacity(PART_MAX));
            let (raw_start, within) = (piece.start, piece.within.clone());
            self.open = Some(OpenPart { stored, hash: RunningHash::default(), raw_start, within });
        }
        if let Some(part) = &mut self.open {
            part.stored.extend_from_slice(&frame);
            part.hash.update(&piece.raw);
        }
        Ok(())
    }

    async fn close_part(&mut self) -> Result<(), BaseError> {
        let Some(part) = self.open.take() else { return Ok(()) };
        while self.uploads.len() >= UPLOADS_MAX {
            self.one_stored().await?;
        }
        let object = format!("{}.tar.zst.{:06}", self.name, self.parts.len() + 1);
        self.parts.push(TarPart {
            object: object.clone(),
            bytes: part.stored.len() as u64,
            raw_start: part.raw_start,
            raw_bytes: part.hash.bytes(),
            hash: part.hash.now(),
            within: part.within,
        });
        let (to, body) = (self.to.clone(), part.stored.freeze());
        self.uploads.spawn(async move {
            to.put(&object, body.clone()).await?;
            Ok(body.try_into_mut().unwrap_or_else(|_shared| BytesMut::with_capacity(PART_MAX)))
        });
        Ok(())
    }

    async fn one_stored(&mut self) -> Result<(), BaseError> {
        if let Some(stored) = self.uploads.join_next().await {
            let mut buffer = stored??;
            buffer.clear();
            self.free.push(buffer);
        }
        Ok(())
    }
}

/// A thread that compresses until the sender is dropped. Each holds a context of some megabytes, so
/// there are two and not one for every thread that happens to be free.
fn compressor(codec: Codec) -> mpsc::Sender<Job> {
    let (sender, mut jobs) = mpsc::channel::<Job>(1);
    tokio::task::spawn_blocking(move || {
        while let Some((piece, answer)) = jobs.blocking_recv() {
            let frame = codec.compress(&piece.raw);
            // Nobody waits for it when the base was given up.
            let _ = answer.send(frame.map(|frame| (piece, frame)));
        }
    });
    sender
}

impl OpenPart {
    fn ends_before(&self, piece: &Piece, frame: usize) -> bool {
        let (stored, raw) = (self.stored.len(), self.hash.bytes());
        let full = stored + frame > PART_MAX || raw + piece.raw.len() as u64 > PART_RAW_MAX;
        let nearly = stored > PART_MAX / 8 * 7 || raw > PART_RAW_MAX / 8 * 7;
        full || (nearly && piece.within.is_none())
    }
}

impl Destination {
    /// Creates one object of the base, asking again as the policy says.
    ///
    /// # Errors
    /// When the store fails for good, or other bytes stand under the key.
    pub async fn put(&self, object: &str, bytes: Bytes) -> Result<(), BaseError> {
        let key = self.lineage.base_object(&self.id, object);
        let body = Body::Bytes(bytes.clone());
        let mut again = Again::new(self.policy);
        loop {
            match self.store.put(&key, &body).await {
                Ok(Put::Created) => return Ok(()),
                Ok(Put::Exists) => break,
                Err(error) => again.wait(error).await?,
            }
        }
        loop {
            match self.holds(&key, &bytes).await {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(BaseError::Taken { key }),
                Err(error) => again.wait(error).await?,
            }
        }
    }

    /// Whether the object is these bytes: an earlier attempt whose answer was lost.
    async fn holds(&self, key: &Key, bytes: &Bytes) -> Result<bool, StoreError> {
        const STEP: usize = 1 << 20;
        if self.store.head(key).await? != Some(bytes.len() as u64) {
            return Ok(false);
        }
        for (at, piece) in bytes.chunks(STEP).enumerate() {
            let range = Range::At { offset: (at * STEP) as u64, len: piece.len() as u64 };
            if self.store.get(key, range).await? != piece {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The waits between attempts. (`retrying` takes a closure whose future cannot be shown to be
/// `Send` in a spawned task.)
struct Again {
    policy: Policy,
    backoff: Backoff,
}

impl Again {
    fn new(policy: Policy) -> Self {
        Self { policy, backoff: Backoff::new() }
    }

    /// Waits, or returns the error when asking again is of no use.
    async fn wait(&mut self, error: StoreError) -> Result<(), StoreError> {
        let more = match (self.policy, error.class()) {
            (_, Class::Absent | Class::Damaged) | (Policy::Attempts(_), Class::Config) => false,
            (Policy::Forever, _) => true,
            (Policy::Attempts(max), Class::Retry) => self.backoff.attempts() + 1 < max,
        };
        if !more {
            return Err(error);
        }
        let wait = self.backoff.next_wait();
        tracing::warn!(%error, ?wait, "the store failed, asking again");
        tokio::time::sleep(wait).await;
        Ok(())
    }
}
