//! The same work on many pictures, in parallel and bounded memory.

use domain::study::stage::{Failure, FailureCode, Monitor, Progress};
use rayon::prelude::*;

/// Applies `work` to every item and returns the results in the order of the
/// items. As many items are in flight as there are threads, so that many
/// threads' worth of pictures are in memory at most; progress is told after
/// each such batch, under the name `what`. The result does not depend on the
/// number of threads.
///
/// # Errors
/// The first failure in the order of the items, or [`FailureCode::Preempted`]
/// if the monitor wants the attempt to end.
pub fn map<T: Sync, R: Send>(
    items: &[T],
    what: &str,
    monitor: &mut dyn Monitor,
    work: impl Fn(&T) -> Result<R, Failure> + Sync,
) -> Result<Vec<R>, Failure> {
    map_at_most(rayon::current_num_threads(), items, what, monitor, work)
}

/// [`map`] with at most that many items in flight, for work of which fewer fit
/// into memory than there are threads. At least one is.
///
/// # Errors
/// As [`map`].
pub fn map_at_most<T: Sync, R: Send>(
    at_once: usize,
    items: &[T],
    what: &str,
    monitor: &mut dyn Monitor,
    work: impl Fn(&T) -> Result<R, Failure> + Sync,
) -> Result<Vec<R>, Failure> {
    let total = items.len() as u64;
    let mut results = Vec::with_capacity(items.len());
    for batch in items.chunks(at_once.max(1)) {
        if monitor.stopping() {
            return Err(Failure::new(FailureCode::Preempted, format!("stopped at {what} {}/{total}", results.len())));
        }
        let done: Vec<Result<R, Failure>> = batch.par_iter().map(&work).collect();
        for result in done {
            results.push(result?);
        }
        let done = results.len() as u64;
        monitor.progress(Progress { done, total, note: format!("{what} {done}/{total}"), ..Progress::default() });
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use domain::study::stage::Unwatched;

    use super::*;

    #[test]
    fn results_keep_the_order_of_the_items_and_the_first_failure_wins() {
        let items: Vec<u32> = (0..100).collect();
        assert_eq!(map(&items, "number", &mut Unwatched, |item| Ok(item * 2)).unwrap()[99], 198);
        let odd = |item: &u32| match item {
            41 | 40 => Err(Failure::invalid_input(item.to_string())),
            _ => Ok(()),
        };
        assert_eq!(map(&items, "number", &mut Unwatched, odd).unwrap_err().message, "40");
    }
}
