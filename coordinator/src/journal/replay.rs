//! The state that follows from a journal: that of its newest snapshot, and all events since.

use domain::runner::event::Event;
use domain::runner::registry::Registry;
use domain::runner::scheduler::Scheduler;
use domain::runner::scheduler::snapshot::Snapshot as SchedulerSnapshot;

use super::{Error, Journal};

/// Rebuilds the state from the newest snapshot and all events since. Also returns the number of
/// the last event in that snapshot.
///
/// # Errors
/// If the journal cannot be read.
pub fn state(journal: &mut dyn Journal) -> Result<(Scheduler, Registry, u64), Error> {
    let ((mut scheduler, mut registry), from) = restore(journal, load)?;
    journal.replay(from, &mut |_, _, event| {
        if let Event::Registry(event) = &event {
            registry.apply(event);
        }
        scheduler.apply(&event);
    })?;
    Ok((scheduler, registry, from))
}

/// Reads a journal as a starting coordinator does.
///
/// # Errors
/// If a coordinator could not start from it.
pub(super) fn check(journal: &mut dyn Journal) -> Result<(), Error> {
    state(journal)?;
    journal.tables()?.open_attempts().map(drop)
}

fn load(bytes: &[u8]) -> Result<(Scheduler, Registry), String> {
    let (scheduler, registry): (SchedulerSnapshot, Registry) =
        serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    Ok((Scheduler::try_from(scheduler).map_err(|error| error.to_string())?, registry))
}

/// Restores the state of the newest readable snapshot; also returns the number of the last
/// event in that snapshot, after which events have to be replayed. A snapshot that cannot be
/// read only makes this start slower.
///
/// # Errors
/// If the journal cannot be read, or ends before the snapshot.
pub fn restore<S: Default>(
    journal: &mut dyn Journal,
    read: impl Fn(&[u8]) -> Result<S, String>,
) -> Result<(S, u64), Error> {
    for number in journal.snapshots()? {
        let state = journal.snapshot(number).map_err(|error| error.to_string());
        let state = state.and_then(|snapshot| snapshot.unpack().map_err(|error| error.to_string()));
        match state.and_then(|bytes| read(&bytes)) {
            Ok(state) => return Ok((state, number)),
            Err(problem) => tracing::warn!(number, problem, "a snapshot cannot be used; starting takes longer"),
        }
    }
    Ok((S::default(), 0))
}
