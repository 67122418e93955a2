//! Progress as people see it: told a few times per second, not at every step.

use std::fmt::Display;
use std::time::{Duration, Instant};

use domain::study::stage::{Monitor, Progress};

/// The time between progress reports.
const REPORT_EVERY: Duration = Duration::from_millis(500);

/// The time since the last report.
pub struct Pause(Instant);

impl Pause {
    /// A pause that begins now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Tells whether a report is due, which begins the next pause. The last one always is.
    pub fn is_over(&mut self, is_last: bool) -> bool {
        let is_over = is_last || self.0.elapsed() >= REPORT_EVERY;
        if is_over {
            self.0 = Instant::now();
        }
        is_over
    }
}

/// Progress of an attempt in steps.
pub struct Watch<'a> {
    /// The monitor that is told.
    pub monitor: &'a mut dyn Monitor,
    /// The number of steps done.
    pub done: u64,
    /// The number of all steps.
    pub total: u64,
    pause: Pause,
}

impl<'a> Watch<'a> {
    /// A watch before the first step.
    pub fn new(monitor: &'a mut dyn Monitor, total: u64) -> Self {
        Self { monitor, done: 0, total, pause: Pause::start() }
    }

    /// Tells how far the work is, if a report is due.
    pub fn report(&mut self, note: impl Display) {
        if self.pause.is_over(self.done == self.total) {
            self.monitor.progress(Progress {
                done: self.done,
                total: self.total,
                note: note.to_string(),
                ..Progress::default()
            });
        }
    }
}
