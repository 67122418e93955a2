//! Views, history and what workers are told, as messages of the wire.

use std::collections::BTreeMap;

use domain::id::ArtifactId;
use domain::runner::registry::IdentityId;
use domain::runner::scheduler::Counts;
use domain::study::stage::{Failure, Progress, StageKind};
use domain::text::cut;
use proto::v1;

use crate::history::{Attempt, Change, changes};
use crate::sessions::Message;
use crate::views::{AttemptView, Explanation, FailureView, RunState, RunView, TaskPage, TaskView, WorkerView};

/// Most bytes of a reason or a difference.
const LINE_MAX: usize = 2 * Failure::MESSAGE_MAX;

/// The name of an artifact as text; empty if there is none.
fn or_empty(artifact: Option<ArtifactId>) -> String {
    artifact.map_or_else(String::new, |artifact| artifact.to_string())
}

/// Cuts lines that may quote other people's texts of any length.
fn bounded(lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| cut(line, LINE_MAX)).collect()
}

impl From<RunState> for v1::RunState {
    fn from(state: RunState) -> Self {
        match state {
            RunState::Running => Self::Running,
            RunState::Succeeded => Self::Succeeded,
            RunState::Failed => Self::Failed,
            RunState::Cancelled => Self::Cancelled,
            RunState::Paused => Self::Paused,
        }
    }
}

impl From<RunView> for v1::RunStatus {
    fn from(run: RunView) -> Self {
        Self {
            run_id: run.id.to_string(),
            state: v1::RunState::from(run.state).into(),
            title: run.title,
            tasks: run.counts.total as u32,
            cached: run.cached as u32,
            committed: run.counts.committed as u32,
            failed: run.counts.failed as u32,
            running: run.counts.leased as u32,
            stages: stages(run.stages),
            attempts: run.attempts.into_iter().map(v1::RunningAttempt::from).collect(),
            failures: run.failures.into_iter().map(v1::TaskFailure::from).collect(),
            results_artifact: or_empty(run.results),
            report_artifact: or_empty(run.report),
            workers: run.workers,
            priority: run.priority,
            submitted_by: run.by.as_ref().map_or_else(String::new, IdentityId::to_string),
            pruned: run.counts.pruned as u32,
            attention: run.attention,
            differences: run.differences,
        }
    }
}

fn stages(stages: BTreeMap<StageKind, Counts>) -> Vec<v1::StageStatus> {
    let stage = |(kind, counts): (StageKind, Counts)| v1::StageStatus {
        stage: kind.name().to_owned(),
        tasks: counts.total as u32,
        committed: counts.committed as u32,
        running: counts.leased as u32,
        failed: counts.failed as u32,
    };
    stages.into_iter().map(stage).collect()
}

impl From<AttemptView> for v1::RunningAttempt {
    fn from(attempt: AttemptView) -> Self {
        let Progress { done, total, note, values } = attempt.progress.unwrap_or_default();
        Self {
            task_key: attempt.spec.key.to_string(),
            label: attempt.spec.label(),
            worker: attempt.worker,
            attempt: attempt.attempt,
            done,
            total,
            note,
            values: values.into(),
        }
    }
}

impl From<FailureView> for v1::TaskFailure {
    fn from(failed: FailureView) -> Self {
        Self {
            task_key: failed.spec.key.to_string(),
            label: failed.spec.label(),
            code: failed.failure.code.name().to_owned(),
            message: failed.failure.message,
            attempts: failed.attempts,
        }
    }
}

impl From<TaskView> for v1::TaskStatus {
    fn from(task: TaskView) -> Self {
        Self {
            task_key: task.spec.key.to_string(),
            label: task.spec.label(),
            state: task.state.to_owned(),
            attempts: task.attempts,
            worker: task.worker.unwrap_or_default(),
            artifact: or_empty(task.artifact),
        }
    }
}

impl From<TaskPage> for v1::ListTasksResponse {
    fn from(page: TaskPage) -> Self {
        Self {
            tasks: page.tasks.into_iter().map(v1::TaskStatus::from).collect(),
            next: page.next.map_or(0, |next| next as u64),
        }
    }
}

/// The explanation of a task, with its attempts.
pub(super) fn explained(explanation: &Explanation, attempts: &[Attempt]) -> v1::ExplainTaskResponse {
    let Explanation { task, reasons, comparison } = explanation;
    v1::ExplainTaskResponse {
        task_key: task.spec.key.to_string(),
        label: task.spec.label(),
        state: task.state.to_owned(),
        reasons: bounded(reasons),
        differences: bounded(&comparison.lines()),
        changes: changes(attempts, 0, u64::MAX).into_iter().map(v1::TaskChange::from).collect(),
        // A spec that came from JSON goes back to it.
        spec_json: serde_json::to_string(&task.spec).unwrap_or_default(),
        artifact: or_empty(task.artifact),
    }
}

impl From<WorkerView> for v1::Worker {
    fn from(worker: WorkerView) -> Self {
        Self {
            id: worker.id.to_string(),
            name: worker.name,
            connected: worker.is_connected,
            slots: worker.slots,
            running: worker.attempts.into_iter().map(v1::RunningAttempt::from).collect(),
            gpus: worker.gpus.into_iter().map(v1::Gpu::from).collect(),
            memory_mib: worker.memory_mib,
            labels: worker.labels.into_iter().collect(),
            draining: worker.is_draining,
            quarantined: worker.quarantined.unwrap_or_default(),
            silent_ms: u64::try_from(worker.silence.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl From<Change> for v1::TaskChange {
    fn from(change: Change) -> Self {
        Self {
            number: change.number,
            at_ms: change.at_ms,
            task_key: change.task.to_string(),
            label: change.label,
            state: change.state,
            worker: change.worker,
            attempt: change.attempt,
            seconds: change.seconds,
            message: change.message,
        }
    }
}

impl From<Message> for v1::SessionResponse {
    fn from(message: Message) -> Self {
        use v1::session_response::Message as Told;
        let message = match message {
            Message::Stop { task, token } => {
                Told::StopAttempt(v1::StopAttempt { task_key: task.to_string(), token: token.0 })
            }
            Message::Preempt { task, token } => {
                Told::PreemptAttempt(v1::PreemptAttempt { task_key: task.to_string(), token: token.0 })
            }
            Message::Drain => Told::Drain(v1::Drain {}),
        };
        Self { message: Some(message) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domain::digest::Digest;
    use domain::id::RunId;
    use domain::seed::Seed;
    use domain::study::plan::TaskSpec;
    use domain::study::stage::{FailureCode, Stage};

    use super::*;

    fn spec() -> Arc<TaskSpec> {
        Arc::new(TaskSpec::new("all".to_owned(), Stage::Report, BTreeMap::new(), Seed(1)))
    }

    #[test]
    fn a_run_is_told_with_its_attempts_and_failures() {
        let counts = Counts { total: 9, committed: 4, leased: 3, failed: 2, pruned: 1, ..Counts::default() };
        let progress =
            Progress { done: 1, total: 2, note: "half".to_owned(), values: [("loss", 0.5)].into_iter().collect() };
        let attempt = AttemptView { spec: spec(), worker: "hand".to_owned(), attempt: 5, progress: Some(progress) };
        let failure = Failure::new(FailureCode::InvalidInput, "no picture");
        let told = v1::RunStatus::from(RunView {
            id: RunId(Digest::of(b"run")),
            state: RunState::Paused,
            title: "tiny".to_owned(),
            priority: -1,
            by: Some(IdentityId("somebody-1".to_owned())),
            cached: 6,
            counts,
            stages: BTreeMap::from([(StageKind::Report, counts)]),
            attempts: vec![attempt],
            failures: vec![FailureView { spec: spec(), failure, attempts: 7 }],
            results: Some(ArtifactId(Digest::of(b"results"))),
            report: None,
            workers: 8,
            attention: vec!["look".to_owned()],
            differences: vec!["seed=2".to_owned()],
        });
        let (task_key, label) = (spec().key.to_string(), "report all".to_owned());
        let attempt = v1::RunningAttempt {
            task_key: task_key.clone(),
            label: label.clone(),
            worker: "hand".to_owned(),
            attempt: 5,
            done: 1,
            total: 2,
            note: "half".to_owned(),
            values: BTreeMap::from([("loss".to_owned(), 0.5)]),
        };
        let (code, message) = ("invalid_input".to_owned(), "no picture".to_owned());
        let failure = v1::TaskFailure { task_key, label, code, message, attempts: 7 };
        let stage = v1::StageStatus { stage: "report".to_owned(), tasks: 9, committed: 4, running: 3, failed: 2 };
        let expected = v1::RunStatus {
            run_id: RunId(Digest::of(b"run")).to_string(),
            state: v1::RunState::Paused.into(),
            title: "tiny".to_owned(),
            tasks: 9,
            cached: 6,
            committed: 4,
            failed: 2,
            running: 3,
            stages: vec![stage],
            attempts: vec![attempt],
            failures: vec![failure],
            results_artifact: Digest::of(b"results").to_string(),
            report_artifact: String::new(),
            workers: 8,
            priority: -1,
            pruned: 1,
            attention: vec!["look".to_owned()],
            differences: vec!["seed=2".to_owned()],
            submitted_by: "somebody-1".to_owned(),
        };
        assert_eq!(told, expected);
    }

    #[test]
    fn the_last_page_has_no_next_one() {
        let told = |next| v1::ListTasksResponse::from(TaskPage { tasks: vec![], next }).next;
        assert_eq!((told(Some(4096)), told(None)), (4096, 0));
    }
}
