//! The process of an attempt and the lines it speaks.
//!
//! The parent writes the order to `order.json` in the attempt's folder and
//! starts the program with the folder as argument. A child that finds
//! `checkpoint/` goes on from there. It tells its progress and the checkpoints
//! that it leaves as JSON lines on standard output; what it says on standard
//! error is kept in `log.txt`, as far as [`crate::said`] keeps it. It ends with
//! status 0 and its files in `outputs/`, or leaves `failure.json`. A line `stop`
//! on its standard input asks it to finish its step, leave a checkpoint and end;
//! when the input closes, its parent is gone and it ends at once, so no child
//! outlives its worker.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use domain::seed::Seed;
use domain::stage::{Cadence, Failure, FailureCode, Progress, Stage};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::time::Instant;

use crate::config::Config;
use crate::lines::Lines;
use crate::said::{END, Said};
use crate::{environment, memory};

/// What the child is to do: `order.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// What to do.
    pub stage: Stage,
    /// Root of its random numbers.
    pub seed: Seed,
    /// How often to leave a checkpoint. It changes no result, so it is no part
    /// of the task's key.
    #[serde(default)]
    pub checkpoint: Cadence,
}

/// What the child says on standard output, one JSON object a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// How far it is.
    Progress(Progress),
    /// `checkpoints/<checkpoint>/` is whole. Whoever reads this may take it away.
    Checkpoint {
        /// Steps done.
        checkpoint: u64,
    },
}

/// Name of the order's file.
pub const ORDER: &str = "order.json";

/// Name of the file that says why there is no result.
pub const FAILURE: &str = "failure.json";

/// Name of the file with what the child said on standard error.
pub const LOG: &str = "log.txt";

/// The line that asks the child to end.
pub const STOP: &str = "stop";

/// How long a child that nobody wants any more may take to end before it is killed.
pub(crate) const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of the log that a message repeats.
const LAST_WORDS: usize = 2_000;

/// Most bytes of `failure.json`: what is longer is no failure of ours.
const FAILURE_MAX: u64 = 64 * 1024;

/// The signal that nothing can catch.
const SIGKILL: i32 = 9;

/// Runs the program on an attempt's folder to its end. Once `stop` is ready the
/// child is asked to end; after the time that it says, it is killed.
///
/// # Errors
/// Why there is no result. [`FailureCode::Preempted`] if `stop` ended it.
pub(crate) async fn run(
    config: &Config,
    folder: &Path,
    gpus: &[(String, String)],
    stop: impl Future<Output = Duration>,
    mut tell: impl FnMut(Line),
) -> Result<(), Failure> {
    let said = Said::create(&folder.join(LOG))?;
    let kills = memory::kills();
    let program = &config.program;
    let mut command = Command::new(&program.path);
    environment::pass(command.as_std_mut(), &config.pass_env);
    let mut child = command
        .args(&program.arguments)
        .arg(folder)
        .envs(program.environment.iter().chain(gpus).cloned())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A signal from the terminal is for the worker, which tells the child.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Failure::io("start", &program.path, &error))?;
    let mut stdin = child.stdin.take();
    let (Some(output), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(Failure::new(FailureCode::Internal, "a child without output"));
    };
    let mut lines = Lines::new(BufReader::new(output));
    let heard = said.hear(errors);
    let (mut speaks, mut says) = (true, true);
    let mut kill_at = None;
    tokio::pin!(stop, heard);
    let status = loop {
        tokio::select! {
            line = lines.next(), if speaks => match line {
                Ok(Some(line)) => {
                    // A line of another form is not for us.
                    if let Ok(line) = serde_json::from_slice(&line) {
                        tell(line);
                    }
                }
                Ok(None) | Err(_) => speaks = false,
            },
            () = &mut heard, if says => says = false,
            // What it said has to be heard first: the end may come before the last line is read.
            status = child.wait(), if !speaks => break status,
            patience = &mut stop, if kill_at.is_none() => {
                kill_at = Some(Instant::now() + patience);
                if let Some(stdin) = &mut stdin {
                    // A child that has ended already reads no more.
                    let _ = stdin.write_all(format!("{STOP}\n").as_bytes()).await;
                }
            }
            () = tokio::time::sleep_until(kill_at.unwrap_or_else(Instant::now)), if kill_at.is_some() => {
                // It may have ended in between.
                let _ = child.kill().await;
                break child.wait().await;
            }
        }
    };
    if says {
        // What it started may hold the pipe open for ever.
        let _ = tokio::time::timeout(STOP_PATIENCE, heard).await;
    }
    said.end().await;
    let stopped = kill_at.is_some();
    let status =
        status.map_err(|error| Failure::new(FailureCode::Internal, format!("waiting for a child: {error}")))?;
    match status.success() {
        true => Ok(()),
        false if stopped => Err(Failure::new(FailureCode::Preempted, "told to stop")),
        false => {
            let more = kills.zip(memory::kills()).is_some_and(|(before, after)| after > before);
            Err(why(status, folder, more))
        }
    }
}

/// `killed_for_memory`: whether meanwhile the kernel has killed somebody here
/// for memory.
pub(crate) fn why(status: ExitStatus, folder: &Path, killed_for_memory: bool) -> Failure {
    let said = File::open(folder.join(FAILURE)).ok().and_then(|file| {
        let mut bytes = vec![];
        file.take(FAILURE_MAX).read_to_end(&mut bytes).ok().map(|_| bytes)
    });
    if let Some(failure) = said.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
        return failure;
    }
    let log = end_of(&folder.join(LOG)).unwrap_or_default();
    let tail = |length: usize| String::from_utf8_lossy(&log[log.len().saturating_sub(length)..]).trim().to_owned();
    let killed = signal(status) == Some(SIGKILL);
    let (code, hint) = match memory::ran_out(&tail(END)) || (killed && killed_for_memory) {
        true => (FailureCode::OutOfMemory, " for lack of memory: use fewer --slots or a machine with more"),
        false if killed => (FailureCode::Crashed, " (often the system's answer to a lack of memory)"),
        false => (FailureCode::Crashed, ""),
    };
    Failure::new(code, format!("the attempt's process ended with {status}{hint}; it said last: {}", tail(LAST_WORDS)))
}

/// The last bytes of a file, [`END`] at most.
fn end_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(END as u64)))?;
    let mut end = vec![];
    file.take(END as u64).read_to_end(&mut end)?;
    Ok(end)
}

#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal(_: ExitStatus) -> Option<i32> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_log_only_the_end_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOG);
        let file = File::create(&path).unwrap();
        // Takes no room: nothing is in the middle.
        file.set_len(1 << 40).unwrap();
        std::os::unix::fs::FileExt::write_at(&file, b"the last words", 1 << 40).unwrap();
        let end = end_of(&path).unwrap();
        assert_eq!((end.len(), end.ends_with(b"\0the last words")), (END, true));
        let status = std::os::unix::process::ExitStatusExt::from_raw(0x0100);
        let failure = why(status, folder.path(), false);
        assert!(failure.message.ends_with("the last words") && failure.message.len() < 3000, "{}", failure.message);
    }

    #[test]
    fn lines_and_orders_have_the_forms_that_programs_rely_on() {
        let progress = Progress { done: 1, total: 2, note: "half".into() };
        for (line, text) in [
            (Line::Progress(progress), r#"{"done":1,"total":2,"note":"half"}"#),
            (Line::Checkpoint { checkpoint: 40 }, r#"{"checkpoint":40}"#),
        ] {
            assert_eq!(serde_json::to_string(&line).unwrap(), text);
            assert_eq!(serde_json::from_str::<Line>(text).unwrap(), line);
        }
        let seed = serde_json::to_string(&Seed(7)).unwrap();
        let plain = format!(r#"{{"stage":{{"stage":"report"}},"seed":{seed}}}"#);
        assert_eq!(serde_json::from_str::<Order>(&plain).unwrap().checkpoint, Cadence::default());
    }
}
