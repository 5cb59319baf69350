//! A target that goes away for a while: its connection is lost, or another member becomes its primary.
//!
//! Enters: what a command failed with. Leaves: whether it may be given again, and a target that
//! answers as the primary again. A command whose answer was lost may have been done: whoever gives
//! it again must know what that means.

use std::time::Duration;

use bson::doc;
use mongodb::error::{Error as DriverError, ErrorKind};
use tokio::time::Instant;

use super::target::Target;

/// For how long a target may be away.
const AWAY_MAX: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Of a server that ends or is no primary any more (src/mongo/base/error_codes.yml: ShutdownInProgress,
/// PrimarySteppedDown, NotWritablePrimary, InterruptedAtShutdown, InterruptedDueToReplStateChange,
/// NotPrimaryNoSecondaryOk, NotPrimaryOrSecondary).
const AWAY: [i32; 7] = [91, 189, 10107, 11600, 11602, 13435, 13436];

/// Whether the target was lost, and did not refuse.
pub(super) fn is_lost(error: &DriverError) -> bool {
    match error.kind.as_ref() {
        ErrorKind::Io(_)
        | ErrorKind::ConnectionPoolCleared { .. }
        | ErrorKind::ServerSelection { .. } => true,
        ErrorKind::Command(command) => AWAY.contains(&command.code),
        _ => false,
    }
}

impl Target {
    /// Waits until it answers as a primary again; `false` when it does not in time.
    pub(super) async fn is_back(&self, lost: &DriverError) -> bool {
        tracing::warn!(error = %lost, "the target is away: waiting for it");
        let give_up = Instant::now() + AWAY_MAX;
        let admin = self.client().database("admin");
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let hello = admin.run_command(doc! { "hello": 1 }).into_future();
            let hello = tokio::time::timeout(AWAY_MAX, hello).await;
            let primary = |hello: bson::Document| hello.get_bool("isWritablePrimary");
            if matches!(hello.map(|hello| hello.map(primary)), Ok(Ok(Ok(true)))) {
                tracing::info!("the target is back");
                return true;
            }
            if Instant::now() >= give_up {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_refuses_is_not_lost() {
        let io = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert!(is_lost(&DriverError::from(io)));
        assert!(!is_lost(&DriverError::custom("something else")));
    }
}
