//! The coordinator: keeps the journal, grants leases, stores artifacts.
//!
//! | module | what it holds |
//! |---|---|
//! | [`config`] | where the coordinator's state lies, and how patient the coordinator is |
//! | [`server`] | builds the parts, serves until told to stop, and drains |
//! | [`background`] | the tasks that go on beside the calls, and their end |
//! | [`listen`] | connections, and who is at their other end |
//! | `crowd` | places for connections of unknown callers |
//! | [`access`] | which role may call which method, and how large the call may be |
//! | `admission` | the role check and the seats in front of all services |
//! | `seats` | how many calls callers may have under way |
//! | `intake` | how large and how slow a request may be |
//! | [`pki`] | the certificate authority of those who join |
//! | [`reactor`] | the state machine with its connections: commands in, events and answers out
//! |
//! | [`driver`] | the thread that runs the reactor: decide, apply, append, sync, reply |
//! | [`journal`] | events in a database |
//! | [`blobs`] | files by digest, in a folder or a bucket |
//! | [`gc`] | removes blobs that no task needs, and finds needed ones that are missing |
//! | [`logs`] | the output of attempts |
//! | [`room`] | how much can still be written to a disk |
//! | [`sessions`] | the connected workers and their latest heartbeats |
//! | [`standby`] | waiting until this coordinator leads |
//! | [`telemetry`] | the metrics: names, counters, gauges |
//! | `traces` | the spans of tasks and leases |
//! | `window` | pages over HTTP for probes and monitoring |
//! | [`history`] | what people ask about the past of runs, tasks and attempts |
//! | [`views`] | how runs, tasks and workers stand, for every face of the coordinator |
//! | [`api`] | one gRPC service per file |

pub mod access;
mod admission;
pub mod api;
pub mod background;
pub mod blobs;
pub mod config;
mod crowd;
pub mod driver;
pub mod gc;
pub mod history;
mod intake;
pub mod journal;
pub mod listen;
pub mod logs;
mod measured;
pub mod pki;
pub mod reactor;
pub mod room;
mod seats;
pub mod server;
pub mod sessions;
pub mod standby;
pub mod telemetry;
mod traces;
pub mod views;
mod window;

pub use config::Config;
pub use server::{Error, Listeners, run};
