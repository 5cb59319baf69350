//! The replication client against real servers.

mod backup;
mod common;
mod facts;
mod security;
mod shutdown;
mod stream;
mod switch;
