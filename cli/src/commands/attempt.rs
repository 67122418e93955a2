//! `lithogen attempt`: one stage in a process of its own, so that whatever ends
//! it ends nothing else. See `worker::child` for the lines it speaks.

use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::Context;
use domain::cost;
use domain::stage::{Cadence, Failure, FailureCode, Folder, Monitor, Progress};
use science::device::Kind;
use worker::child::{FAILURE, Line, ORDER, Order, STOP};

use crate::exit::Problem;

/// Environment variable with the kind of processor to compute on.
pub const DEVICE: &str = "LITHOGEN_DEVICE";

/// Environment variable with the memory of the GPU, MiB.
pub const DEVICE_MEMORY: &str = "LITHOGEN_DEVICE_MEMORY_MIB";

/// Runs the order found in the folder.
///
/// # Errors
/// If there is no result; `failure.json` then says why.
pub fn run(folder: &Path) -> anyhow::Result<()> {
    let stopping = Arc::new(AtomicBool::new(false));
    listen(stopping.clone());
    let path = folder.join(ORDER);
    let order = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let order: Order = serde_json::from_slice(&order).with_context(|| format!("cannot read {}", path.display()))?;
    let kind = Kind::parse(std::env::var(DEVICE).as_deref().unwrap_or("cpu"))?;
    let device = kind.open()?;
    let of_gpu = || std::env::var(DEVICE_MEMORY).ok()?.parse().ok().map(|mib: u64| mib << 20);
    let memory = match kind {
        Kind::Cpu => cost::CPU_MEMORY_BYTES,
        _ => of_gpu().unwrap_or(cost::GPU_MEMORY_BYTES),
    };
    let attempt = science::stages::Attempt {
        seed: order.seed,
        folder: &Folder::new(folder),
        monitor: &mut Pipe { stopping, cadence: order.checkpoint, step: None, since: Instant::now() },
        device: &device,
        memory,
    };
    science::run(&order.stage, attempt).map_err(|mut failure| {
        // The scratch copy is gone when somebody reads this: the file's name in its input is what helps.
        let scratch = Folder::new(folder).inputs().display().to_string();
        failure.message = failure.message.replace(&scratch, "");
        // Without the file the worker falls back on what is said below.
        let _ = std::fs::write(folder.join(FAILURE), serde_json::to_vec(&failure).unwrap_or_default());
        Problem::new(code(&failure), failure.to_string()).into()
    })
}

fn code(failure: &Failure) -> u8 {
    if failure.code == FailureCode::Preempted { crate::exit::INTERRUPTED } else { crate::exit::ERROR }
}

/// Hears the parent. When the input closes, the parent is gone and nobody wants
/// the result.
fn listen(stopping: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            match line {
                Ok(line) if line == STOP => stopping.store(true, Ordering::Relaxed),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        std::process::exit(i32::from(crate::exit::INTERRUPTED));
    });
}

/// Speaks on standard output, one JSON object a line.
struct Pipe {
    stopping: Arc<AtomicBool>,
    cadence: Cadence,
    /// Of the last checkpoint; before it, the first that was asked about.
    step: Option<u64>,
    /// The time of the last checkpoint, or of the start.
    since: Instant,
}

impl Pipe {
    fn say(line: &Line) {
        if let Ok(line) = serde_json::to_string(line) {
            // A parent that is gone ends this process through its input.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    }
}

impl Monitor for Pipe {
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
        // As it is: this is the attempt's log. A parent that is gone ends this process.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}
