//! The process of an attempt, from its start to its end: what it says is heard, it is
//! told to end when it has to, and killed if it takes too long.

use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use domain::study::stage::{Failure, FailureCode};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Child;
use tokio::time::Instant;

use crate::{memory, said};

/// How long a process that nobody wants any more may take to end before it is killed.
pub(crate) const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of the log that a message repeats.
const LAST_WORDS: usize = 2_000;

/// The process group that a process leads: the process, and what it has started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group(Option<Pid>);

impl Group {
    /// The group of a process that was started as the first of its own.
    pub(crate) fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)))
    }

    /// The group's number, unless the process has ended.
    pub(crate) fn id(self) -> Option<Pid> {
        self.0
    }

    /// Sends a signal to all processes of the group.
    pub(crate) fn signal(self, signal: Signal) {
        // A group that has ended needs no signal.
        let _ = self.0.map(|group| kill_process_group(group, signal));
    }
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    status: ExitStatus,
    /// Whether the process had been asked to end.
    was_asked: bool,
}

impl Ended {
    /// Whether the process did what it was to do; `why` says why a process did not that
    /// nobody had asked to end.
    ///
    /// # Errors
    /// [`FailureCode::Preempted`] of a process that was asked to end, else what `why` says.
    pub(crate) fn check(self, why: impl FnOnce(ExitStatus) -> Failure) -> Result<(), Failure> {
        if self.status.success() {
            Ok(())
        } else if self.was_asked {
            Err(Failure::new(FailureCode::Preempted, "told to stop"))
        } else {
            Err(why(self.status))
        }
    }
}

/// Waits until a process, the first of a group of its own, has ended and `hear` has heard
/// all that it says. `ask` waits until the process has to end, asks it to, and returns how
/// long it may take; then its group is killed. So is what a process leaves of its group.
///
/// # Errors
/// That of `hear`, which also ends the process; if the system does not say how it ended.
pub(crate) async fn supervise(
    mut child: Child,
    hear: impl Future<Output = Result<(), Failure>>,
    ask: impl Future<Output = Duration>,
) -> Result<Ended, Failure> {
    let group = Group::of(&child);
    tokio::pin!(hear, ask);
    let (mut heard, mut kill_at) = (None, None);
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            result = &mut hear, if heard.is_none() => {
                if result.is_err() {
                    // No result can come of the process any more.
                    group.signal(Signal::KILL);
                }
                heard = Some(result);
            }
            patience = &mut ask, if kill_at.is_none() => kill_at = Some(Instant::now() + patience),
            () = tokio::time::sleep_until(kill_at.unwrap_or_else(Instant::now)), if kill_at.is_some() => {
                group.signal(Signal::KILL);
                break child.wait().await;
            }
        }
    };
    // What the process left running has no worker to look after it.
    group.signal(Signal::KILL);
    match heard {
        Some(heard) => heard,
        // What has left the group may hold a pipe open for ever.
        None => tokio::time::timeout(STOP_PATIENCE, hear).await.unwrap_or(Ok(())),
    }?;
    let status = status
        .map_err(|error| Failure::new(FailureCode::Internal, format!("waiting for the attempt's process: {error}")))?;
    Ok(Ended { status, was_asked: kill_at.is_some() })
}

/// Why a process ended that did not say so itself, from its status and the log's end.
/// `killed_for_memory`: whether the kernel killed a process here for memory meanwhile.
pub(crate) fn crash(status: ExitStatus, log: &Path, killed_for_memory: bool) -> Failure {
    let log = said::end_of(log).unwrap_or_default();
    let tail = |length: usize| String::from_utf8_lossy(&log[log.len().saturating_sub(length)..]).trim().to_owned();
    let was_killed = std::os::unix::process::ExitStatusExt::signal(&status) == Some(Signal::KILL.as_raw());
    let (code, hint) = if memory::ran_out(&tail(said::END)) || (was_killed && killed_for_memory) {
        (FailureCode::OutOfMemory, " for lack of memory: use fewer --slots or a machine with more")
    } else if was_killed {
        (FailureCode::Crashed, " (often the system's answer to a lack of memory)")
    } else {
        (FailureCode::Crashed, "")
    };
    Failure::new(code, format!("the attempt's process ended with {status}{hint}; it said last: {}", tail(LAST_WORDS)))
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use tokio::io::AsyncReadExt;
    use tokio::process::Command;

    use super::*;

    fn shell(script: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped()).process_group(0).kill_on_drop(true);
        command.spawn().unwrap()
    }

    fn crashed(status: ExitStatus) -> Failure {
        Failure::new(FailureCode::Crashed, status.to_string())
    }

    #[tokio::test]
    async fn what_a_process_leaves_running_ends_with_it_and_all_is_heard() {
        let mut child = shell("sleep 600 & echo started");
        let mut output = child.stdout.take().unwrap();
        let (mut said, mut is_closed) = (String::new(), false);
        let hear = async {
            output.read_to_string(&mut said).await.unwrap();
            is_closed = true;
            Ok(())
        };
        let ended = supervise(child, hear, std::future::pending()).await.unwrap();
        assert_eq!(ended.check(crashed), Ok(()));
        assert_eq!((said.as_str(), is_closed), ("started\n", true));
    }

    #[tokio::test]
    async fn a_process_that_does_not_end_when_it_is_asked_is_killed() {
        let deaf = shell("exec sleep 600");
        let ask = async { Duration::ZERO };
        let ended = supervise(deaf, async { Ok(()) }, ask).await.unwrap();
        assert_eq!(ended.check(crashed).unwrap_err().code, FailureCode::Preempted);
    }

    #[tokio::test]
    async fn a_process_that_cannot_be_heard_is_ended() {
        let failure = Failure::new(FailureCode::Storage, "no room");
        let hear = async { Err(failure.clone()) };
        let ended = supervise(shell("exec sleep 600"), hear, std::future::pending()).await;
        assert_eq!(ended.unwrap_err(), failure);
    }

    #[test]
    fn a_crash_repeats_the_last_words_of_a_log_of_any_length() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.txt");
        let file = std::fs::File::create(&path).unwrap();
        // Takes no room: nothing is in the middle.
        file.set_len(1 << 40).unwrap();
        std::os::unix::fs::FileExt::write_at(&file, b"the last words", 1 << 40).unwrap();
        let status = std::os::unix::process::ExitStatusExt::from_raw(0x0100);
        let failure = crash(status, &path, false);
        assert_eq!(failure.code, FailureCode::Crashed);
        assert!(failure.message.ends_with("the last words") && failure.message.len() < 3000, "{}", failure.message);
    }
}
