//! Buffers that serve again: fresh memory costs a page fault every 4 KiB, which is more than what is
//! done with the bytes.

use std::collections::VecDeque;

use bytes::BytesMut;

/// So many are kept: by the time the first of them is wanted again, whoever took parts of it is mostly
/// done with them.
const KEPT: usize = 3;

/// Buffers of one size whose parts may be in use still, oldest first.
#[derive(Debug)]
pub(super) struct Buffers {
    size: usize,
    used: VecDeque<BytesMut>,
}

impl Buffers {
    pub(super) const fn of(size: usize) -> Self {
        Self { size, used: VecDeque::new() }
    }

    /// An empty buffer with room for `wanted` bytes, and mostly for more: the oldest one, if nobody uses
    /// a part of it any more, or a new one.
    pub(super) fn take(&mut self, wanted: usize) -> BytesMut {
        let mut buffer = self.used.pop_front().unwrap_or_default();
        buffer.clear();
        let fits = wanted <= self.size && buffer.try_reclaim(self.size);
        if fits { buffer } else { BytesMut::with_capacity(wanted.max(self.size)) }
    }

    /// Keeps what is left of a buffer of `whole` bytes that parts were split off from. One that had to
    /// be larger goes with its parts: a large document must not hold its memory for ever.
    pub(super) fn give(&mut self, used: BytesMut, whole: usize) {
        if whole <= self.size && self.used.len() < KEPT {
            self.used.push_back(used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a buffer of 1000 bytes that was filled with so many and handed on serves again.
    fn serves_again(filled: usize, hold: bool) -> bool {
        let mut buffers = Buffers::of(1000);
        let mut buffer = buffers.take(0);
        buffer.extend_from_slice(&vec![7; filled]);
        let (place, part) = (buffer.as_ptr(), buffer.split().freeze());
        buffers.give(buffer, filled);
        let held = hold.then_some(part);
        let mut next = buffers.take(0);
        assert!(next.is_empty() && (1000..2000).contains(&next.capacity()));
        next.extend_from_slice(&[8; 1000]);
        assert!(held.is_none_or(|part| part == vec![7; filled]), "what is in use is left alone");
        next.as_ptr() == place
    }

    #[test]
    fn a_buffer_serves_again_once_nobody_holds_a_part_of_it() {
        assert!(serves_again(900, false));
        assert!(!serves_again(900, true));
    }

    #[test]
    fn a_buffer_that_had_to_be_large_is_not_kept() {
        assert!(!serves_again(100_000, false));
        let mut buffers = Buffers::of(1000);
        let large = buffers.take(5000);
        assert!(large.capacity() >= 5000);
        buffers.give(large, 5000);
        assert!(buffers.used.is_empty());
    }
}
