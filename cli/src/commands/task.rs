//! `lithogen task list`, `why`, `logs`, `recompute` and `rerun`.

use std::io::IsTerminal;

use proto::channel::blob_call;
use proto::v1;
use serde_json::json;

use crate::args::{RunOf, TaskCommand, TaskOf};
use crate::local;
use crate::out;
use crate::remote::short;

/// Lists tasks, or looks at one.
///
/// # Errors
/// If there is no such run or task, or no coordinator.
pub async fn run(command: &TaskCommand) -> anyhow::Result<()> {
    match command {
        TaskCommand::List { run, only, json } => list(run, only, *json).await,
        TaskCommand::Why { task, json } => why(task, *json).await,
        #[cfg(feature = "worker")]
        TaskCommand::Rerun { task, out } => super::rerun::run(task, out).await,
        TaskCommand::Recompute { tasks, lost, yes, remote, state, json } => {
            let again = local::ask(remote.coordinator.as_deref(), &state.state, |remote| async move {
                remote.recompute(tasks, *lost, !yes).await
            });
            recomputed(&again.await?, *yes, *json)
        }
        TaskCommand::Logs { task, attempt, follow } => logs(task, *attempt, *follow).await,
    }
}

async fn list(run: &RunOf, only: &str, as_json: bool) -> anyhow::Result<()> {
    let tasks = local::ask(run.remote.coordinator.as_deref(), &run.state.state, |remote| async move {
        remote.tasks_of(&run.run, only).await
    })
    .await?;
    if as_json {
        let described = |task: &v1::TaskStatus| {
            json!({ "task": task.task_key, "label": task.label, "state": task.state, "attempts": task.attempts,
                "worker": task.worker, "artifact": task.artifact })
        };
        let tasks: Vec<_> = tasks.iter().map(described).collect();
        out::line(serde_json::to_string_pretty(&json!({ "schema_version": 1, "tasks": tasks }))?);
        return Ok(());
    }
    out::line(format_args!("{:<10} {:<10} {:>8} {:<14} task", "id", "state", "attempts", "worker"));
    for task in &tasks {
        let v1::TaskStatus { label, state, attempts, worker, .. } = task;
        out::line(format_args!("{:<10} {state:<10} {attempts:>8} {worker:<14} {label}", short(&task.task_key)));
    }
    Ok(())
}

async fn why(task: &TaskOf, as_json: bool) -> anyhow::Result<()> {
    let answer = local::ask(task.remote.coordinator.as_deref(), &task.state.state, |remote| async move {
        remote.task(&task.task).await
    })
    .await?;
    if as_json {
        let changes: Vec<_> = answer
            .changes
            .iter()
            .map(|change| {
                json!({ "at_ms": change.at_ms, "attempt": change.attempt, "state": change.state,
                    "worker": change.worker, "seconds": change.seconds, "message": change.message })
            })
            .collect();
        let document = json!({ "schema_version": 1, "task": answer.task_key, "label": answer.label,
            "state": answer.state, "reasons": answer.reasons, "differences": answer.differences, "changes": changes });
        out::line(serde_json::to_string_pretty(&document)?);
        return Ok(());
    }
    out::line(format_args!("{} {} is {}", short(&answer.task_key), answer.label, answer.state));
    for reason in &answer.reasons {
        out::line(format_args!("  {reason}"));
    }
    if !answer.changes.is_empty() {
        out::line("attempts");
    }
    for change in answer.changes.iter().filter(|change| !["running", "leased"].contains(&change.state.as_str())) {
        let message = if change.message.is_empty() { String::new() } else { format!(": {}", change.message) };
        out::line(format_args!(
            "  {} {} on {} after {:.1} s{message}",
            change.attempt, change.state, change.worker, change.seconds
        ));
    }
    if !answer.differences.is_empty() {
        out::line("what sets it apart from the task like it before it");
    }
    for difference in &answer.differences {
        out::line(format_args!("  {difference}"));
    }
    Ok(())
}

fn recomputed(again: &v1::RecomputeTasksResponse, done: bool, as_json: bool) -> anyhow::Result<()> {
    let v1::RecomputeTasksResponse { tasks, made_from, made_from_count } = again;
    if as_json {
        let task = |task: &v1::RecomputedTask| json!({ "task": task.task_key, "label": task.label, "why": task.why });
        let tasks: Vec<_> = tasks.iter().map(task).collect();
        let document = json!({ "schema_version": 1, "done": done, "tasks": tasks, "made_from": made_from,
            "made_from_count": made_from_count });
        out::line(serde_json::to_string_pretty(&document)?);
        return Ok(());
    }
    if tasks.is_empty() {
        out::line("no result is lost");
        return Ok(());
    }
    out::line(if done { "will be computed again" } else { "would be computed again" });
    for v1::RecomputedTask { task_key, label, why } in tasks {
        out::line(format_args!("  {} {label}: {why}", short(task_key)));
    }
    if *made_from_count > 0 {
        let more = made_from_count - made_from.len() as u64;
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        out::line(format_args!(
            "{made_from_count} results were made from these and stay if they come out the same, as they do on the CPU; \
             otherwise they are computed again: {}{more}",
            made_from.join(", ")
        ));
    }
    if !done {
        note!("nothing has changed; the same with --yes does it");
    }
    Ok(())
}

async fn logs(task: &TaskOf, attempt: u32, follow: bool) -> anyhow::Result<()> {
    local::ask(task.remote.coordinator.as_deref(), &task.state.state, |remote| async move {
        let request = v1::ReadLogRequest { task_key: task.task.clone(), attempt, offset: 0, follow };
        let answer = remote.tasks().read_log(blob_call(request)).await;
        let mut pieces = answer.map_err(|status| remote.explain(&status))?.into_inner();
        // For a terminal, which it must not steer; otherwise as it was said.
        let mut shown = std::io::stdout().is_terminal().then(out::Log::default);
        while let Some(piece) = pieces.message().await.map_err(|status| remote.explain(&status))? {
            match &mut shown {
                Some(log) => out::raw(log.add(&piece.bytes).as_bytes()),
                None => out::raw(&piece.bytes),
            }
        }
        shown.into_iter().for_each(|log| out::raw(log.end().as_bytes()));
        Ok(())
    })
    .await
}
