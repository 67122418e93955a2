//! Writing rows to PostgreSQL: all rows of one kind in one statement, as each statement costs a
//! round trip.

use postgres::{Client, Error, Statement, Transaction};

use super::sql::number;
use crate::history::{Row, TaskEnd};

/// The prepared statements.
pub(super) struct Writer {
    task: Statement,
    run: Statement,
    run_tasks: Statement,
    cancelled: Statement,
    granted: Statement,
    ended: Statement,
    task_ended: Statement,
}

/// Rows that have not been written yet, by kind.
#[derive(Default)]
struct Waiting<'a> {
    tasks: Vec<&'a Row>,
    granted: Vec<&'a Row>,
    ended: Vec<&'a Row>,
    task_ended: Vec<&'a TaskEnd>,
}

impl Writer {
    /// Prepares the statements.
    pub(super) fn prepare(client: &mut Client) -> Result<Self, Error> {
        Ok(Self {
            task: client.prepare(
                "INSERT INTO tasks (task, stage, subject, state, attempts, failures, losses)
                 SELECT task, stage, subject, 'open', 0, 0, 0
                 FROM unnest($1::TEXT[], $2::TEXT[], $3::TEXT[]) WITH ORDINALITY AS n (task, stage, subject, place) ORDER BY place
                 ON CONFLICT (task) DO UPDATE SET state = 'open', code = NULL, message = NULL, failures = 0, losses = 0,
                 ended_ms = NULL, artifact = NULL",
            )?,
            run: client.prepare(
                "INSERT INTO runs (run, submitted_ms, scale) VALUES ($1, $2, $3)
                 ON CONFLICT (run) DO UPDATE SET submitted_ms = excluded.submitted_ms, cancelled_ms = NULL",
            )?,
            run_tasks: client.prepare(
                "INSERT INTO run_tasks SELECT r.number, t.number FROM runs r, tasks t
                 WHERE r.run = $1 AND t.task = ANY($2::TEXT[]) ON CONFLICT DO NOTHING",
            )?,
            cancelled: client.prepare("UPDATE runs SET cancelled_ms = $2 WHERE run = $1")?,
            granted: client.prepare(
                "INSERT INTO attempts (token, task, attempt, worker, granted, granted_ms)
                 SELECT n.token, t.number, n.attempt, n.worker, n.granted, n.granted_ms
                 FROM unnest($1::BIGINT[], $2::TEXT[], $3::BIGINT[], $4::TEXT[], $5::BIGINT[], $6::BIGINT[])
                 AS n (token, task, attempt, worker, granted, granted_ms) JOIN tasks t ON t.task = n.task",
            )?,
            ended: client.prepare(
                "UPDATE attempts a SET ended = n.ended, ended_ms = n.ended_ms, outcome = n.outcome, code = n.code,
                 message = n.message
                 FROM unnest($1::BIGINT[], $2::BIGINT[], $3::BIGINT[], $4::TEXT[], $5::TEXT[], $6::TEXT[])
                 AS n (token, ended, ended_ms, outcome, code, message) WHERE a.token = n.token",
            )?,
            task_ended: client.prepare(
                "UPDATE tasks t SET ended_ms = n.ended_ms, state = n.state, code = n.code, message = n.message,
                 artifact = n.artifact, attempts = n.attempts, failures = n.failures, losses = n.losses
                 FROM unnest($1::TEXT[], $2::BIGINT[], $3::TEXT[], $4::TEXT[], $5::TEXT[], $6::TEXT[], $7::BIGINT[],
                 $8::BIGINT[], $9::BIGINT[])
                 AS n (task, ended_ms, state, code, message, artifact, attempts, failures, losses) WHERE t.task = n.task",
            )?,
        })
    }

    /// Writes rows, grouped by kind. Groups do not extend across a submission or a
    /// cancellation; between two of these, a task ends at most once.
    pub(super) fn write(&self, transaction: &mut Transaction<'_>, rows: &[Row]) -> Result<(), Error> {
        let mut waiting = Waiting::default();
        for row in rows {
            match row {
                Row::Task { .. } => {
                    if waiting.has_attempts() {
                        self.flush(transaction, &mut waiting)?;
                    }
                    waiting.tasks.push(row);
                }
                Row::Run { run, at_ms, title, tasks } => {
                    self.flush(transaction, &mut waiting)?;
                    let (run, tasks) = (run.to_string(), tasks.iter().map(ToString::to_string).collect::<Vec<_>>());
                    transaction.execute(&self.run, &[&run, at_ms, title])?;
                    transaction.execute(&self.run_tasks, &[&run, &tasks])?;
                }
                Row::RunTasks { run, tasks } => {
                    self.flush(transaction, &mut waiting)?;
                    let tasks = tasks.iter().map(ToString::to_string).collect::<Vec<_>>();
                    transaction.execute(&self.run_tasks, &[&run.to_string(), &tasks])?;
                }
                Row::RunCancelled { run, at_ms } => {
                    self.flush(transaction, &mut waiting)?;
                    transaction.execute(&self.cancelled, &[&run.to_string(), at_ms])?;
                }
                Row::Granted { .. } => waiting.granted.push(row),
                Row::Ended { .. } => waiting.ended.push(row),
                Row::TaskEnded(end) => waiting.task_ended.push(end),
            }
        }
        self.flush(transaction, &mut waiting)
    }

    fn flush(&self, transaction: &mut Transaction<'_>, waiting: &mut Waiting<'_>) -> Result<(), Error> {
        let Waiting { tasks, granted, ended, task_ended } = std::mem::take(waiting);
        if !tasks.is_empty() {
            let (mut keys, mut stages, mut subjects) = (vec![], vec![], vec![]);
            for row in tasks {
                let Row::Task { task, stage, subject } = row else { continue };
                keys.push(task.to_string());
                stages.push(stage);
                subjects.push(subject);
            }
            transaction.execute(&self.task, &[&keys, &stages, &subjects])?;
        }
        if !granted.is_empty() {
            let (mut tokens, mut tasks, mut attempts) = (vec![], vec![], vec![]);
            let (mut workers, mut numbers, mut times) = (vec![], vec![], vec![]);
            for row in granted {
                let Row::Granted { token, task, attempt, worker, number: at, at_ms } = row else { continue };
                tokens.push(number(token.0));
                tasks.push(task.to_string());
                attempts.push(i64::from(*attempt));
                workers.push(worker);
                numbers.push(number(*at));
                times.push(*at_ms);
            }
            transaction.execute(&self.granted, &[&tokens, &tasks, &attempts, &workers, &numbers, &times])?;
        }
        if !ended.is_empty() {
            let (mut tokens, mut numbers, mut times) = (vec![], vec![], vec![]);
            let (mut outcomes, mut codes, mut messages) = (vec![], vec![], vec![]);
            for row in ended {
                let Row::Ended { token, end } = row else { continue };
                tokens.push(number(token.0));
                numbers.push(number(end.number));
                times.push(end.at_ms);
                outcomes.push(&end.outcome);
                codes.push(&end.code);
                messages.push(&end.message);
            }
            transaction.execute(&self.ended, &[&tokens, &numbers, &times, &outcomes, &codes, &messages])?;
        }
        if !task_ended.is_empty() {
            let (mut keys, mut times, mut states, mut codes) = (vec![], vec![], vec![], vec![]);
            let (mut messages, mut artifacts) = (vec![], vec![]);
            let (mut tries, mut failed, mut lost) = (vec![], vec![], vec![]);
            for end in task_ended {
                let TaskEnd { task, at_ms, state, code, message, artifact, attempts, failures, losses } = end;
                keys.push(task.to_string());
                times.push(*at_ms);
                states.push(*state);
                codes.push(*code);
                messages.push(message);
                artifacts.push(artifact.map(|artifact| artifact.to_string()));
                tries.push(i64::from(*attempts));
                failed.push(i64::from(*failures));
                lost.push(i64::from(*losses));
            }
            transaction.execute(
                &self.task_ended,
                &[&keys, &times, &states, &codes, &messages, &artifacts, &tries, &failed, &lost],
            )?;
        }
        Ok(())
    }
}

impl Waiting<'_> {
    fn has_attempts(&self) -> bool {
        !(self.granted.is_empty() && self.ended.is_empty() && self.task_ended.is_empty())
    }
}
