//! The background tasks of one coordinator, which end with the coordinator.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;

/// Tracks all tasks beside the calls, and tells them when to end.
#[derive(Clone, Debug, Default)]
pub struct Background {
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl Background {
    /// Starts a task that ends by itself: it watches [`Background::closed`], or waits only for
    /// what ends with the server.
    pub(crate) fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.tasks.spawn(task)
    }

    /// Starts a task that is dropped, at whichever await point, when the coordinator ends.
    pub(crate) fn spawn_until_closed(&self, task: impl Future<Output = ()> + Send + 'static) {
        let closing = self.closing.clone();
        self.tasks.spawn(async move { closing.run_until_cancelled(task).await });
    }

    /// Signals that the coordinator ends.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }

    /// Resolves when the coordinator ends.
    pub(crate) fn closed(&self) -> WaitForCancellationFutureOwned {
        self.closing.clone().cancelled_owned()
    }

    /// A guard whose drop signals that the coordinator ends, whatever the reason.
    pub(crate) fn close_on_drop(&self) -> DropGuard {
        self.closing.clone().drop_guard()
    }

    /// Signals that the coordinator ends and waits for the tasks, at most for `patience`.
    /// Returns how many tasks have not ended by then.
    pub(crate) async fn drain(&self, patience: Duration) -> usize {
        self.close();
        self.tasks.close();
        // Too late or not, what counts is what is left.
        let _ = tokio::time::timeout(patience, self.tasks.wait()).await;
        self.tasks.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tasks_hear_of_the_end_and_are_waited_for() {
        let background = Background::default();
        let told = background.closed();
        let polite = background.spawn(async move {
            told.await;
            tokio::task::yield_now().await;
            "goodbye"
        });
        background.spawn_until_closed(std::future::pending());
        assert_eq!(background.drain(Duration::from_secs(60)).await, 0);
        assert_eq!(polite.await.unwrap(), "goodbye");
    }

    #[tokio::test]
    async fn a_task_that_hears_nothing_is_not_waited_for_beyond_patience() {
        let background = Background::default();
        let deaf = background.spawn(std::future::pending::<()>());
        assert_eq!(background.drain(Duration::from_millis(10)).await, 1);
        deaf.abort();
    }
}
