//! What people ask about the past of runs, tasks and attempts.
//!
//! | module | what it holds |
//! |---|---|
//! | `rows` | what an event changes in the tables, which are written in the same transaction |
//! | `attempts` | attempts as they are read from the tables, and their changes in order |
//! | `tail` | the newest changes, in memory |

mod attempts;
mod rows;
mod tail;

pub use attempts::{Attempt, Change, End, changes};
pub use rows::{Row, TaskEnd, rows};
pub use tail::Tail;
