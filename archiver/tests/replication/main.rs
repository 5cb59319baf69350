//! The replication client against real servers.

mod common;
mod security;
mod shutdown;
mod stream;
mod switch;
