//! What only shows when the parts work together: a coordinator with workers in
//! this process, and the program as people start it. One binary, so that it is
//! linked once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod harness;
mod journal;

mod artifacts;
mod bad_input;
mod cable;
mod chaos;
mod clock;
mod cluster;
mod commands;
mod crash;
mod determinism;
mod devices;
mod disk;
mod environment;
mod faults;
mod history;
mod logs;
mod memory;
mod process;
mod recompute;
mod security;
mod simulation;
mod standby;
mod strangers;
mod submissions;
mod tidy;
mod traces;
mod versions;
mod window;
mod wire;
mod workers;
