//! Somebody's own program as an attempt.
//!
//! It runs in a folder of its own, finds its inputs in `$LITHOGEN_INPUTS/<name>`
//! and leaves its outputs in `$LITHOGEN_OUTPUTS`; what it prints becomes
//! `stdout.txt` there. That and what it says on standard error is the attempt's
//! log, as far as [`crate::said`] keeps it. Of the worker's environment it has what
//! is passed on to all, what the command says, and its task and attempt (see
//! [`environment`]). An element of an array finds `$LITHOGEN_INDEX` and, of lines,
//! `$LITHOGEN_LINE`. Told to stop, it gets SIGTERM, and SIGKILL when its time is over.

use std::fs::File;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use domain::study::stage::{Command, Failure, FailureCode, Folder};
use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::child::protocol::LOG;
use crate::environment;
use crate::reaper::{MARK, Reaper};
use crate::said::Said;
use crate::supervise::{Group, crash, supervise};

/// Its standard output, among its outputs.
pub const STDOUT: &str = "stdout.txt";

/// Runs the program to its end.
///
/// # Errors
/// Why there is no result. [`FailureCode::Preempted`] if `stop` ended it.
pub(crate) async fn run(
    command: &Command,
    folder: &Folder,
    reaper: &Reaper,
    pass_env: &[String],
    environment: &[(String, String)],
    stop: impl Future<Output = Duration>,
) -> Result<(), Failure> {
    let work = folder.root().join("work");
    std::fs::create_dir_all(&work).map_err(|error| Failure::io("create", &work, &error))?;
    let output_path = folder.output(STDOUT);
    // The program may write there by itself: both add at the end.
    let output = File::options().create(true).append(true).open(&output_path);
    let output = output.map_err(|error| Failure::io("create", &output_path, &error))?;
    let log = folder.root().join(LOG);
    let said = Said::create(&log)?;
    let Some((program, arguments)) = command.argv.split_first() else {
        return Err(Failure::invalid_input("the command names no program"));
    };
    let no_guard = |error| Failure::new(FailureCode::Internal, format!("cannot start the guard of commands: {error}"));
    let guarded_by = reaper.process().map_err(no_guard)?;
    let mut started = tokio::process::Command::new(program);
    environment::pass(started.as_std_mut(), pass_env);
    let mut child = started
        .args(arguments)
        .current_dir(&work)
        .envs(command.environment.iter())
        // After its own: its GPUs, its task and its place in a trace are not its choice.
        .envs(environment.iter().cloned())
        .env("LITHOGEN_INPUTS", folder.root().join("inputs"))
        .env("LITHOGEN_OUTPUTS", folder.outputs())
        .env(MARK, guarded_by.to_string())
        .envs(command.index.map(|index| ("LITHOGEN_INDEX", index.to_string())))
        .envs(command.line.as_ref().map(|line| ("LITHOGEN_LINE", line)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // What it starts is of its group, and ends with it.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Failure::invalid_input(format!("cannot start {program:?}: {error}")))?;
    let group = Group::of(&child);
    let watched = group.id().map(|group| reaper.watch(group)).transpose();
    let _watched = watched.map_err(|error| {
        group.signal(Signal::KILL);
        no_guard(error)
    })?;
    let (Some(printed), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(Failure::new(FailureCode::Internal, "a command without output"));
    };
    let hear_errors = async {
        said.hear(errors).await;
        Ok(())
    };
    let hear = async {
        let heard = tokio::try_join!(tee(printed, output.into(), &said), hear_errors);
        heard.map(drop).map_err(|error| Failure::io("write", &output_path, &error))
    };
    let ask = async {
        let patience = stop.await;
        group.signal(Signal::TERM);
        patience
    };
    let ended = supervise(child, hear, ask).await;
    said.end().await;
    ended?.check(|status| {
        let crash = crash(status, &log, false);
        if status.code().is_some() { Failure { code: FailureCode::Exited, ..crash } } else { crash }
    })
}

/// Copies what is printed to the result and to the log.
///
/// # Errors
/// If the result cannot be written.
async fn tee(mut printed: impl AsyncRead + Unpin, mut output: tokio::fs::File, log: &Said) -> io::Result<()> {
    let mut piece = Vec::with_capacity(64 * 1024);
    while printed.read_buf(&mut piece).await? > 0 {
        output.write_all(&piece).await?;
        output.flush().await?;
        log.add(&piece).await;
        piece.clear();
    }
    Ok(())
}
