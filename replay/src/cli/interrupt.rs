//! Ctrl-C and SIGTERM while `pitr` works: the first is answered in order, the second one at once.
//!
//! Enters: signals. Leaves: exit 5 in place of a result, or a token for work that ends in an order
//! of its own. Nothing is watched before work begins: a question on the terminal ends as in any
//! other program.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Exit;
use super::error::{CliError, Code};

/// What a signal sets off.
pub(super) struct Interrupt(CancellationToken);

impl Interrupt {
    /// Watches from now on, and for as long as the program runs.
    pub(super) fn watch() -> Result<Self, CliError> {
        let failed = |error: std::io::Error| {
            CliError::caused(Code::Failed, &error, "check the limits of this process")
        };
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let token = CancellationToken::new();
        let told = token.clone();
        tokio::spawn(async move {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            told.cancel();
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            // A server of ours is stopped by the kernel.
            std::process::exit(i32::from(Exit::Interrupted as u8));
        });
        Ok(Self(token))
    }

    /// For work that ends by itself when it is cancelled.
    pub(super) fn token(&self) -> &CancellationToken {
        &self.0
    }

    /// The result of work that can be dropped anywhere, unless a signal comes first.
    pub(super) fn unless<T>(
        &self,
        work: impl Future<Output = Result<T, CliError>>,
    ) -> impl Future<Output = Result<T, CliError>> {
        // Reading an archive is a large future.
        let work = Box::pin(work);
        async move {
            tokio::select! {
                done = work => done,
                () = self.0.cancelled() => Err(CliError::new(
                    Code::Interrupted,
                    "interrupted before it was done",
                    "run the same command again",
                )),
            }
        }
    }
}

/// The same, watching only while `work` goes on.
pub(super) fn interruptible<T>(
    work: impl Future<Output = Result<T, CliError>>,
) -> impl Future<Output = Result<T, CliError>> {
    let work = Box::pin(work);
    async move { Interrupt::watch()?.unless(work).await }
}
