//! What may be acknowledged: the one place where a [`Durable`] is made.
//!
//! Enters: what the spool has fsynced, what the store has confirmed, and whether the slot is under
//! pressure. Leaves: positions that only go up. Without pressure, and unless `--ack spool` says
//! so, the spool's word counts for nothing (DESIGN §5.5).

use proto::position::Position;
use tokio::sync::watch;

use super::{AckFrom, Durable};

/// Whose confirmation is enough: by configuration, and while the slot is under pressure.
#[derive(Debug, Clone)]
pub struct AckPolicy {
    from: AckFrom,
    /// `None`: there is no slot that could come under pressure.
    pressed: Option<watch::Receiver<bool>>,
}

impl AckPolicy {
    /// The spool's fsync is enough as long as `pressed` says so, whatever `from` is.
    pub const fn new(from: AckFrom, pressed: watch::Receiver<bool>) -> Self {
        Self { from, pressed: Some(pressed) }
    }

    fn takes_the_spools(&self) -> bool {
        self.from == AckFrom::Spool || self.pressed.as_ref().is_some_and(|now| *now.borrow())
    }
}

impl From<AckFrom> for AckPolicy {
    fn from(from: AckFrom) -> Self {
        Self { from, pressed: None }
    }
}

#[derive(Debug)]
pub(super) struct Acks {
    policy: AckPolicy,
    sender: watch::Sender<Option<Durable>>,
    /// The end of what the spool has fsynced.
    spooled: Option<Position>,
}

impl Acks {
    /// Begins with what the store holds.
    pub(super) fn new(
        policy: AckPolicy,
        stored: Option<Position>,
    ) -> (Self, watch::Receiver<Option<Durable>>) {
        let (sender, receiver) = watch::channel(stored.map(Durable::confirmed));
        (Self { policy, sender, spooled: None }, receiver)
    }

    /// The spool has fsynced everything up to here.
    pub(super) fn spooled(&mut self, position: Position) {
        self.spooled = self.spooled.max(Some(position));
        if self.policy.takes_the_spools() {
            self.acknowledge(position);
        }
    }

    /// The store holds everything up to here.
    pub(super) fn stored(&self, position: Position) {
        self.acknowledge(position);
    }

    /// Waits until the pressure changes, and acts on it. Never ends where there is none.
    pub(super) async fn tend(&mut self) {
        loop {
            match &mut self.policy.pressed {
                Some(pressed) => {
                    if pressed.changed().await.is_err() {
                        self.policy.pressed = None;
                        continue;
                    }
                }
                None => std::future::pending().await,
            }
            if let Some(spooled) = self.spooled.filter(|_| self.policy.takes_the_spools()) {
                self.acknowledge(spooled);
            }
        }
    }

    fn acknowledge(&self, position: Position) {
        self.sender.send_if_modified(|was| {
            let later = was.is_none_or(|was| was.position() < position);
            if later {
                *was = Some(Durable::confirmed(position));
            }
            later
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proto::position::{Epoch, Offset};

    use super::*;

    fn at(offset: u64) -> Position {
        Position::new(Epoch(1), Offset(offset))
    }

    async fn tended(acks: &mut Acks) {
        let _ = tokio::time::timeout(Duration::from_secs(1), acks.tend()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_spools_word_counts_only_while_the_slot_is_under_pressure() {
        let (press, pressed) = watch::channel(false);
        let policy = AckPolicy::new(AckFrom::Store, pressed);
        let (mut acks, acknowledged) = Acks::new(policy, Some(at(10)));
        let known = || acknowledged.borrow().map(Durable::position);
        acks.spooled(at(20));
        assert_eq!(known(), Some(at(10)), "nobody is in need");
        press.send_replace(true);
        tended(&mut acks).await;
        assert_eq!(known(), Some(at(20)), "what was on disk already counts at once");
        acks.spooled(at(30));
        assert_eq!(known(), Some(at(30)));
        press.send_replace(false);
        acks.spooled(at(40));
        acks.stored(at(35));
        assert_eq!(known(), Some(at(35)), "the store's word is asked for again");
        drop(press);
        tended(&mut acks).await;
        acks.spooled(at(50));
        assert_eq!(known(), Some(at(35)), "who says nothing does not press");
    }

    #[tokio::test]
    async fn an_acknowledged_position_never_goes_back() {
        let (mut acks, acknowledged) = Acks::new(AckFrom::Spool.into(), None);
        acks.spooled(at(30));
        acks.stored(at(20));
        assert_eq!(acknowledged.borrow().map(Durable::position), Some(at(30)));
    }
}
