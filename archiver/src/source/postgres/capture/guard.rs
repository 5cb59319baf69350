//! The slot's limit: what it may hold back on the server, and what is done beyond it (DESIGN §5.5).
//!
//! Enters: `--slot-max`, `--on-slot-max`, and looks at the server while nothing is streamed. Leaves: a
//! slot that is kept, or dropped so that the server's disk does not fill. After a crash the next run
//! finds no slot, makes a new one once there is room, and records what was lost.

use std::time::Duration;

use proto::archive::ledger::Event;
use proto::position::{ByteCount, Offset};
use serde::{Deserialize, Serialize};

use super::follow::{drop_slot, read_slot, record};
use super::{Capture, CaptureSetup};
use crate::source::held;
use crate::source::postgres::session::parse_bytes;
use crate::source::postgres::{Error, Session};
use crate::watch::slot::Beyond;
use crate::watch::state::Phase;

/// How often the server is asked while the source is held.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// `--slot-max` where neither it nor `max_slot_wal_keep_size` is given.
const SLOT_MAX: ByteCount = ByteCount(8 << 30);

/// What becomes of a slot that holds more than `--slot-max` while the spool is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OnSlotMax {
    /// It is dropped: the server's disk comes first. What is lost is a recorded gap.
    #[default]
    Release,
    /// It stays, whatever becomes of the server's disk.
    Hold,
}

/// `--slot-max`: as given; else half of `max_slot_wal_keep_size`, so that we act before the server
/// does.
fn limit(given: Option<ByteCount>, keep: Option<ByteCount>) -> ByteCount {
    given.or_else(|| keep.map(|keep| ByteCount(keep.0 / 2))).unwrap_or(SLOT_MAX)
}

/// `max_slot_wal_keep_size` as SHOW writes it; `None`: no limit (-1), or not to be read.
fn keep_size(shown: &str) -> Option<ByteCount> {
    parse_bytes(shown).filter(|keep| keep.0 > 0)
}

impl Capture {
    /// Asked at each connection: the setting changes with a reload.
    pub(super) async fn learn_limit(&mut self, session: &mut Session) {
        let shown = session.show("max_slot_wal_keep_size").await.unwrap_or_default();
        let keep = keep_size(&shown);
        let max = limit(self.setup.slot_max, keep);
        if keep.is_some_and(|keep| keep < max) && self.repeat.tell("slot-max".to_owned()).is_some()
        {
            tracing::warn!(
                slot_max = %max, max_slot_wal_keep_size = %shown,
                "the server gives the slot up before --slot-max is reached: lower --slot-max"
            );
        }
        self.setup.state.slot.limit(max);
    }

    /// Waits until there is room, and watches the slot meanwhile: it alone holds the log.
    pub(super) async fn wait_for_room(&mut self) {
        let setup = self.setup.clone();
        let waits = held::until_room(&setup.state, &self.ring, &self.stop, "its slot");
        // Dropped once there is room; a look changes nothing that half of it could spoil.
        tokio::select! {
            () = waits => {}
            reason = guard(&setup) => {
                let at = self.received.at(self.timeline);
                record(&self.setup, Event::SlotReleased { at, reason: reason.clone() });
                self.released = Some(reason);
                held::until_room_as(&setup.state, &self.ring, &self.stop, Phase::Released).await;
            }
        }
    }
}

/// Watches the slot of a source that is held; comes back only when it was dropped, with the reason.
async fn guard(setup: &CaptureSetup) -> String {
    let mut told = 0_u32;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let beyond = match look(setup).await {
            Ok(beyond) => beyond,
            Err(error) => {
                tracing::debug!(%error, "the slot cannot be looked at");
                continue;
            }
        };
        // A disk that stands still for a moment is no reason to lose log.
        let Some(Beyond { held, max }) = beyond.filter(|_| setup.state.level.is_full()) else {
            continue;
        };
        if setup.on_slot_max == OnSlotMax::Hold {
            if told.is_multiple_of(30) {
                tracing::error!(
                    slot = %setup.slot, %held, slot_max = %max,
                    "SLOT BEYOND ITS LIMIT, kept by --on-slot-max hold: the server's disk fills"
                );
            }
            told += 1;
            continue;
        }
        match release(setup).await {
            Ok(()) => {
                let reason = format!(
                    "the slot was released: it held {held}, --slot-max is {max}, and the spool was full"
                );
                tracing::error!(
                    slot = %setup.slot, %reason,
                    "SLOT RELEASED: the server may remove its log. A new slot, and a base if log is lost, follow as soon as the spool has room"
                );
                return reason;
            }
            Err(error) => tracing::warn!(%error, "the slot cannot be dropped: trying again"),
        }
    }
}

/// Asks the server how much the slot holds.
async fn look(setup: &CaptureSetup) -> Result<Option<Beyond>, Error> {
    let mut session = Session::connect(&setup.options).await?;
    let end = session.identify().await?.flushed;
    let restart = read_slot(&setup.options, &setup.slot, &mut session).await?;
    session.close().await;
    let held = restart.map_or(ByteCount(0), |restart| end.since(restart));
    setup.state.beat();
    Ok(setup.state.slot.looked(Offset::from(end), held))
}

async fn release(setup: &CaptureSetup) -> Result<(), Error> {
    let mut session = Session::connect(&setup.options).await?;
    let dropped = drop_slot(&setup.slot, &mut session).await;
    session.close().await;
    dropped?;
    metrics::counter!("pitr_slot_released_total").increment(1);
    setup.state.slot.release();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn slot_max_is_half_of_what_the_server_keeps_unless_it_is_given() {
        assert_eq!(limit(None, None), ByteCount(8 * GIB));
        assert_eq!(limit(None, keep_size("64GB")), ByteCount(32 * GIB));
        assert_eq!(limit(Some(ByteCount(GIB)), keep_size("64GB")), ByteCount(GIB));
        // No limit, and a setting that cannot be read.
        for shown in ["-1", "", "?"] {
            assert_eq!(limit(None, keep_size(shown)), ByteCount(8 * GIB), "{shown}");
        }
    }
}
