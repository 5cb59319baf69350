//! MongoDB's log as both programs read it: where an entry stands (`optime`), walking a run of BSON
//! documents (`walk`) and the elements of one (`elements`), what one oplog entry says (`entry`), or one
//! event of a change stream (`event`), and what both have in common (`record`); what a base holds
//! (`base`), where the log comes from (`mode`) and which collections are restored (`scope`).
//!
//! Enters: bytes, trusted in nothing. Leaves: views into them; nothing is copied, and rubbish is
//! an error, never a panic.

mod optime;
mod walk;
mod elements;
mod entry;
mod note;
pub mod event;
mod record;
mod mode;

pub mod base;
pub mod scope;

#[cfg(test)]
mod tests;

pub use entry::{ApplyOps, Entry, EntryError, Glance, Kind, Op};
pub use event::Event;
pub use mode::SourceMode;
pub use note::{Note, restore_point};
pub use optime::{OpTime, OpTimeError, OplogTs};
pub use record::{Order, Record};
pub use walk::{DOCUMENT_MAX, DOCUMENT_MIN, Documents, WalkError, first_document};
