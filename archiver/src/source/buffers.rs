//! Buffers that serve again: fresh memory costs a page fault every 4 KiB, which is more than what is
//! done with the bytes.

use std::collections::VecDeque;

use bytes::BytesMut;

/// So many are kept: by the time the first of them is wanted again, whoever took parts of it is mostly
/// done with them.
const KEPT: usize = 3;

/// Buffers whose parts may be in use still, oldest first.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    used: VecDeque<BytesMut>,
}

impl Buffers {
    /// An empty buffer of at least `wanted` bytes: one whose parts nobody uses any more, if it is the
    /// oldest one's turn, or a new one.
    pub(super) fn take(&mut self, wanted: usize) -> BytesMut {
        let mut buffer = self.used.pop_front().unwrap_or_default();
        buffer.clear();
        if buffer.try_reclaim(wanted) { buffer } else { BytesMut::with_capacity(wanted) }
    }

    /// Keeps what is left of a buffer that parts were split off from.
    pub(super) fn give(&mut self, used: BytesMut) {
        if self.used.len() < KEPT {
            self.used.push_back(used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a buffer that was filled and handed on serves again, while its part is held or not.
    fn serves_again(hold: bool) -> bool {
        let mut buffers = Buffers::default();
        let mut buffer = buffers.take(1000);
        buffer.extend_from_slice(&[7; 900]);
        let (place, part) = (buffer.as_ptr(), buffer.split().freeze());
        buffers.give(buffer);
        let held = hold.then_some(part);
        let mut next = buffers.take(1000);
        assert!(next.is_empty() && next.capacity() >= 1000);
        next.extend_from_slice(&[8; 1000]);
        assert!(held.is_none_or(|part| part == [7; 900][..]), "what is in use is left alone");
        next.as_ptr() == place
    }

    #[test]
    fn a_buffer_serves_again_once_nobody_holds_a_part_of_it() {
        assert!(serves_again(false));
        assert!(!serves_again(true));
    }
}
