//! What a running attempt finds and may do, and how it ends without a result.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::{InputName, Values};
use crate::text::cut;

/// The folder of one attempt: `inputs/<name>/…` and `checkpoint/…` to read,
/// `outputs/…` and `checkpoints/<step>/…` to write.
#[derive(Clone, Debug)]
pub struct Folder {
    root: PathBuf,
    /// Inputs that lie elsewhere, by name.
    elsewhere: BTreeMap<String, PathBuf>,
}

impl Folder {
    /// The folder at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), elsewhere: BTreeMap::new() }
    }

    /// With an input that is read where it lies.
    #[must_use]
    pub fn with_input(mut self, name: impl Into<String>, folder: impl Into<PathBuf>) -> Self {
        self.elsewhere.insert(name.into(), folder.into());
        self
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of all inputs that do not lie elsewhere.
    pub fn inputs(&self) -> PathBuf {
        self.root.join("inputs")
    }

    /// The folder of one input.
    pub fn input(&self, name: InputName) -> PathBuf {
        let name = name.to_string();
        self.elsewhere.get(&name).cloned().unwrap_or_else(|| self.inputs().join(name))
    }

    /// A file to write, by its path in the artifact, for instance `images/000.png`.
    pub fn output(&self, path: &str) -> PathBuf {
        self.outputs().join(path)
    }

    /// The folder that becomes the artifact.
    pub fn outputs(&self) -> PathBuf {
        self.root.join("outputs")
    }

    /// The checkpoint to go on from; absent where the attempt starts anew.
    pub fn checkpoint(&self) -> PathBuf {
        self.root.join("checkpoint")
    }

    /// The checkpoint that this attempt leaves after so many steps. It is
    /// written under another name, synced and renamed: if it exists, it is whole.
    pub fn checkpoint_of(&self, step: u64) -> PathBuf {
        self.root.join("checkpoints").join(step.to_string())
    }
}

/// How often an attempt leaves a checkpoint: as soon as one of the two has
/// passed since the last. Neither: only when it is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cadence {
    /// Steps of training.
    pub every_steps: Option<u64>,
    /// Seconds.
    pub every_seconds: Option<u64>,
}

impl Default for Cadence {
    fn default() -> Self {
        Self { every_steps: None, every_seconds: Some(300) }
    }
}

impl Cadence {
    /// Whether that much since the last checkpoint, or since the start, is enough.
    pub fn due(&self, steps: u64, elapsed: Duration) -> bool {
        self.every_steps.is_some_and(|every| steps >= every)
            || self.every_seconds.is_some_and(|every| elapsed >= Duration::from_secs(every))
    }
}

/// How far an attempt is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done.
    pub done: u64,
    /// Steps in all.
    pub total: u64,
    /// What a person wants to know, for instance `epoch 3/4 loss 0.81`.
    pub note: String,
    /// The newest numbers behind the note, for programs.
    #[serde(default, skip_serializing_if = "Values::is_empty")]
    pub values: Values,
}

/// The attempt's line to whoever runs it.
pub trait Monitor {
    /// Tells how far the attempt is. Cheap: may be called at every step.
    fn progress(&mut self, progress: Progress);

    /// Whether the attempt has to end now; asked at step boundaries. The stage
    /// then leaves a checkpoint, if it can and has got further since the last,
    /// and returns [`FailureCode::Preempted`].
    fn stopping(&self) -> bool;

    /// Whether a checkpoint is wanted now that so many steps are done; asked at
    /// step boundaries.
    fn checkpoint_due(&mut self, step: u64) -> bool {
        let _ = step;
        false
    }

    /// Tells that [`Folder::checkpoint_of`] that many steps is there.
    fn checkpointed(&mut self, step: u64) {
        let _ = step;
    }

    /// Adds a line to the attempt's log.
    fn log(&mut self, line: &str) {
        let _ = line;
    }
}

/// A monitor that nobody listens to.
pub struct Unwatched;

impl Monitor for Unwatched {
    fn progress(&mut self, _: Progress) {}

    fn stopping(&self) -> bool {
        false
    }
}

/// Why an attempt ended without a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The kind, which decides whether to try again.
    pub code: FailureCode,
    /// What went wrong, where, and what to do next: at most [`Failure::MESSAGE_MAX`]
    /// bytes, wherever it comes from.
    #[serde(deserialize_with = "message")]
    pub message: String,
}

/// The kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// The data cannot be used; trying again gives the same.
    InvalidInput,
    /// A loss or a metric is not a number; trying again gives the same.
    #[serde(rename = "nan", alias = "not_a_number")]
    NotANumber,
    /// Memory ran out.
    OutOfMemory,
    /// The disk is full or cannot be written.
    Storage,
    /// The process died without saying why.
    Crashed,
    /// The command ended with a status other than 0.
    Exited,
    /// The attempt was told to stop.
    Preempted,
    /// Workers vanished under it again and again: it is held to be what kills them.
    Quarantined,
    /// A fault of the program.
    Internal,
}

impl FailureCode {
    /// The name in messages and in `--json`.
    pub fn name(self) -> &'static str {
        match self {
            FailureCode::InvalidInput => "invalid_input",
            FailureCode::NotANumber => "nan",
            FailureCode::OutOfMemory => "out_of_memory",
            FailureCode::Storage => "storage",
            FailureCode::Crashed => "crashed",
            FailureCode::Exited => "exited",
            FailureCode::Preempted => "preempted",
            FailureCode::Quarantined => "quarantined",
            FailureCode::Internal => "internal",
        }
    }

    /// All kinds.
    pub const ALL: [FailureCode; 9] = [
        FailureCode::InvalidInput,
        FailureCode::NotANumber,
        FailureCode::OutOfMemory,
        FailureCode::Storage,
        FailureCode::Crashed,
        FailureCode::Exited,
        FailureCode::Preempted,
        FailureCode::Quarantined,
        FailureCode::Internal,
    ];
}

/// Journals and files hold longer ones.
fn message<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(cut(&String::deserialize(deserializer)?, Failure::MESSAGE_MAX))
}

impl Failure {
    /// Bytes of a message that are kept.
    pub const MESSAGE_MAX: usize = 8192;

    /// A failure of that kind. A message that is too long is cut.
    pub fn new(code: FailureCode, message: impl Into<String>) -> Self {
        Self { code, message: cut(&message.into(), Self::MESSAGE_MAX) }
    }

    /// The data cannot be used.
    pub fn invalid_input(message: impl Into<String>) -> Self {
        Self::new(FailureCode::InvalidInput, message)
    }

    /// A file could not be read or written.
    pub fn io(what: &str, path: &Path, error: &std::io::Error) -> Self {
        Self::new(FailureCode::Storage, format!("cannot {what} {}: {error}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_have_one_name_in_messages_and_in_json() {
        for code in FailureCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.name());
        }
        assert_eq!(serde_json::from_str::<FailureCode>(r#""not_a_number""#).unwrap(), FailureCode::NotANumber);
    }

    #[test]
    fn a_message_is_bounded_whether_it_is_new_or_was_written_by_an_older_version() {
        let long = "x".repeat(15 << 20);
        let kept = format!("{}… [cut: 15728640 bytes in all]", "x".repeat(Failure::MESSAGE_MAX - 32));
        assert_eq!(Failure::new(FailureCode::Crashed, long.clone()).message, kept);
        let stored = serde_json::json!({ "code": "crashed", "message": long }).to_string();
        assert_eq!(serde_json::from_str::<Failure>(&stored).unwrap().message, kept);
    }

    #[test]
    fn a_checkpoint_is_due_after_its_steps_or_its_seconds() {
        let second = Duration::from_secs(1);
        let both = Cadence { every_steps: Some(10), every_seconds: Some(60) };
        assert!(!both.due(9, 59 * second) && both.due(10, second) && both.due(1, 60 * second));
        assert!(Cadence::default().due(1, 300 * second) && !Cadence::default().due(1_000_000, 299 * second));
        let never: Cadence = serde_json::from_str("{}").unwrap();
        assert!(!never.due(u64::MAX, Duration::MAX));
    }
}
