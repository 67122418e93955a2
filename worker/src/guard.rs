//! Commands do not outlive their worker. The guard is a process of the worker's own
//! that knows their process groups and ends them when the worker is gone, however
//! it went: the pipe between the two closes then.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::signal::unix::{SignalKind, signal};

/// The only argument of a program that shall be the guard.
pub const GUARD: &str = "guard";

/// Is the guard: reads `+GROUP` and `-GROUP`, a line each, until there are no more,
/// and kills the groups that are left.
///
/// # Errors
/// If it cannot outlive what its worker is told by signals.
pub async fn run() -> io::Result<()> {
    // Batch systems signal everybody. It ends when its worker does.
    let deaf_to = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let _deaf: Vec<_> = deaf_to.into_iter().map(signal).collect::<Result<_, _>>()?;
    let groups = tokio::task::spawn_blocking(left).await?;
    for group in groups.into_iter().filter_map(Pid::from_raw) {
        // It may have ended.
        let _ = kill_process_group(group, Signal::KILL);
    }
    Ok(())
}

/// The groups that are named and not taken back until the input ends.
fn left() -> BTreeSet<i32> {
    let mut groups = BTreeSet::new();
    for line in io::stdin().lines().map_while(Result::ok) {
        let Some(group) = line.get(1..).and_then(|group| group.parse().ok()) else { continue };
        match line.starts_with('+') {
            true => groups.insert(group),
            false => groups.remove(&group),
        };
    }
    groups
}

/// The worker's side.
#[derive(Debug)]
pub(crate) struct Guard {
    program: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    process: Option<Child>,
    groups: BTreeSet<i32>,
}

/// A group that is watched for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Watched<'a> {
    guard: &'a Guard,
    group: i32,
}

impl Guard {
    /// By that program, which is started when there is something to watch.
    pub(crate) fn new(program: PathBuf) -> Self {
        Self { program, state: Mutex::default() }
    }

    /// Has a process group watched.
    ///
    /// # Errors
    /// If there is no guard and none can be started.
    pub(crate) fn watch(&self, group: Pid) -> io::Result<Watched<'_>> {
        let group = group.as_raw_nonzero().get();
        let watched = Watched { guard: self, group };
        self.change(|groups| groups.insert(group), &format!("+{group}\n"))?;
        Ok(watched)
    }

    fn change(&self, change: impl FnOnce(&mut BTreeSet<i32>) -> bool, line: &str) -> io::Result<()> {
        // What panicked left a set that is whole.
        let State { process, groups } = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(groups);
        let pipe = process.as_mut().and_then(|process| process.stdin.as_mut());
        if pipe.is_some_and(|pipe| pipe.write_all(line.as_bytes()).is_ok()) {
            return Ok(());
        }
        if let Some(mut gone) = process.take() {
            gone.kill()?;
            gone.wait()?;
        }
        let mut started = Command::new(&self.program).arg(GUARD).stdin(Stdio::piped()).process_group(0).spawn()?;
        let all: String = groups.iter().map(|group| format!("+{group}\n")).collect();
        if let Some(pipe) = &mut started.stdin {
            pipe.write_all(all.as_bytes())?;
        }
        *process = Some(started);
        Ok(())
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        let (group, line) = (self.group, format!("-{}\n", self.group));
        if let Err(error) = self.guard.change(|groups| groups.remove(&group), &line) {
            tracing::warn!(%error, "no guard watches the commands; the next one needs another");
        }
    }
}
