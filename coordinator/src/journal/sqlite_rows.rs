//! How the rows of a batch are written to SQLite.

use rusqlite::{ToSql, Transaction, params};

use crate::history::{End, Row, TaskEnd};

/// The SQL that adds a task to a run.
const RUN_TASK: &str = "INSERT INTO run_tasks SELECT r.number, t.number FROM runs r, tasks t
     WHERE r.run = ?1 AND t.task = ?2 ON CONFLICT DO NOTHING";

/// Writes one row in the given transaction.
pub(super) fn write(transaction: &Transaction<'_>, row: &Row) -> rusqlite::Result<()> {
    let execute = |statement, params: &[&dyn ToSql]| transaction.prepare_cached(statement)?.execute(params);
    match row {
        Row::Task { task, stage, subject } => execute(
            "INSERT INTO tasks (task, stage, subject, state, attempts, failures, losses)
             VALUES (?1, ?2, ?3, 'open', 0, 0, 0)
             ON CONFLICT (task) DO UPDATE SET state = 'open', code = NULL, message = NULL, failures = 0, losses = 0,
             ended_ms = NULL, artifact = NULL",
            params![task.to_string(), stage, subject],
        )?,
        Row::Run { run, at_ms, title, tasks } => {
            let run = run.to_string();
            execute(
                "INSERT INTO runs (run, submitted_ms, scale) VALUES (?1, ?2, ?3)
                 ON CONFLICT (run) DO UPDATE SET submitted_ms = excluded.submitted_ms, cancelled_ms = NULL",
                params![run, at_ms, title],
            )?;
            for task in tasks {
                execute(RUN_TASK, params![run, task.to_string()])?;
            }
            1
        }
        Row::RunTasks { run, tasks } => {
            for task in tasks {
                execute(RUN_TASK, params![run.to_string(), task.to_string()])?;
            }
            1
        }
        Row::RunCancelled { run, at_ms } => {
            execute("UPDATE runs SET cancelled_ms = ?2 WHERE run = ?1", params![run.to_string(), at_ms])?
        }
        Row::Granted { token, task, attempt, worker, number, at_ms } => execute(
            "INSERT INTO attempts (token, task, attempt, worker, granted, granted_ms)
             SELECT ?1, number, ?3, ?4, ?5, ?6 FROM tasks WHERE task = ?2",
            params![token.0, task.to_string(), attempt, worker, number, at_ms],
        )?,
        Row::Ended { token, end: End { number, at_ms, outcome, code, message } } => execute(
            "UPDATE attempts SET ended = ?2, ended_ms = ?3, outcome = ?4, code = ?5, message = ?6 WHERE token = ?1",
            params![token.0, number, at_ms, outcome, code, message],
        )?,
        Row::TaskEnded(TaskEnd { task, at_ms, state, code, message, artifact, attempts, failures, losses }) => execute(
            "UPDATE tasks SET ended_ms = ?2, state = ?3, code = ?4, message = ?5, artifact = ?6, attempts = ?7,
             failures = ?8, losses = ?9 WHERE task = ?1",
            params![
                task.to_string(),
                at_ms,
                state,
                code,
                message,
                artifact.map(|artifact| artifact.to_string()),
                attempts,
                failures,
                losses
            ],
        )?,
    };
    Ok(())
}
