//! MongoDB: a base and the oplog give back what the source had, byte by byte, at any moment.

mod moment;
mod workload;
mod restored;
mod moments;
mod strict;
mod archived;
mod program;
mod protected;
mod changes;
