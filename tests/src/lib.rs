//! The harness: gets real servers, starts them on free loopback ports in private folders, and takes
//! them down again. In flow order: what a run covers, where things lie, how a process is started,
//! where servers come from, the servers, our own programs, the faults between them, and the gate
//! that a test of a fault ends with.

pub mod scope;
pub mod wait;
pub mod user;
pub mod scratch;
pub mod ports;
pub mod process;
pub mod small_disk;
mod server;
pub mod fetch;
pub mod certificates;
pub mod hashes;
pub mod postgres;
pub mod mongod;
pub mod seaweed;
pub mod archive;
pub mod loop_disk;
pub mod tcp_proxy;
pub mod s3_front;
pub mod programs;
pub mod gate;
pub mod broken;
