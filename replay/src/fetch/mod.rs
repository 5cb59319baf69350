//! Log for a database in recovery: exactly the bytes the plan allows, ahead of time where possible.
//!
//! Enters: a saved plan and the names that recovery asks for. Leaves: whole files of the segment's
//! full size, every hash checked, or the proof that there is none, or an error: never a short file
//! and never a guess. After a crash at any line there are only whole files under final names; the
//! rest is fetched again.

pub mod assemble;
pub mod place;
pub mod prefetch;
pub mod command;

mod error;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use error::FetchError;

/// The folder inside a data folder that holds what a restore needs while it is under way.
pub const WORK_FOLDER: &str = ".pitr";
/// The plan, below [`WORK_FOLDER`].
pub const PLAN_FILE: &str = "plan.json";
/// Files fetched ahead, below [`WORK_FOLDER`].
pub const AHEAD_FOLDER: &str = "wal";
/// Where the prefetcher of a running restore answers, below [`WORK_FOLDER`].
pub const SOCKET_FILE: &str = "fetch";
/// How often one read of the store is tried: with its waits about a minute and a half.
pub const ATTEMPTS: u32 = 16;
