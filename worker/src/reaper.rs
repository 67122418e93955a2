//! Commands do not outlive their worker. The reaper is a process of the worker's own
//! that knows their process groups and ends them when the worker is gone, however
//! it went: the pipe between the two closes then. On the command line and in the
//! environment it is called the guard.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System, UpdateKind};
use tokio::signal::unix::{SignalKind, signal};

use crate::environment;

/// The only argument of a program that shall be the reaper.
pub const GUARD: &str = "guard";

/// Environment variable of commands, and so of all that they start: the reaper's process.
pub const MARK: &str = "LITHOGEN_GUARD";

/// Times in a row that the reaper has to find nothing of its mark, and the time between.
/// A program that is just being started shows its environment a moment later.
const LOOKS: u32 = 3;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Runs as the reaper: reads `+GROUP` and `-GROUP`, a line each, until the input ends, and kills
/// the groups that are left. Then it kills what has its mark: a command whose worker went before it
/// could name the group, and processes that have left their group.
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
    let mark = format!("{MARK}={}", std::process::id());
    let mut system = System::new().map_err(io::Error::other)?;
    let mut clean = 0;
    while clean < LOOKS {
        let with_environment = ProcessRefreshKind::nothing().with_environ(UpdateKind::Always).without_tasks();
        system.refresh_processes_specifics(ProcessesToUpdate::All, true, with_environment);
        let marked = |process: &&sysinfo::Process| process.environ().iter().any(|variable| *variable == *mark);
        let killed = system.processes().values().filter(marked).filter(|process| process.kill()).count();
        clean = if killed == 0 { clean + 1 } else { 0 };
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    Ok(())
}

/// The groups that are named and not taken back until the input ends.
fn left() -> BTreeSet<i32> {
    let mut groups = BTreeSet::new();
    for line in io::stdin().lines().map_while(Result::ok) {
        let Some(group) = line.get(1..).and_then(|group| group.parse().ok()) else { continue };
        if line.starts_with('+') {
            groups.insert(group)
        } else {
            groups.remove(&group)
        };
    }
    groups
}

/// The worker's side of the reaper: starts the process and names groups to it.
#[derive(Debug)]
pub(crate) struct Reaper {
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
    reaper: &'a Reaper,
    group: i32,
}

impl Reaper {
    /// A reaper that is `program`, which is started when there is something to watch.
    pub(crate) fn new(program: PathBuf) -> Self {
        Self { program, state: Mutex::default() }
    }

    /// Has a process group watched.
    ///
    /// # Errors
    /// If there is no reaper and none can be started.
    pub(crate) fn watch(&self, group: Pid) -> io::Result<Watched<'_>> {
        let group = group.as_raw_nonzero().get();
        let watched = Watched { reaper: self, group };
        self.change(|groups| groups.insert(group), &format!("+{group}\n"))?;
        Ok(watched)
    }

    /// The reaper's process, for [`MARK`]: started if there is none, so that it is there
    /// before what it watches.
    ///
    /// # Errors
    /// If there is no reaper and none can be started.
    pub(crate) fn process(&self) -> io::Result<u32> {
        let mut state = self.state();
        if let Some(process) = &mut state.process
            && process.try_wait()?.is_none()
        {
            return Ok(process.id());
        }
        self.start(&mut state)
    }

    fn change(&self, change: impl FnOnce(&mut BTreeSet<i32>) -> bool, line: &str) -> io::Result<()> {
        let mut state = self.state();
        change(&mut state.groups);
        let pipe = state.process.as_mut().and_then(|process| process.stdin.as_mut());
        if pipe.is_some_and(|pipe| pipe.write_all(line.as_bytes()).is_ok()) {
            Ok(())
        } else {
            self.start(&mut state).map(drop)
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What panicked left a set that is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a reaper, in place of one that is gone, and names all groups to it.
    fn start(&self, state: &mut State) -> io::Result<u32> {
        if let Some(mut gone) = state.process.take() {
            gone.kill()?;
            gone.wait()?;
        }
        let mut command = Command::new(&self.program);
        // Its mark neither: a worker may run within a command of another, which its reaper outlives.
        environment::pass(&mut command, &[]);
        let mut started = command.arg(GUARD).stdin(Stdio::piped()).process_group(0).spawn()?;
        let all: String = state.groups.iter().map(|group| format!("+{group}\n")).collect();
        if let Some(pipe) = &mut started.stdin {
            pipe.write_all(all.as_bytes())?;
        }
        Ok(state.process.insert(started).id())
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        let (group, line) = (self.group, format!("-{}\n", self.group));
        if let Err(error) = self.reaper.change(|groups| groups.remove(&group), &line) {
            tracing::warn!(%error, "no guard watches the commands; the next one needs another");
        }
    }
}
