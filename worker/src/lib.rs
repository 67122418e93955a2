//! The worker: leases tasks, runs each in a process of its own, commits results.
//!
//! A worker dials out to the coordinator and lives through its restarts: what
//! runs goes on, and is committed when the coordinator is back. It knows nothing
//! of what stages do; the program it starts for each attempt does.
//!
//! | module | what it holds |
//! |---|---|
//! | [`config`] | the coordinator, what is offered to it, the program to start |
//! | `lifecycle` | a worker from joining to its end: [`run`] |
//! | `shared` | what the parts of one worker share, and which attempts run |
//! | [`identity`] | joining an encrypted coordinator, and staying joined |
//! | [`session`] | the long-lived stream: heartbeats up, commands down |
//! | [`lease_loop`] | asks for work |
//! | [`attempt`] | one attempt: fetch, run, store, commit; its checkpoints and its log on their way |
//! | [`reports`] | how attempts ended, several in one call |
//! | [`child`] | a stage in a process of its own, and the protocol that the two speak |
//! | [`command`] | somebody's own program as an attempt |
//! | `supervise` | the process of either: heard, asked to end, killed |
//! | [`reaper`] | ends commands whose worker is gone |
//! | [`said`] | what an attempt says, as far as it is kept |
//! | [`lines`] | lines of a stream, of bounded length |
//! | [`environment`] | what the programs that a worker starts find in their environment |
//! | [`devices`] | the machine's GPUs, and which of them an attempt sees |
//! | [`memory`] | how much memory there is, and whether it ran out |
//! | [`store`] | inputs by digest, kept for the next attempt |
//! | [`telemetry`] | the metrics: their names and what they count |
//! | [`window`] | pages over HTTP for probes and monitoring |

pub mod attempt;
pub mod child;
pub mod command;
pub mod config;
pub mod devices;
pub mod environment;
pub mod identity;
pub mod lease_loop;
mod lifecycle;
pub mod lines;
pub mod memory;
pub mod reaper;
pub mod reports;
pub mod said;
pub mod session;
mod shared;
pub mod store;
mod supervise;
pub mod telemetry;
pub mod window;

pub use config::Config;
pub use lifecycle::{Error, run};
