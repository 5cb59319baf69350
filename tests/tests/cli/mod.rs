//! What people and programs type and read: bad input, exit codes, `--json`.

mod docs;
mod demo;
mod refused;
mod bad_input_command_line;
mod bad_input_database;
mod bad_input_store;
mod bad_input_spool;
mod bad_input_archive;
mod bad_input_running;
mod bad_input_restore;
mod replication_only;
mod stopping;
mod interrupted;
mod supervised;
mod secrets;
