//! The child's side of the protocol: hears the parent, and tells it how far the stage is.

use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use domain::study::stage::{Cadence, Failure, Monitor, Progress};

use super::protocol::{FAILURE, Line, STOP};

/// Exit status of a child whose parent is gone: that of a program that was interrupted.
const ORPHANED: i32 = 130;

/// Speaks on standard output, one JSON object a line.
#[derive(Debug)]
pub struct Speaker {
    stopping: Arc<AtomicBool>,
    cadence: Cadence,
    /// The step of the last checkpoint; before the first one, the first step that was asked about.
    step: Option<u64>,
    /// The time of the last checkpoint, or of the start.
    since: Instant,
}

impl Speaker {
    /// Hears the parent from now on. When standard input closes, the parent is gone and
    /// nobody wants the result: the process ends.
    pub fn start() -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let told = stopping.clone();
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                if line == STOP {
                    told.store(true, Ordering::Relaxed);
                }
            }
            std::process::exit(ORPHANED);
        });
        Self { stopping, cadence: Cadence::default(), step: None, since: Instant::now() }
    }

    /// Leaves checkpoints as often as the order says, counted from now.
    #[must_use]
    pub fn with_cadence(self, cadence: Cadence) -> Self {
        Self { cadence, since: Instant::now(), ..self }
    }

    fn say(line: &Line) {
        if let Ok(line) = serde_json::to_string(line) {
            // A parent that is gone ends this process through its input.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    }
}

impl Monitor for Speaker {
    fn progress(&mut self, progress: Progress) {
        Self::say(&Line::Progress(progress));
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn checkpoint_due(&mut self, step: u64) -> bool {
        let last = *self.step.get_or_insert(step);
        self.cadence.due(step.saturating_sub(last), self.since.elapsed())
    }

    fn checkpointed(&mut self, step: u64) {
        (self.step, self.since) = (Some(step), Instant::now());
        Self::say(&Line::Checkpoint { checkpoint: step });
    }

    fn log(&mut self, line: &str) {
        // Standard error is the attempt's log. A parent that is gone ends this process.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

/// Tells the parent why there is no result.
pub fn fail(folder: &Path, failure: &Failure) {
    // Without the file the worker falls back on what the process said last.
    let _ = std::fs::write(folder.join(FAILURE), serde_json::to_vec(failure).unwrap_or_default());
}
