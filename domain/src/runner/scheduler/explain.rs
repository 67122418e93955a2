//! Explains why a task is not running, why it ran again, and what changed about it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use serde_json::Value;

use super::{Counts, Entry, Id, Phase, Reject, Scheduler, Worker};
use crate::id::TaskKey;
use crate::runner::task::{State, Task, WorkerId};
use crate::study::plan::{Input, Source, TaskSpec};

/// Most inputs, workers and differences that are named one by one.
const NAMED_MAX: usize = 20;

/// Most tasks that are searched for one with the same stage and subject.
const LOOKED_MAX: usize = 16;

/// Most pairs of tasks that are compared to explain a difference.
const PAIRS_MAX: usize = 1000;

/// Most inputs that are examined to explain a difference.
const INPUTS_MAX: usize = 100_000;

/// Most characters of one difference.
const DIFFERENCE_MAX: usize = 500;

impl Scheduler {
    /// The reasons for a task's state, one per line.
    ///
    /// # Errors
    /// [`Reject::UnknownTask`].
    pub fn reasons(&self, key: TaskKey) -> Result<Vec<String>, Reject> {
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
            State::Cancelled => vec!["every run that it is part of was cancelled".to_owned()],
            State::Pruned => vec!["pruned: its run goes on without it".to_owned()],
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

    /// Pairs a task with the earlier task of the same stage and subject, whose result it does
    /// not have, and likewise the tasks behind both as far as these differ;
    /// [`Comparison::lines`] states the differences.
    ///
    /// # Errors
    /// [`Reject::UnknownTask`].
    pub fn comparison(&self, key: TaskKey) -> Result<Comparison, Reject> {
        let id = self.ids.get(&key).ok_or(Reject::UnknownTask(key))?;
        let (spec, mut comparison) = (&self.tasks[id as usize].task.spec, Comparison::default());
        let is_like_it = |other: &&Arc<TaskSpec>| is_of_the_same(other, spec);
        let before = self.ids.like(spec, id).take(LOOKED_MAX);
        let Some(before) = before.map(|id| &self.tasks[id as usize].task.spec).find(is_like_it) else {
            return Ok(comparison);
        };
        let (mut waiting, mut looked) = (VecDeque::from([(before, spec)]), 0);
        while let Some((before, after)) = waiting.pop_front() {
            comparison.pairs.push((before.clone(), after.clone()));
            for (name, input) in after.inputs.iter().take(INPUTS_MAX - looked) {
                looked += 1;
                let Some((old, new)) = both_made(before.inputs.get(name), input) else { continue };
                let (Ok(Task { spec: before, .. }), Ok(Task { spec: after, .. })) = (self.task(old), self.task(new))
                else {
                    continue;
                };
                let has_room = comparison.followed.len() < PAIRS_MAX;
                if has_room && is_of_the_same(before, after) && comparison.followed.insert((old, new)) {
                    waiting.push_back((before, after));
                }
            }
        }
        Ok(comparison)
    }

    fn missing(&self, entry: &Entry) -> Vec<String> {
        let needs = entry.needs.iter().map(|need| &self.tasks[*need as usize].task);
        let unmet = needs.filter(|task| !matches!(task.state, State::Committed { .. }));
        let line = |task: &Task| {
            let state = match &task.state {
                State::Failed(failure) => format!("failed ({}: {})", failure.code.name(), failure.message),
                State::Leased(lease) => format!("runs on {}", self.name_of(&lease.worker)),
                State::Waiting { .. } => "is itself waiting".to_owned(),
                State::Ready => "has not been handed out yet".to_owned(),
                State::Cancelled => "was cancelled".to_owned(),
                State::Pruned => "was pruned".to_owned(),
                State::Committed { .. } => "is done".to_owned(),
            };
            format!("waits for {} ({}), which {state}", task.spec.label(), task.spec.key.short())
        };
        let mut lines: Vec<String> = unmet.take(NAMED_MAX).map(line).collect();
        if let State::Waiting { unmet } = entry.task.state
            && unmet > NAMED_MAX
        {
            lines.push(format!("and for {} more", unmet - NAMED_MAX));
        }
        lines
    }

    /// Why no worker has a ready task.
    fn idle(&self, id: Id) -> Vec<String> {
        if self.workers.is_empty() {
            return vec!["no worker is there: start one with `lithogen worker`".to_owned()];
        }
        let Entry { task, class, .. } = &self.tasks[id as usize];
        let could = |worker: &&Worker| worker.takes_work() && worker.could_run[*class as usize];
        let first = match self.workers.values().filter(could).count() {
            0 => "no worker that is there can run it".to_owned(),
            busy => format!("{busy} workers could run it; they are busy with what goes before it"),
        };
        let others = self.workers.values().filter(|worker| !could(worker)).take(NAMED_MAX);
        let obstacle = |worker: &Worker| Some(format!("{}: {}", worker.name, self.obstacle(&task.spec, worker)?));
        [first].into_iter().chain(others.filter_map(obstacle)).collect()
    }

    fn obstacle(&self, spec: &TaskSpec, worker: &Worker) -> Option<String> {
        if let Some(why) = &worker.quarantined {
            return Some(format!("is quarantined: {why}"));
        }
        if worker.draining {
            return Some("is draining".to_owned());
        }
        let fits = worker.offer.could_run(spec.stage.kind().name(), spec.version, &spec.resources);
        fits.err().map(|unfit| unfit.to_string())
    }

    fn name_of<'a>(&'a self, worker: &'a WorkerId) -> &'a str {
        self.workers.get(worker).map_or(&worker.0, |worker| &worker.name)
    }

    /// What needs somebody's attention about a run, one matter per line.
    pub fn attention(&self, run: &super::Run) -> Vec<String> {
        let mut lines = vec![];
        if run.phase != Phase::Cancelled && run.counts.missing > 0 {
            let Counts { missing, total, .. } = run.counts;
            lines.push(format!(
                "{missing} of {total} tasks are still to come; if its submission was cut off, hand it in again or cancel it"
            ));
        }
        if run.phase == Phase::Active && run.counts.ready > 0 && run.counts.leased == 0 {
            // What another run is handed out for is told there.
            let ready = self.run_ids.get(&run.id).and_then(|run| self.queues.first_of(*run));
            lines.extend(ready.map(|id| {
                let entry = &self.tasks[id as usize];
                let first = self.idle(id).into_iter().next().unwrap_or_default();
                format!("of {} ready tasks none runs: {} ({first})", run.counts.ready, entry.task.spec.label())
            }));
        }
        let quarantined = self.workers.values().filter_map(|worker| Some((&worker.name, worker.quarantined.as_ref()?)));
        lines.extend(quarantined.take(NAMED_MAX).map(|(name, why)| {
            format!("worker {name} is quarantined: {why}; mend it, then `lithogen worker readmit {name}`")
        }));
        lines
    }
}

fn is_of_the_same(one: &TaskSpec, other: &TaskSpec) -> bool {
    one.subject == other.subject && one.stage.kind() == other.stage.kind()
}

/// The keys of the tasks that made an input before and now, if these are two.
fn both_made(before: Option<&Input>, after: &Input) -> Option<(TaskKey, TaskKey)> {
    match (before?.from, after.from) {
        (Source::Task(old), Source::Task(new)) if old != new => Some((old, new)),
        _ => None,
    }
}

/// Pairs of tasks to be compared, taken from the scheduler's state.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Pairs of an earlier and a later task, nearest first.
    pairs: Vec<(Arc<TaskSpec>, Arc<TaskSpec>)>,
    /// The keys of all pairs but the first.
    followed: BTreeSet<(TaskKey, TaskKey)>,
}

impl Comparison {
    /// What distinguishes a task from the earlier one, stated for the tasks where the
    /// difference begins; one difference per line, the first twenty or a few more. Empty if
    /// there is no earlier task.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![];
        for (before, after) in &self.pairs {
            if lines.len() >= NAMED_MAX {
                break;
            }
            self.compare(before, after, &mut lines);
        }
        lines.dedup();
        lines
    }

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
        let told = |(name, input): (&str, &Input)| {
            let known = before.inputs.get(name);
            let both = both_made(known, input);
            let problem = match (known.map(|known| known.from), input.from) {
                (None, _) => format!("reads {name}, which it did not"),
                (Some(old), new) if old == new => return None,
                _ if both.is_some_and(|both| self.followed.contains(&both)) => return None,
                (Some(Source::Task(_)), Source::Task(_)) => format!("{name} comes from another task"),
                (Some(Source::Artifact(old)), Source::Artifact(new)) => {
                    format!("{name} has other files ({} -> {})", old.short(), new.short())
                }
                _ => format!("{name} comes from elsewhere"),
            };
            Some(format!("{label}: {problem}"))
        };
        lines.extend(after.inputs.iter().filter_map(told).take(NAMED_MAX));
        let gone = before.inputs.iter().filter(|(name, _)| after.inputs.get(name).is_none());
        lines.extend(gone.take(NAMED_MAX).map(|(name, _)| format!("{label}: reads {name} no longer")));
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
        _ if lines.len() >= NAMED_MAX => {}
        _ => {
            let line = format!("{label}: {path} {before} -> {after}");
            lines.push(line.chars().take(DIFFERENCE_MAX).collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::id::TaskKey;
    use crate::resources::{Offer, Resources};
    use crate::runner::command::{self, CommandSpec, Commands};
    use crate::runner::scheduler::{Request, Scheduler};
    use crate::runner::task::WorkerId;
    use crate::runner::work::Work;
    use crate::study::stage::{Failure, FailureCode, StageKind};

    fn submit(scheduler: &mut Scheduler, argument: &str, resources: Resources) -> [TaskKey; 2] {
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
        Request::submission(work, plan, 0, None).for_each(|part| act(scheduler, part));
        keys
    }

    fn act(scheduler: &mut Scheduler, request: Request) {
        for event in scheduler.decide(0, request).unwrap() {
            scheduler.apply(&event);
        }
    }

    fn join(scheduler: &mut Scheduler, name: &str) -> WorkerId {
        let worker = WorkerId(name.to_owned());
        let stages = StageKind::ALL.iter().map(|kind| kind.offered()).collect();
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
        act(&mut scheduler, Request::Acquire { worker: worker.clone(), call: 1, max: 1 });
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
        assert!(reasons[1].starts_with("w: lacks GPUs: needs "), "{reasons:?}");
        let attention = scheduler.attention(scheduler.runs().next().unwrap());
        assert!(attention[0].contains("of 1 ready tasks none runs"), "{attention:?}");
    }

    #[test]
    fn differences_are_followed_to_where_they_begin() {
        let mut scheduler = Scheduler::default();
        let [_, before] = submit(&mut scheduler, "a", Resources::default());
        let [_, after] = submit(&mut scheduler, "b", Resources::default());
        assert!(scheduler.comparison(before).unwrap().lines().is_empty());
        let expected = r#"command make: argv ["echo","a"] -> ["echo","b"]"#;
        assert_eq!(scheduler.comparison(after).unwrap().lines(), [expected]);
    }

    /// Layers of two tasks, each of which reads both tasks of the layer before: the number of
    /// paths doubles with each layer.
    #[test]
    fn differences_behind_many_ways_and_long_chains_are_followed_once() {
        let submit = |scheduler: &mut Scheduler, argument: &str, layers: usize| {
            let mut command = vec![];
            for layer in 0..layers {
                for side in ["a", "b"] {
                    let mut spec = CommandSpec { name: format!("{side}{layer}"), ..CommandSpec::default() };
                    spec.argv = vec![if layer == 0 { argument } else { "same" }.to_owned(), spec.name.clone()];
                    if layer > 0 {
                        let input = |side: &str| (side.to_owned(), format!("task:{side}{}", layer - 1));
                        spec.inputs = BTreeMap::from([input("a"), input("b")]);
                    }
                    command.push(spec);
                }
            }
            let commands = Commands { id: String::new(), command };
            let plan = command::plan(&commands).unwrap();
            let last = plan.tasks.last().unwrap().key;
            let work = Work::Commands { commands: commands.into() };
            Request::submission(work, plan, 0, None).for_each(|part| act(scheduler, part));
            last
        };
        let mut scheduler = Scheduler::default();
        submit(&mut scheduler, "one", 200);
        let last = submit(&mut scheduler, "two", 200);
        let lines = scheduler.comparison(last).unwrap().lines();
        assert_eq!(
            lines,
            [r#"command a0: argv ["one","a0"] -> ["two","a0"]"#, r#"command b0: argv ["one","b0"] -> ["two","b0"]"#]
        );
        submit(&mut scheduler, "one", 2000);
        let last = submit(&mut scheduler, "two", 2000);
        let comparison = scheduler.comparison(last).unwrap();
        assert_eq!(comparison.pairs.len(), super::PAIRS_MAX + 1);
        let lines = comparison.lines();
        assert_eq!(lines.len(), 4, "where it was not followed any further: {lines:?}");
        assert!(lines[0].ends_with(": a comes from another task"), "{lines:?}");
    }
}
