//! The runner: how work moves, from a submission to committed results.
//!
//! | module | what it holds |
//! |---|---|
//! | [`command`] | any program as a task |
//! | [`work`] | what was submitted as a run: a study, or commands |
//! | [`task`] | one task's life: states, leases, failures |
//! | [`scheduler`] | `decide` and `apply`: which events follow from a request |
//! | [`registry`] | join tokens and identities: who may speak, as `decide` and `apply` |
//! | [`event`] | what the journal holds |

pub mod command;
pub mod event;
pub mod registry;
pub mod scheduler;
pub mod task;
pub mod work;
