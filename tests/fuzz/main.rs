//! What comes from a person, a file, the network or another process, in forms that nobody
//! has thought of: every place that reads such bytes is a target here, in a file for each
//! kind. Those that need burn are in `science/tests/fuzz.rs`. `mutate` says how inputs are
//! made and how to run more of them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "../harness/dice.rs"]
mod dice;
mod mutate;

mod journal;
mod packed;
mod spec;
mod text;
mod wire;

/// Memory that one execution may hold, bytes, unless its target says otherwise.
const MEMORY: usize = 64 << 20;
