//! The harness itself: each server starts, answers and goes.

mod gate;
mod mongod;
mod postgres;
mod programs;
mod seaweed;
mod tcp_proxy;
