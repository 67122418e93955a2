//! `lithogen cancel`.

use proto::v1;

use crate::args::RunOf;
use crate::local;
use crate::remote::short;

/// Calls a run off.
///
/// # Errors
/// If there is no such run or no coordinator.
pub async fn run(args: &RunOf) -> anyhow::Result<()> {
    let status = local::ask(args.remote.coordinator.as_deref(), &args.state.state, |remote| async move {
        remote.cancel(&args.run).await
    })
    .await?;
    if status.state() == v1::RunState::Succeeded {
        eprintln!("run {} is done; there is nothing to cancel", short(&status.run_id));
        return Ok(());
    }
    eprintln!(
        "run {} is cancelled; {} of {} tasks are done and stay done",
        short(&status.run_id),
        status.committed,
        status.tasks
    );
    Ok(())
}
