//! What the coordinator knows, as messages.

use proto::v1;

use crate::history::Change;

impl From<Change> for v1::TaskChange {
    fn from(change: Change) -> Self {
        Self {
            number: change.number,
            at_ms: change.at_ms,
            task_key: change.task.to_string(),
            label: change.label,
            state: change.state,
            worker: change.worker,
            attempt: change.attempt,
            seconds: change.seconds,
            message: change.message,
        }
    }
}
