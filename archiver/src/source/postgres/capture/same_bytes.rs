//! Does the server hold the very bytes that the archive ends with? A clone has the same identifier
//! and the same timeline, and soon other bytes: asked before the writer epoch is taken, so that the
//! writer of the archive never notices it (DESIGN §5.6, §5.7).
//!
//! Enters: the archive's end, a connection, and how far both share a timeline. Leaves: yes, no, or
//! that the server no longer has these bytes. The stream is read without a slot and nothing is
//! reported as flushed: nothing is held, moved or kept.

use proto::position::ByteCount;
use proto::postgres::lsn::{Lsn, SegmentSize, Timeline};
use proto::segment::{Hash, RunningHash};

use super::CaptureError;
use crate::ship::resume::End;
use crate::source::postgres::stream::StreamEvent;
use crate::source::postgres::{Class, Error, Session, StreamOptions};

/// So much of the end is compared: what differs anywhere before differs there too.
const COMPARED_MAX: u64 = 16 << 20;
/// Less than a page of an open segment proves little: the one before it is compared too.
const LITTLE: u64 = 8 << 10;

/// What the bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Same {
    Proved,
    /// The server no longer has them, or does not reach them.
    Unknown,
}

/// # Errors
/// [`CaptureError::OtherBytes`]; [`CaptureError::Source`] when the server does not answer.
pub(super) async fn check(
    session: Session,
    end: &End,
    size: SegmentSize,
    shared: Lsn,
) -> Result<Same, CaptureError> {
    let mut expected = Expected::new(end, size, shared);
    if expected.at >= expected.until {
        session.close().await;
        return Ok(Same::Unknown);
    }
    let timeline = Timeline::from(end.store.epoch);
    match compare(session, timeline, &mut expected).await {
        Ok(()) if expected.at >= expected.until => Ok(Same::Proved),
        Ok(()) => Ok(Same::Unknown),
        Err(CaptureError::Source(error)) if cannot_give(&error) => {
            tracing::warn!(
                %timeline, from = %expected.at, until = %expected.until, %error,
                "the server no longer has the bytes that the archive ends with: not compared"
            );
            Ok(Same::Unknown)
        }
        Err(error) => Err(error),
    }
}

fn cannot_give(error: &Error) -> bool {
    matches!(error.class(), Class::WalRemoved | Class::PositionRefused)
}

async fn compare(
    session: Session,
    timeline: Timeline,
    expected: &mut Expected<'_>,
) -> Result<(), CaptureError> {
    let endpoint = session.server().endpoint.to_string();
    // Not even as written: nobody's commit waits for this.
    let options = StreamOptions { write_follows_flush: true, ..StreamOptions::default() };
    let started = session.start_replication(None, timeline, expected.at, options).await;
    let mut stream = started?;
    while expected.at < expected.until {
        match stream.next().await? {
            StreamEvent::Data { bytes, .. } => {
                if let Err(at) = expected.take(&bytes) {
                    stream.close().await;
                    return Err(CaptureError::OtherBytes { endpoint, at, timeline });
                }
            }
            StreamEvent::Keepalive { .. } => {}
            StreamEvent::ShutdownSuspected { .. }
            | StreamEvent::Ended { .. }
            | StreamEvent::ServerStopped => break,
        }
    }
    stream.close().await;
    Ok(())
}

/// What the archive holds of the stream that is read.
struct Expected<'a> {
    /// The next byte of the stream, and the first one that is not compared.
    at: Lsn,
    until: Lsn,
    /// Where the open segment begins, and what the archive holds of it.
    start: Lsn,
    raw: &'a [u8],
    /// The segment before it as far as it was streamed, and the archived one.
    before: RunningHash,
    previous: Hash,
}

impl<'a> Expected<'a> {
    fn new(end: &'a End, size: SegmentSize, shared: Lsn) -> Self {
        let start = Lsn::from(end.store.start);
        let (raw, previous) = (&end.store.raw[..], end.store.previous);
        let until = Lsn(start.0 + raw.len() as u64).min(shared);
        let of_previous = previous != Hash::NONE && size.bytes() <= COMPARED_MAX && shared >= start;
        let at = if of_previous && until.since(start).0 < LITTLE {
            Lsn(start.0.saturating_sub(size.bytes()))
        } else {
            start.max(Lsn(until.0.saturating_sub(COMPARED_MAX)))
        };
        Self { at, until, start, raw, before: RunningHash::default(), previous }
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// Up to where they differ from what the archive holds.
    fn take(&mut self, bytes: &[u8]) -> Result<(), Lsn> {
        let (wanted, _) = split(bytes, self.until.since(self.at));
        let (of_previous, own) = split(wanted, self.start.since(self.at));
        if !of_previous.is_empty() {
            self.before.update(of_previous);
            self.at = Lsn(self.at.0 + of_previous.len() as u64);
            if self.at == self.start && self.before.now() != self.previous {
                return Err(self.at);
            }
        }
        let (_, held) = split(self.raw, self.at.since(self.start));
        if let Some(nth) = own.iter().zip(held).position(|(sent, held)| sent != held) {
            return Err(Lsn(self.at.0 + nth as u64 + 1));
        }
        self.at = Lsn(self.at.0 + own.len() as u64);
        Ok(())
    }
}

fn split(bytes: &[u8], at: ByteCount) -> (&[u8], &[u8]) {
    bytes.split_at(usize::try_from(at.0).map_or(bytes.len(), |at| at.min(bytes.len())))
}

#[cfg(test)]
mod tests {
    use proto::archive::chain::Chain;
    use proto::position::{Epoch, Position};

    use super::*;
    use crate::spool::WalSegments;
    use crate::spool::recover::StoreEnd;

    const SIZE: u64 = 1 << 20;
    const START: u64 = 5 * SIZE;
    const FAR: Lsn = Lsn(u64::MAX);

    fn size() -> SegmentSize {
        SegmentSize::try_from(SIZE).expect("a size")
    }

    /// An archive that ends with so many ones in segment 5, behind a segment of sevens.
    fn end(ones: usize) -> End {
        let slot = WalSegments(size()).slot(Position::new(Epoch(1), Lsn(START).into()));
        let previous = Hash::of(&vec![7; 1 << 20]);
        let (start, slot) = (slot.start, Some(slot));
        let store = StoreEnd { epoch: Epoch(1), start, slot, previous, raw: vec![1; ones] };
        End { store, chain: Chain::default(), durable: None, before: None }
    }

    /// In pieces, as a server sends them.
    fn sent(expected: &mut Expected<'_>, bytes: &[u8]) -> Result<(), Lsn> {
        bytes.chunks(3000).try_for_each(|piece| expected.take(piece))
    }

    #[test]
    fn a_byte_that_differs_from_the_archived_one_is_found() {
        let end = end(10_000);
        let mut expected = Expected::new(&end, size(), FAR);
        assert_eq!((expected.at, expected.until), (Lsn(START), Lsn(START + 10_000)));
        let mut bytes = vec![1; 10_000];
        bytes[9_999] = 2;
        assert_eq!(sent(&mut expected, &bytes), Err(Lsn(START + 10_000)));
        // What stands behind the archive's end is nobody's concern.
        let mut expected = Expected::new(&end, size(), FAR);
        bytes[9_999] = 1;
        bytes.extend([2; 5000]);
        assert_eq!(sent(&mut expected, &bytes), Ok(()));
        assert_eq!(expected.at, expected.until);
    }

    #[test]
    fn where_the_open_segment_holds_little_the_one_before_it_is_compared_too() {
        let end = end(100);
        for (sevens, found) in [(7, Ok(())), (8, Err(Lsn(START)))] {
            let mut expected = Expected::new(&end, size(), FAR);
            assert_eq!(expected.at, Lsn(START - SIZE));
            let mut bytes = vec![sevens; 1 << 20];
            bytes.extend([1; 100]);
            assert_eq!(sent(&mut expected, &bytes), found);
        }
    }

    #[test]
    fn nothing_is_compared_behind_where_two_timelines_part() {
        let end = end(10_000);
        let expected = Expected::new(&end, size(), Lsn(START + 9_000));
        assert_eq!((expected.at, expected.until), (Lsn(START), Lsn(START + 9_000)));
        let expected = Expected::new(&end, size(), Lsn(START - 1));
        assert!(expected.at >= expected.until);
    }
}
