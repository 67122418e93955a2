//! What must hold of everything that was ever journaled.

use std::collections::{BTreeMap, BTreeSet};

use domain::id::{ArtifactId, TaskKey};
use domain::runner::event::Event;
use domain::runner::task::FencingToken;

/// Follows the journal.
#[derive(Default)]
pub(super) struct Invariants {
    committed: BTreeMap<TaskKey, FencingToken>,
    newest: BTreeMap<TaskKey, FencingToken>,
    last_token: u64,
    told_token: u64,
    pub(super) commits: usize,
}

impl Invariants {
    /// Follows another history, the beginning of the one so far. What somebody was told
    /// to be granted stays granted: workers may still hold it.
    pub(super) fn begin_again(&mut self, events: &[Event], stored: &BTreeSet<ArtifactId>) {
        *self = Self { told_token: self.told_token, ..Self::default() };
        events.iter().for_each(|event| self.journaled(event, stored));
        self.last_token = self.told_token.max(self.last_token);
    }

    /// Somebody was told of all so far.
    pub(super) fn told(&mut self) {
        self.told_token = self.last_token;
    }

    /// Looks at an event that is on disk from now on.
    pub(super) fn journaled(&mut self, event: &Event, stored: &BTreeSet<ArtifactId>) {
        match event {
            Event::LeaseGranted { task, token, .. } => {
                assert!(token.0 > self.last_token, "fences grow");
                self.last_token = token.0;
                self.newest.insert(*task, *token);
                assert!(!self.committed.contains_key(task), "work on a task that is done");
            }
            Event::CheckpointSaved { task, token, artifact, .. } => {
                assert_eq!(self.newest.get(task), Some(token), "a checkpoint under an old lease");
                assert!(stored.contains(artifact), "a checkpoint whose files are missing");
            }
            Event::TaskCommitted { task, token, artifact } => {
                assert_eq!(self.newest.get(task), Some(token), "a result under an old lease");
                assert!(stored.contains(artifact), "a result whose files are missing");
                assert_eq!(self.committed.insert(*task, *token), None, "a second result");
                self.commits += 1;
            }
            Event::ResultsInvalidated { tasks } => self.committed.retain(|task, _| !tasks.contains(task)),
            _ => {}
        }
    }
}
