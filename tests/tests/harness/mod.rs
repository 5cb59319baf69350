//! The harness itself: each server starts, answers and goes.

mod postgres;
