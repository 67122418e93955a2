//! Queries whose SQL is the same for every database, and the numbers in them.

/// Selects attempts with the columns that name their tasks. A condition follows.
pub(super) const ATTEMPTS: &str = "SELECT a.token, t.task, t.stage, t.subject, a.attempt, a.worker, a.granted, \
     a.granted_ms, a.ended, a.ended_ms, a.outcome, a.code, a.message \
     FROM attempts a JOIN tasks t ON t.number = a.task WHERE ";

/// Condition: attempts under way.
pub(super) const OPEN: &str = "a.ended IS NULL ORDER BY a.token";

/// Condition: attempts of a task.
pub(super) const OF_TASK: &str = "t.task = $1 ORDER BY a.token";

/// Condition: the newest tasks of each stage of a run that their first attempt finished.
pub(super) const FINISHED: &str = "a.token IN (SELECT token FROM (SELECT b.token, \
     ROW_NUMBER() OVER (PARTITION BY s.stage ORDER BY b.token DESC) AS place FROM runs r \
     JOIN run_tasks l ON l.run = r.number JOIN tasks s ON s.number = l.task JOIN attempts b ON b.task = l.task \
     WHERE r.run = $1 AND b.outcome = 'succeeded' AND b.attempt = 1) AS finished WHERE place <= $2) \
     ORDER BY a.token DESC";

/// Condition: attempts of a run that began or ended between two event numbers.
pub(super) const OF_RUN: &str = "(a.granted >= $1 AND a.granted < $2 OR a.ended >= $1 AND a.ended < $2) \
     AND EXISTS (SELECT 1 FROM runs r JOIN run_tasks l ON l.run = r.number WHERE r.run = $3 AND l.task = a.task) \
     ORDER BY a.token";

/// Converts a stored count, which is never negative.
pub(super) fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Converts a count to its stored form; counts never exceed `i64::MAX`.
pub(super) fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
