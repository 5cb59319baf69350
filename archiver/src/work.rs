//! Work that blocks, away from what must not wait.

use tokio::task::JoinHandle;

/// Runs `work` on a thread of its own; in a simulation as one more step of its only thread, so that
/// a seed gives the same history each time.
pub(crate) fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    #[cfg(test)]
    if crate::simulation::is_running() {
        return tokio::spawn(async move { work() });
    }
    tokio::task::spawn_blocking(work)
}
