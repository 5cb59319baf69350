//! The main job from end to end: a server protected, a moment chosen, that moment restored.

pub(crate) mod protected;
mod by_hand;
mod restore;
mod capture_equality;
mod capture_quiet;
pub(crate) mod oplog_capture;
pub(crate) mod changes_capture;
mod targets_kinds;
mod targets_clock;
mod odd_tools;
mod odd_sizes;
mod odd_objects;
mod odd_copy;
mod odd_slow;
mod odd_large;
mod refused;
mod targets_resumed;
pub(crate) mod mongodb;
