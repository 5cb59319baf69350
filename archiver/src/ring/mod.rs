//! From the socket's task to the spool's: a queue bounded by bytes.
//!
//! Enters: what the source yields. Leaves: the same, in order. When it is full the pushing side
//! waits with [`RingSender::room`], beside its keepalives; nothing is ever dropped. A crash loses
//! what is in it: none of it was acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use proto::position::Offset;
use proto::segment::Watermark;
use proto::timestamp::Timestamp;
use tokio::sync::{Notify, mpsc, oneshot};

/// Bytes that may wait in the ring: a frame's worth. What waits longer has left the cores' caches, and
/// the buffers that it came in are not free to be read into again.
pub const RING_BYTES_MAX: usize = 1 << 20;

/// What a source hands on, in the order of the log.
#[derive(Debug)]
pub enum Item {
    /// Log bytes from `start` on; `clock` is the database's, when it sent them.
    Data { start: Offset, bytes: Bytes, clock: Option<Timestamp> },
    /// Everything up to the watermark's offset was handed on before this.
    Mark(Watermark),
    /// The next data begins segment `number`: the one before it ends there. For engines whose
    /// segments have no size of their own; one that is begun already is not begun again.
    Begin { number: u64 },
    /// A new connection begins to send at `from`: bytes that are held already must be the same.
    Resume { from: Offset },
    /// Make durable what is there, now (a clean shutdown of the server waits for it).
    Flush,
    /// A small object (a timeline's history) that must stand in the archive before what follows.
    Object { key: proto::store::Key, bytes: Bytes },
    /// The log of this epoch ends at `end`; what follows is of epoch `next` and begins at `from`.
    Epoch(EpochChange),
    /// The log between what is held and `from` is lost; what follows begins there.
    Skip { from: Offset, done: oneshot::Sender<()> },
}

/// The log goes on in another epoch.
#[derive(Debug, Clone, Copy)]
pub struct EpochChange {
    /// Where the old epoch's log ends for the new one.
    pub at: Offset,
    pub next: proto::position::Epoch,
    /// Where the new epoch's first archived byte stands (a segment's start).
    pub from: Offset,
    /// Hash of the segment before `from`, when that is not the one before the open segment.
    pub previous: Option<proto::segment::Hash>,
}

#[derive(Debug, Default)]
struct Level {
    bytes: AtomicUsize,
    freed: Notify,
}

#[derive(Debug)]
pub struct RingSender {
    items: mpsc::UnboundedSender<Item>,
    level: Arc<Level>,
}

#[derive(Debug)]
pub struct RingReceiver {
    items: mpsc::UnboundedReceiver<Item>,
    level: Arc<Level>,
}

/// The receiving side is gone: the pipeline has stopped.
#[derive(Debug, thiserror::Error)]
#[error("the pipeline has stopped")]
pub struct Closed;

pub fn ring() -> (RingSender, RingReceiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let level = Arc::new(Level::default());
    (RingSender { items: sender, level: level.clone() }, RingReceiver { items: receiver, level })
}

impl Item {
    fn weight(&self) -> usize {
        match self {
            Self::Data { bytes, .. } => bytes.len(),
            _ => 0,
        }
    }
}

impl RingSender {
    /// Hands an item on without waiting. Call [`Self::room`] before the next data.
    ///
    /// # Errors
    /// [`Closed`] when nobody receives any more.
    pub fn push(&self, item: Item) -> Result<(), Closed> {
        self.level.bytes.fetch_add(item.weight(), Ordering::AcqRel);
        self.items.send(item).map_err(|_| Closed)
    }

    pub fn is_full(&self) -> bool {
        self.level.bytes.load(Ordering::Acquire) >= RING_BYTES_MAX
    }

    /// Bytes that wait in the ring.
    pub fn bytes(&self) -> usize {
        self.level.bytes.load(Ordering::Acquire)
    }

    /// Waits until there is room. Cancel-safe.
    pub async fn room(&self) {
        loop {
            let freed = self.level.freed.notified();
            if !self.is_full() || self.items.is_closed() {
                return;
            }
            freed.await;
        }
    }
}

impl RingReceiver {
    /// The next item; `None` when the source is gone for good. Cancel-safe.
    pub async fn next(&mut self) -> Option<Item> {
        let item = self.items.recv().await?;
        self.level.bytes.fetch_sub(item.weight(), Ordering::AcqRel);
        self.level.freed.notify_waiters();
        Some(item)
    }
}

impl Drop for RingReceiver {
    fn drop(&mut self) {
        self.items.close();
        self.level.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_ring_makes_the_source_wait_and_loses_nothing() {
        let (sender, mut receiver) = ring();
        let piece = Bytes::from(vec![1_u8; RING_BYTES_MAX / 2]);
        for n in 0..2 {
            let start = Offset(n * piece.len() as u64);
            sender.push(Item::Data { start, bytes: piece.clone(), clock: None }).expect("open");
        }
        assert!(sender.is_full());
        let waited = tokio::join!(sender.room(), async { receiver.next().await });
        assert!(matches!(waited.1, Some(Item::Data { start: Offset(0), .. })));
        assert_eq!(sender.bytes(), piece.len());
    }
}
