//! A stage in a process of its own, and the protocol that worker and child speak.
//!
//! The parent writes the order to `order.json` in the attempt's folder and
//! starts the program with the folder as argument. A child that finds
//! `checkpoint/` goes on from there. The child tells its progress and the
//! checkpoints that it leaves as JSON lines on standard output; what it says on
//! standard error is kept in `log.txt`, as far as [`crate::said`] keeps it. The
//! child ends with status 0 and its files in `outputs/`, or leaves `failure.json`.
//! A line `stop` on the child's standard input asks it to finish its step, leave a
//! checkpoint and end; when the input closes, the parent is gone and the child ends
//! at once, so no child outlives its worker.
//!
//! | module | what it holds |
//! |---|---|
//! | [`protocol`] | names of files, the order, and the lines that a child speaks |
//! | `parent` | the worker's side: starts the program and hears it |
//! | [`speaker`] | the child's side |

pub(crate) mod parent;
pub mod protocol;
pub mod speaker;
