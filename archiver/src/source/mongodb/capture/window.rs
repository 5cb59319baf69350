//! How long what comes next stays in the oplog: asked while it is followed, and while the source is
//! held, when nothing else holds the log.
//!
//! Enters: a member. Leaves: the window's figures in the state, and a line when it is small.

use std::time::Duration;

use proto::mongodb::OplogTs;

use super::Capture;
use crate::source::held;
use crate::source::mongodb::{Error, Member, ReplicaSet, start};
use crate::watch::state::Phase;

/// How often a member is asked how far back its oplog goes.
pub(super) const WINDOW_EVERY: Duration = Duration::from_secs(10);
/// The same while the source is held: nothing else is watched then.
const HELD_EVERY: Duration = Duration::from_secs(2);

impl Capture {
    /// Nothing holds an oplog for us: how long the member keeps what comes next is the time that a
    /// sidecar may be away.
    pub(super) async fn look_at_window(&self, member: &Member, newest: OplogTs) {
        let Some(last) = self.packer.last().filter(|_| !self.is_of_events()) else { return };
        // Only looked at: the stream itself finds out when something is gone.
        let Ok(oldest) = start::oldest(member).await else { return };
        let state = &self.setup.state;
        if state.window.measure(oldest.ts, last.at.ts, newest) {
            tracing::error!(
                member = member.name(), ours = %last.at.ts, oldest = %oldest.ts, %newest,
                window_seconds = state.window.seconds(),
                "OPLOG WINDOW UNDER PRESSURE: what comes next is soon removed from the oplog; mend what is slow or away, or make the oplog larger (replSetResizeOplog)"
            );
        }
    }

    pub(super) async fn wait_for_room(&self) {
        let (state, ring) = (&self.setup.state, &self.ring);
        tokio::select! {
            () = held::until_room(state, ring, &self.stop, "only its oplog") => {}
            () = self.watch_while_held() => {}
        }
    }

    async fn watch_while_held(&self) {
        loop {
            tokio::time::sleep(HELD_EVERY).await;
            if let Err(error) = self.look_while_held().await {
                tracing::debug!(%error, "the oplog's window cannot be looked at");
            }
            let pressed = self.setup.state.window.is_pressed();
            self.setup.state.enter(if pressed {
                Phase::OplogWindowUnderPressure
            } else {
                Phase::Held
            });
        }
    }

    async fn look_while_held(&self) -> Result<(), Error> {
        let set = ReplicaSet::find_among(&self.setup.options, &self.known).await?;
        if let Some((member, hello)) = set.members().first() {
            self.look_at_window(member, hello.majority.ts).await;
        }
        Ok(())
    }
}
