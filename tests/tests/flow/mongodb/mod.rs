//! MongoDB: a base and the oplog give back what the source had, byte by byte, at any moment.

pub(crate) mod moment;
mod workload;
mod restored;
mod moments;
mod strict;
mod altered;
mod large;
mod ended;
mod indexed;
mod bases;
mod by_name;
mod rights;
pub(crate) mod archived;
pub(crate) mod program;
mod protected;
mod changes;
mod images;
mod split;
