//! What people and programs type and read: bad input, exit codes, `--json`.

mod docs;
mod demo;
