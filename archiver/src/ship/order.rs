//! How far the log is durable without a hole, while its pieces arrive in any order.
//!
//! Enters: which segment begins where, what is confirmed. Leaves: the end of the unbroken run.

use std::collections::VecDeque;

use proto::position::{Epoch, Offset, Position};

#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    epoch: Epoch,
    start: Offset,
    /// Known once it is sealed.
    end: Option<Offset>,
    /// The end of what is confirmed of it.
    confirmed: Offset,
    /// Whether the whole of it is confirmed.
    done: bool,
}

/// The segments between the durable position and the newest byte.
#[derive(Debug, Default)]
pub struct Order {
    pieces: VecDeque<Piece>,
    durable: Option<Position>,
    /// Start of the last segment that is through: word of it that comes late says nothing new.
    through: Option<Position>,
}

impl Order {
    pub const fn starting(durable: Option<Position>) -> Self {
        Self { pieces: VecDeque::new(), durable, through: None }
    }

    /// A segment begins; called in the order of the log, again for one that is known already.
    pub fn begin(&mut self, epoch: Epoch, start: Offset) {
        let late = self.through.is_some_and(|through| Position::new(epoch, start) <= through);
        if !late && self.find(epoch, start).is_none() {
            let piece = Piece { epoch, start, end: None, confirmed: start, done: false };
            self.pieces.push_back(piece);
        }
    }

    /// Bytes of the segment at `start` are confirmed up to `end`.
    pub fn confirm(&mut self, epoch: Epoch, start: Offset, end: Offset) {
        if let Some(piece) = self.find(epoch, start) {
            piece.confirmed = piece.confirmed.max(end);
            piece.done = piece.end.is_some_and(|whole| piece.confirmed >= whole);
        }
        self.advance();
    }

    /// The segment at `start` is sealed and ends at `end`.
    pub fn sealed(&mut self, epoch: Epoch, start: Offset, end: Offset) {
        self.begin(epoch, start);
        if let Some(piece) = self.find(epoch, start) {
            piece.end = Some(end);
            piece.done = piece.confirmed >= end;
        }
        self.advance();
    }

    /// The segment at `start` is left at a branch, and what the store has of it is all that it gets:
    /// what of the rest counts comes again with the epoch that follows.
    pub fn branched(&mut self, epoch: Epoch, start: Offset) {
        if let Some(piece) = self.find(epoch, start) {
            piece.done = true;
        }
        self.advance();
    }

    /// Nothing before `from` will come: what is behind it counts as durable from there on.
    pub fn skip_to(&mut self, from: Position) {
        self.pieces.clear();
        self.durable = Some(from);
    }

    /// Everything up to here is confirmed.
    pub const fn durable(&self) -> Option<Position> {
        self.durable
    }

    fn find(&mut self, epoch: Epoch, start: Offset) -> Option<&mut Piece> {
        self.pieces.iter_mut().find(|piece| piece.epoch == epoch && piece.start == start)
    }

    fn advance(&mut self) {
        while let Some(front) = self.pieces.front() {
            let reached = Position::new(front.epoch, front.confirmed);
            if front.confirmed > front.start && self.durable.is_none_or(|was| was < reached) {
                self.durable = Some(reached);
            }
            if !front.done {
                return;
            }
            self.through = Some(Position::new(front.epoch, front.start));
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const E: Epoch = Epoch(1);

    #[test]
    fn nothing_behind_a_hole_is_durable() {
        let mut order = Order::default();
        for start in [0, 10, 20] {
            order.sealed(E, Offset(start), Offset(start + 10));
        }
        order.confirm(E, Offset(20), Offset(30));
        order.confirm(E, Offset(10), Offset(20));
        assert_eq!(order.durable(), None);
        order.confirm(E, Offset(0), Offset(4));
        assert_eq!(order.durable(), Some(Position::new(E, Offset(4))));
        order.confirm(E, Offset(0), Offset(10));
        assert_eq!(order.durable(), Some(Position::new(E, Offset(30))));
    }

    #[test]
    fn what_a_branch_leaves_holds_nothing_up_and_does_not_count() {
        let mut order = Order::default();
        order.sealed(E, Offset(0), Offset(10));
        order.confirm(E, Offset(0), Offset(7));
        order.branched(E, Offset(0));
        assert_eq!(order.durable(), Some(Position::new(E, Offset(7))));
        order.begin(Epoch(2), Offset(0));
        order.confirm(Epoch(2), Offset(0), Offset(3));
        assert_eq!(order.durable(), Some(Position::new(Epoch(2), Offset(3))));
    }

    #[test]
    fn a_tail_that_arrives_after_its_segment_holds_nothing_up() {
        let mut order = Order::default();
        order.begin(E, Offset(0));
        order.sealed(E, Offset(0), Offset(7));
        order.confirm(E, Offset(0), Offset(7));
        order.begin(E, Offset(0));
        order.confirm(E, Offset(0), Offset(5));
        order.begin(Epoch(2), Offset(0));
        order.confirm(Epoch(2), Offset(0), Offset(9));
        assert_eq!(order.durable(), Some(Position::new(Epoch(2), Offset(9))));
    }

    #[test]
    fn tails_that_hold_a_segment_whole_are_enough() {
        let mut order = Order::default();
        order.begin(E, Offset(0));
        order.confirm(E, Offset(0), Offset(10));
        order.sealed(E, Offset(0), Offset(10));
        order.begin(E, Offset(10));
        order.confirm(E, Offset(10), Offset(11));
        assert_eq!(order.durable(), Some(Position::new(E, Offset(11))));
    }
}
