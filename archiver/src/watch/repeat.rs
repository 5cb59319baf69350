//! A warning that comes again and again: told the first few times, then about once a minute.
//!
//! Enters: what kind of trouble it is. Leaves: whether to tell it, and how often it was kept back.

use std::sync::Arc;
use std::time::Duration;

use proto::clock::Clock;

/// So many are told at once: whoever watches sees that it is tried again.
const FIRST: u32 = 3;
const THEN_EVERY: Duration = Duration::from_secs(60);
/// Kinds that are remembered; a new one beyond it takes the place of the oldest.
const KINDS_MAX: usize = 8;

#[derive(Debug)]
pub struct Repeat {
    clock: Arc<dyn Clock>,
    kinds: Vec<Kind>,
}

#[derive(Debug)]
struct Kind {
    name: String,
    told: Duration,
    seen: Duration,
    count: u32,
    kept_back: u64,
}

impl Repeat {
    pub const fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, kinds: Vec::new() }
    }

    /// `Some` when trouble of this kind is to be told now, with how many were kept back before it.
    pub fn tell(&mut self, kind: String) -> Option<u64> {
        let now = self.clock.monotonic();
        let Some(known) = self.kinds.iter_mut().find(|known| known.name == kind) else {
            if self.kinds.len() == KINDS_MAX {
                self.kinds.remove(0);
            }
            let name = kind;
            self.kinds.push(Kind { name, told: now, seen: now, count: 1, kept_back: 0 });
            return Some(0);
        };
        // After a quiet while it is news again.
        if now.saturating_sub(known.seen) >= THEN_EVERY {
            known.count = 0;
        }
        known.seen = now;
        known.count = known.count.saturating_add(1);
        if known.count > FIRST && now.saturating_sub(known.told) < THEN_EVERY {
            known.kept_back += 1;
            return None;
        }
        known.told = now;
        Some(std::mem::take(&mut known.kept_back))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Mutex;

    use proto::timestamp::Timestamp;

    use super::*;

    #[derive(Debug, Default)]
    pub(in crate::watch) struct Hand(pub(in crate::watch) Mutex<Duration>);

    impl Clock for Hand {
        fn wall(&self) -> Timestamp {
            Timestamp(0)
        }

        fn monotonic(&self) -> Duration {
            *self.0.lock().expect("no holder panics")
        }
    }

    #[test]
    fn trouble_is_told_at_first_and_then_once_a_minute() {
        let clock = Arc::new(Hand::default());
        let mut repeat = Repeat::new(clock.clone());
        let mut told = Vec::new();
        for second in 0..200 {
            *clock.0.lock().expect("no holder panics") = Duration::from_secs(second);
            if let Some(kept_back) = repeat.tell("away".to_owned()) {
                told.push((second, kept_back));
            }
        }
        assert_eq!(told, [(0, 0), (1, 0), (2, 0), (62, 59), (122, 59), (182, 59)]);
        assert_eq!(repeat.tell("other".to_owned()), Some(0));
        *clock.0.lock().expect("no holder panics") = Duration::from_secs(1000);
        assert!(repeat.tell("away".to_owned()).is_some());
        assert!(repeat.tell("away".to_owned()).is_some(), "it is news again");
    }
}
