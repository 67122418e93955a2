//! What an experiment is and how it moves. Pure: no I/O, no clock, no threads
//! and no randomness, so that the same calls give the same answers anywhere.
//!
//! | module | what it holds |
//! |---|---|
//! | [`digest`] | blake3 digests: names of files, artifacts and tasks |
//! | [`id`] | names of tasks, runs and artifacts |
//! | [`seed`] | named random streams: a pure function of (seed, purpose, step) |
//! | [`artifact`] | immutable outputs: manifests of files by digest |
//! | [`resources`] | what a task needs, what a worker offers, whether they fit |
//! | [`text`] | text of others, kept to a length |
//! | [`study`] | what an experiment is: spec, plan, stages, records and results |
//! | [`runner`] | how it moves: tasks, leases, and what a coordinator decides |
//!
//! The runner knows the study, and not the other way round.

pub mod artifact;
pub mod digest;
pub mod id;
pub mod resources;
pub mod runner;
pub mod seed;
pub mod study;
pub mod text;
