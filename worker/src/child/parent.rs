//! The worker's side of the protocol: starts a program on an attempt's folder and hears it.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use domain::study::stage::{Failure, FailureCode};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::process::Command;

use super::protocol::{FAILURE, LOG, Line, STOP};
use crate::config::Config;
use crate::lines::Lines;
use crate::said::Said;
use crate::supervise::{crash, supervise};
use crate::{environment, memory};

/// Most bytes of `failure.json`: a longer file is not one that a stage left.
const FAILURE_MAX: u64 = 64 * 1024;

/// Runs the program on an attempt's folder to its end. Once `stop` is ready the
/// child is asked to end; after the time that `stop` says, the child is killed.
///
/// # Errors
/// Why there is no result. [`FailureCode::Preempted`] if `stop` ended the child.
pub(crate) async fn run(
    config: &Config,
    folder: &Path,
    environment: &[(String, String)],
    stop: impl Future<Output = Duration>,
    mut tell: impl FnMut(Line),
) -> Result<(), Failure> {
    let said = Said::create(&folder.join(LOG))?;
    let kills = memory::kills();
    let program = &config.program;
    let mut command = Command::new(&program.path);
    // A stage exports its own spans, to the receiver of the worker's.
    let further = [&config.pass_env[..], &["OTEL_*".to_owned()]].concat();
    environment::pass(command.as_std_mut(), &further);
    let mut child = command
        .args(&program.arguments)
        .arg(folder)
        .envs(program.environment.iter().chain(environment).cloned())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A signal from the terminal is for the worker, which tells the child.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Failure::io("start", &program.path, &error))?;
    // Open until the child has ended: a child whose input closes has lost its parent.
    let mut stdin = child.stdin.take();
    let (Some(output), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(Failure::new(FailureCode::Internal, "a child without output"));
    };
    let hear_lines = async {
        let mut lines = Lines::new(BufReader::new(output));
        while let Ok(Some(line)) = lines.next().await {
            // A line of another form is not for the worker.
            if let Ok(line) = serde_json::from_slice(&line) {
                tell(line);
            }
        }
    };
    let hear = async {
        tokio::join!(hear_lines, said.hear(errors));
        Ok(())
    };
    let ask = async {
        let patience = stop.await;
        if let Some(stdin) = &mut stdin {
            // A child that has ended already reads no more.
            let _ = stdin.write_all(format!("{STOP}\n").as_bytes()).await;
        }
        patience
    };
    let ended = supervise(child, hear, ask).await;
    said.end().await;
    ended?.check(|status| {
        let for_memory = kills.zip(memory::kills()).is_some_and(|(before, after)| after > before);
        reported(folder).unwrap_or_else(|| crash(status, &folder.join(LOG), for_memory))
    })
}

/// Why there is no result, as the child said it.
fn reported(folder: &Path) -> Option<Failure> {
    let mut bytes = vec![];
    File::open(folder.join(FAILURE)).ok()?.take(FAILURE_MAX).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}
