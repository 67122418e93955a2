//! `lithogen cancel`.

use proto::v1;

use crate::args::Cancel;
use crate::local;
use crate::remote::short;

/// Cancels a run, or some of its tasks.
///
/// # Errors
/// If there is no such run or no coordinator.
pub async fn run(args: &Cancel) -> anyhow::Result<()> {
    let run = &args.run;
    let status = local::ask(run.remote.coordinator.as_deref(), &run.state.state, |remote| async move {
        remote.cancel(&run.run, &args.tasks).await
    })
    .await?;
    if !args.tasks.is_empty() {
        note!("run {} goes on without {} of its {} tasks", short(&status.run_id), status.pruned, status.tasks);
        return Ok(());
    }
    if status.state() == v1::RunState::Succeeded {
        note!("run {} is done; there is nothing to cancel", short(&status.run_id));
        return Ok(());
    }
    note!(
        "run {} is cancelled; {} of {} tasks are done and stay done",
        short(&status.run_id),
        status.committed,
        status.tasks
    );
    Ok(())
}
