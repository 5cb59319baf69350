//! Bringing a MongoDB replica set back to a moment.
//!
//! Enters: a base and the oplog from its start on. Leaves: a replica set whose collections are, byte
//! by byte, those that the source had. What is done is kept in the target itself, so that a restore
//! that was killed goes on.
//!
//! `restore` puts it together: a `server` of our own where a folder is wanted, `prepare` (an empty
//! target) → `load` (the base) → `replay` (the log: `names`, `moments`, `transactions` decide,
//! `writes`, `catalog` and `batch` act on the `target`; `events` makes of a change stream what an
//! oplog has, by `paths`) → indexes, last.

mod error;
mod operation;
pub mod order;
mod names;
mod moments;
mod indexes;
mod spill;
mod transactions;
mod target;
mod patience;
mod strict;
mod batch;
mod catalog;
pub mod paths;
mod events;
mod replay;
mod writes;
mod load;
mod prepare;
mod server;
mod restore;

pub use error::ReplayError;
pub use load::{BaseFolder, load};
pub use prepare::{Found, conclude, prepare};
pub use replay::{Replay, Replayed};
pub use restore::{Into, Report, restore};
