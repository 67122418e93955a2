//! How runs, tasks and workers stand, as plain structs: what every face of the coordinator shows.
//!
//! | module | what it holds |
//! |---|---|
//! | `runs` | a run with its counts, what is under way and what has failed |
//! | `tasks` | a task, an attempt under way, and why a task is in its state |
//! | `workers` | a worker with what it offers and runs |
//!
//! A view is made on the driver's thread, so making one takes a bounded number of steps, or for
//! workers one for each that is connected: it shares the specs of tasks instead of composing
//! text of them. Whoever shows it makes the text elsewhere.

mod runs;
mod tasks;
#[cfg(test)]
mod tests;
mod workers;

pub use runs::{ListedRun, RunState, RunView, tell_apart};
pub use tasks::{AttemptView, Explanation, FailureView, TaskPage, TaskView};
pub use workers::WorkerView;
