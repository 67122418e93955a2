//! Queries whose SQL is the same for every database.

/// Selects attempts with the columns that name their tasks. A condition follows.
pub(super) const ATTEMPTS: &str = "SELECT a.token, t.task, t.stage, t.subject, a.attempt, a.worker, a.granted, \
     a.granted_ms, a.ended, a.ended_ms, a.outcome, a.code, a.message \
     FROM attempts a JOIN tasks t ON t.number = a.task WHERE ";

/// Condition: attempts under way.
pub(super) const OPEN: &str = "a.ended IS NULL ORDER BY a.token";

/// Condition: attempts of a task.
pub(super) const OF_TASK: &str = "t.task = $1 ORDER BY a.token";

/// Condition: attempts of a run that began or ended between two event numbers.
pub(super) const OF_RUN: &str = "(a.granted >= $1 AND a.granted < $2 OR a.ended >= $1 AND a.ended < $2) \
     AND EXISTS (SELECT 1 FROM runs r JOIN run_tasks l ON l.run = r.number WHERE r.run = $3 AND l.task = a.task) \
     ORDER BY a.token";
