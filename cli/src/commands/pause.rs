//! `lithogen pause` and `lithogen resume`.

use proto::channel::call;
use proto::v1;

use crate::args::RunOf;
use crate::local;
use crate::remote::short;

/// Holds a run back.
///
/// # Errors
/// If there is no such run or no coordinator.
pub async fn pause(args: &RunOf) -> anyhow::Result<()> {
    let status = local::ask(args.remote.coordinator.as_deref(), &args.state.state, |remote| async move {
        let request = v1::PauseRunRequest { run_id: args.run.clone() };
        let answer = remote.runs().pause_run(call(request)).await.map_err(|status| remote.explain(&status))?;
        Ok(answer.into_inner().status.unwrap_or_default())
    })
    .await?;
    let run = short(&status.run_id);
    match status.state() {
        v1::RunState::Paused => note!("run {run} is paused; `lithogen resume {run}` lets it go on"),
        _ => note!("run {run} is over; there is nothing to pause"),
    }
    Ok(())
}

/// Lets a run go on.
///
/// # Errors
/// If there is no such run or no coordinator.
pub async fn resume(args: &RunOf) -> anyhow::Result<()> {
    let status = local::ask(args.remote.coordinator.as_deref(), &args.state.state, |remote| async move {
        let request = v1::ResumeRunRequest { run_id: args.run.clone() };
        let answer = remote.runs().resume_run(call(request)).await.map_err(|status| remote.explain(&status))?;
        Ok(answer.into_inner().status.unwrap_or_default())
    })
    .await?;
    note!("run {} goes on; {} of {} tasks are done", short(&status.run_id), status.committed, status.tasks);
    Ok(())
}
