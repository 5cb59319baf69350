//! The spool: the log on the local disk until the store has it.
//!
//! Enters: what the ring hands on. Leaves: the open segment's frames and sealed files, fsynced.
//! After a crash at any line it is rebuilt from its own files and the store; losing it loses
//! nothing that was acknowledged from the store.

pub mod segmenter;
pub mod file;
pub mod event;
pub mod spooler;
mod append;
mod compare;
pub mod recover;
pub mod held;
pub mod unstored;
pub mod read;
pub mod level;
pub mod probe;

mod error;
#[cfg(test)]
mod begin_tests;
#[cfg(test)]
mod branch_tests;
#[cfg(test)]
mod recover_tests;

pub use error::SpoolError;
pub use event::{FrameEnd, OpenState, STOP_EVERY, SpoolEvent};
pub use file::{FrameRange, OpenFile, SealedFile};
pub use held::Held;
pub use level::SpoolLevel;
pub use segmenter::{OplogSegments, Segmenter, Slot, WalSegments};
pub use spooler::{SpoolSetup, SpoolStart, Spooler};
