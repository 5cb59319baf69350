//! Every test against real servers, as one program: one link, one process, shared servers.

mod harness;
mod flow;
mod faults;
mod cli;
mod docs;
mod broken;
mod tidy;
