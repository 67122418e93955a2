//! Why a task is not running, why it ran again, and what changed about it.

use serde_json::Value;

use super::{Entry, Id, Phase, Reject, Scheduler, Worker};
use crate::digest::Digest;
use crate::plan::{Source, TaskSpec};
use crate::task::{State, WorkerId};

/// Inputs and differences that are named one by one.
const NAMED_MAX: usize = 20;

impl Scheduler {
    /// Why a task stands where it stands, one reason a line.
    ///
    /// # Errors
    /// [`Reject::UnknownTask`].
    pub fn reasons(&self, key: Digest) -> Result<Vec<String>, Reject> {
        let id = self.ids.get(&key).ok_or(Reject::UnknownTask(key))?;
        let entry = &self.tasks[id as usize];
        let task = &entry.task;
        let mut reasons = match &task.state {
            State::Waiting { .. } => self.missing(entry),
            State::Ready if self.active_run(id).is_none() => {
                vec!["every run that it is part of is paused: let one go on with `lithogen resume`".to_owned()]
            }
            State::Ready => self.idle(id),
            State::Leased(lease) => vec![format!("attempt {} runs on {}", lease.attempt, self.name_of(&lease.worker))],
            State::Committed { artifact, .. } => vec![format!("its result is {artifact}")],
            State::Failed(failure) => vec![
                format!("{}: {}", failure.code.name(), failure.message),
                "submitting its run again gives it a new chance".to_owned(),
            ],
            State::Cancelled => vec!["every run that it is part of was called off".to_owned()],
            State::Pruned => vec!["a search dropped it".to_owned()],
        };
        if task.had.is_some() {
            reasons.push("its result was taken back, and is computed again".to_owned());
        }
        if task.failures > 0 && task.is_open() {
            let on: Vec<&str> = task.failed_on.iter().map(|worker| self.name_of(worker)).collect();
            reasons.push(format!("it failed {} times, on {}", task.failures, on.join(", ")));
        }
        if task.losses > 0 && task.is_open() {
            reasons.push(format!("{} workers vanished while running it", task.losses));
        }
        if let Some(checkpoint) = &task.checkpoint {
            reasons.push(format!("the next attempt goes on from step {}", checkpoint.step));
        }
        Ok(reasons)
    }

    /// What sets a task apart from the one of the same stage and subject before
    /// it, whose result it therefore does not have; one difference a line. Empty
    /// if there is none before it.
    ///
    /// # Errors
    /// [`Reject::UnknownTask`].
    pub fn differences(&self, key: Digest) -> Result<Vec<String>, Reject> {
        let id = self.ids.get(&key).ok_or(Reject::UnknownTask(key))?;
        let spec = &self.tasks[id as usize].task.spec;
        let like_it = |entry: &&Entry| {
            let other = &entry.task.spec;
            other.key != key && other.subject == spec.subject && other.stage.name() == spec.stage.name()
        };
        let mut lines = vec![];
        if let Some(before) = self.tasks[..id as usize].iter().rev().find(like_it) {
            self.compare(&before.task.spec, spec, &mut lines);
        }
        Ok(lines)
    }

    fn missing(&self, entry: &Entry) -> Vec<String> {
        let unmet = entry.needs.iter().map(|need| &self.tasks[*need as usize].task);
        let unmet: Vec<_> = unmet.filter(|task| !matches!(task.state, State::Committed { .. })).collect();
        let line = |task: &&crate::task::Task| {
            let state = match &task.state {
                State::Failed(failure) => format!("failed ({}: {})", failure.code.name(), failure.message),
                State::Leased(lease) => format!("runs on {}", self.name_of(&lease.worker)),
                State::Waiting { .. } => "waits itself".to_owned(),
                State::Ready => "has not been handed out yet".to_owned(),
                State::Cancelled | State::Pruned => "was called off".to_owned(),
                State::Committed { .. } => "is done".to_owned(),
            };
            format!("waits for {} ({}), which {state}", task.spec.label(), task.spec.key.short())
        };
        let mut lines: Vec<String> = unmet.iter().take(NAMED_MAX).map(line).collect();
        if unmet.len() > NAMED_MAX {
            lines.push(format!("and for {} more", unmet.len() - NAMED_MAX));
        }
        lines
    }

    /// Why no worker has a task that is ready.
    fn idle(&self, id: Id) -> Vec<String> {
        if self.workers.is_empty() {
            return vec!["no worker is there: start one with `lithogen worker`".to_owned()];
        }
        let (spec, mut busy) = (&self.tasks[id as usize].task.spec, 0);
        let mut lines = vec![];
        for worker in self.workers.values() {
            match self.obstacle(spec, worker) {
                Some(obstacle) => lines.push(format!("{}: {obstacle}", worker.name)),
                None => busy += 1,
            }
        }
        lines.truncate(NAMED_MAX);
        match busy {
            0 => lines.insert(0, "no worker that is there can run it".to_owned()),
            _ => lines.insert(0, format!("{busy} workers could run it; they are busy with what goes before it")),
        }
        lines
    }

    fn obstacle(&self, spec: &TaskSpec, worker: &Worker) -> Option<String> {
        if let Some(why) = &worker.quarantined {
            return Some(format!("is quarantined: {why}"));
        }
        if worker.draining {
            return Some("is draining".to_owned());
        }
        let fits = worker.offer.could_run(spec.stage.name(), spec.version, &spec.resources);
        fits.err().map(|unfit| unfit.to_string())
    }

    fn name_of<'a>(&'a self, worker: &'a WorkerId) -> &'a str {
        self.workers.get(worker).map_or(&worker.0, |worker| &worker.name)
    }

    /// Follows differences of inputs to the tasks where they begin.
    fn compare(&self, before: &TaskSpec, after: &TaskSpec, lines: &mut Vec<String>) {
        let label = after.label();
        if before.version != after.version {
            lines.push(format!("{label}: stage version {} -> {}", before.version, after.version));
        }
        if before.seed != after.seed {
            lines.push(format!("{label}: seed {} -> {}", before.seed.0, after.seed.0));
        }
        let of = |spec: &TaskSpec| serde_json::to_value(&spec.stage).unwrap_or_default();
        compare_values(&label, "", &of(before), &of(after), lines);
        for (name, input) in after.inputs.iter() {
            if lines.len() >= NAMED_MAX {
                return;
            }
            match (before.inputs.get(name).map(|input| input.from), input.from) {
                (None, _) => lines.push(format!("{label}: reads {name}, which it did not")),
                (Some(old), new) if old == new => {}
                (Some(Source::Task(old)), Source::Task(new)) => match (self.task(old), self.task(new)) {
                    (Ok(old), Ok(new)) if old.spec.label() == new.spec.label() => {
                        self.compare(&old.spec, &new.spec, lines);
                    }
                    _ => lines.push(format!("{label}: {name} comes from another task")),
                },
                (Some(Source::Artifact(old)), Source::Artifact(new)) => {
                    lines.push(format!("{label}: {name} has other files ({} -> {})", old.short(), new.short()));
                }
                _ => lines.push(format!("{label}: {name} comes from elsewhere")),
            }
        }
        let gone = before.inputs.iter().filter(|(name, _)| after.inputs.get(name).is_none());
        lines.extend(gone.map(|(name, _)| format!("{label}: reads {name} no longer")));
        lines.dedup();
    }

    /// What needs somebody's attention about a run, one matter a line.
    pub fn attention(&self, run: &super::Run) -> Vec<String> {
        let mut lines = vec![];
        if run.phase == Phase::Active && run.counts.ready > 0 && run.counts.leased == 0 {
            let ready = run.tasks.iter().find(|id| self.tasks[**id as usize].task.state == State::Ready);
            lines.extend(ready.map(|id| {
                let entry = &self.tasks[*id as usize];
                let first = self.idle(*id).into_iter().next().unwrap_or_default();
                format!("of {} ready tasks none runs: {} ({first})", run.counts.ready, entry.task.spec.label())
            }));
        }
        for worker in self.workers.values() {
            if let Some(why) = &worker.quarantined {
                let name = &worker.name;
                lines.push(format!(
                    "worker {name} is quarantined: {why}; mend it, then `lithogen worker readmit {name}`"
                ));
            }
        }
        lines
    }
}

fn compare_values(label: &str, path: &str, before: &Value, after: &Value, lines: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in after {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare_values(label, &path, before.get(key).unwrap_or(&Value::Null), value, lines);
            }
        }
        _ if before == after => {}
        _ => lines.push(format!("{label}: {path} {before} -> {after}")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::command::{self, CommandSpec, Commands};
    use crate::plan::Work;
    use crate::resources::{Offer, Resources};
    use crate::scheduler::{Request, Scheduler};
    use crate::stage::{Failure, FailureCode, Stage};
    use crate::task::WorkerId;

    fn submit(scheduler: &mut Scheduler, argument: &str, resources: Resources) -> [crate::digest::Digest; 2] {
        let spec = |name: &str, inputs: BTreeMap<String, String>| CommandSpec {
            name: name.to_owned(),
            argv: vec!["echo".to_owned(), if name == "make" { argument.to_owned() } else { String::new() }],
            inputs,
            resources: resources.clone(),
            ..CommandSpec::default()
        };
        let inputs = BTreeMap::from([("in".to_owned(), "task:make".to_owned())]);
        let command = vec![spec("make", BTreeMap::new()), spec("use", inputs)];
        let commands = Commands { id: String::new(), command };
        let plan = command::plan(&commands).unwrap();
        let keys = [plan.tasks[0].key, plan.tasks[1].key];
        let work = Work::Commands { commands: commands.into() };
        act(scheduler, Request::Submit { work, run: plan.digest(), tasks: plan.tasks, priority: 0 });
        keys
    }

    fn act(scheduler: &mut Scheduler, request: Request) {
        for event in scheduler.decide(0, request).unwrap() {
            scheduler.apply(&event);
        }
    }

    fn join(scheduler: &mut Scheduler, name: &str) -> WorkerId {
        let worker = WorkerId(name.to_owned());
        let stages = Stage::CATALOGUE.iter().map(|(name, version)| ((*name).to_owned(), *version)).collect();
        let offer = Offer { stages, slots: 1, ..Offer::default() };
        act(scheduler, Request::Join { worker: worker.clone(), name: name.to_owned(), offer });
        worker
    }

    #[test]
    fn each_state_has_its_reason() {
        let mut scheduler = Scheduler::default();
        let [make, then] = submit(&mut scheduler, "a", Resources::default());
        let first = |scheduler: &Scheduler, key| scheduler.reasons(key).unwrap()[0].clone();
        assert!(first(&scheduler, make).contains("no worker is there"));
        assert!(first(&scheduler, then).contains("waits for command make"));
        let worker = join(&mut scheduler, "w");
        act(&mut scheduler, Request::Acquire { worker: worker.clone(), request: 1, max: 1 });
        assert!(first(&scheduler, make).contains("attempt 1 runs on w"));
        let (_, lease) = scheduler.leases().next().unwrap();
        let failure = Failure::new(FailureCode::InvalidInput, "bad");
        let token = lease.token;
        act(&mut scheduler, Request::Fail { task: make, token, failure });
        assert_eq!(first(&scheduler, make), "invalid_input: bad");
        assert!(first(&scheduler, then).contains("failed (invalid_input: bad)"));
    }

    #[test]
    fn what_no_worker_can_run_is_said_with_the_reason() {
        let mut scheduler = Scheduler::default();
        let gpu = Resources { gpu_milli: Some(1000), ..Resources::default() };
        let [make, _] = submit(&mut scheduler, "a", gpu);
        join(&mut scheduler, "w");
        let reasons = scheduler.reasons(make).unwrap();
        assert!(reasons[0].contains("no worker that is there can run it"), "{reasons:?}");
        assert!(reasons[1].starts_with("w: has not the GPUs"), "{reasons:?}");
        let attention = scheduler.attention(scheduler.runs().next().unwrap());
        assert!(attention[0].contains("of 1 ready tasks none runs"), "{attention:?}");
    }

    #[test]
    fn differences_are_followed_to_where_they_begin() {
        let mut scheduler = Scheduler::default();
        let [_, before] = submit(&mut scheduler, "a", Resources::default());
        let [_, after] = submit(&mut scheduler, "b", Resources::default());
        assert!(scheduler.differences(before).unwrap().is_empty());
        let expected = r#"command make: argv ["echo","a"] -> ["echo","b"]"#;
        assert_eq!(scheduler.differences(after).unwrap(), [expected]);
    }
}
