//! Somebody's own program as an attempt.
//!
//! It runs in a folder of its own, finds its inputs in `$LITHOGEN_INPUTS/<name>`
//! and leaves its outputs in `$LITHOGEN_OUTPUTS`; what it prints becomes
//! `stdout.txt` there, what it says on standard error is the attempt's log. An
//! element of an array finds `$LITHOGEN_INDEX` and, of lines, `$LITHOGEN_LINE`.
//! Told to stop, it gets SIGTERM, and SIGKILL when its time is over.

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use domain::stage::{Command, Failure, FailureCode, Folder};
use domain::task::Grant;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::time::Instant;

use crate::child::{LOG, why};
use crate::guard::Guard;

/// Its standard output, among its outputs.
pub const STDOUT: &str = "stdout.txt";

/// Runs the program to its end.
///
/// # Errors
/// Why there is no result. [`FailureCode::Preempted`] if `stop` ended it.
pub(crate) async fn run(
    command: &Command,
    grant: &Grant,
    folder: &Folder,
    guard: &Guard,
    environment: &[(String, String)],
    stop: impl Future<Output = Duration>,
) -> Result<(), Failure> {
    let work = folder.root().join("work");
    std::fs::create_dir_all(&work).map_err(|error| Failure::io("create", &work, &error))?;
    let create = |path: std::path::PathBuf| File::create(&path).map_err(|error| Failure::io("create", &path, &error));
    let (output, log) = (create(folder.output(STDOUT))?, create(folder.root().join(LOG))?);
    let Some((program, arguments)) = command.argv.split_first() else {
        return Err(Failure::invalid_input("the command names no program"));
    };
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .current_dir(&work)
        .envs(&command.environment)
        // Last: which GPUs it has is not its own choice.
        .envs(environment.iter().cloned())
        .env("LITHOGEN_INPUTS", folder.root().join("inputs"))
        .env("LITHOGEN_OUTPUTS", folder.outputs())
        .env("LITHOGEN_TASK", grant.task.to_string())
        .env("LITHOGEN_ATTEMPT", grant.attempt.to_string())
        .envs(command.index.map(|index| ("LITHOGEN_INDEX", index.to_string())))
        .envs(command.line.as_ref().map(|line| ("LITHOGEN_LINE", line)))
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(log)
        // What it starts is of its group, and ends with it.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Failure::invalid_input(format!("cannot start {program:?}: {error}")))?;
    let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let signal = |signal| {
        // One that has ended needs no signal.
        let _ = group.map(|group| kill_process_group(group, signal));
    };
    let watched = group.map(|group| guard.watch(group)).transpose();
    let _watched = watched.map_err(|error| {
        signal(Signal::KILL);
        Failure::new(FailureCode::Internal, format!("cannot start the guard of commands: {error}"))
    })?;
    tokio::pin!(stop);
    let mut kill_at = None;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            patience = &mut stop, if kill_at.is_none() => {
                kill_at = Some(Instant::now() + patience);
                signal(Signal::TERM);
            }
            () = tokio::time::sleep_until(kill_at.unwrap_or_else(Instant::now)), if kill_at.is_some() => {
                signal(Signal::KILL);
                break child.wait().await;
            }
        }
    };
    // What it left running has no worker to look after it.
    signal(Signal::KILL);
    let status =
        status.map_err(|error| Failure::new(FailureCode::Internal, format!("waiting for a command: {error}")))?;
    match status.code() {
        Some(0) => Ok(()),
        _ if kill_at.is_some() => Err(Failure::new(FailureCode::Preempted, "told to stop")),
        Some(_) => Err(Failure { code: FailureCode::Exited, ..why(status, folder.root(), false) }),
        None => Err(why(status, folder.root(), false)),
    }
}
