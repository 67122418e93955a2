//! How long a plan takes, by how long tasks took.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Plan, cost};
use crate::id::TaskKey;
use crate::study::stage::StageKind;

/// Floating-point operations per second that are assumed of a slot; small networks reach that on
/// one core.
const ASSUMED_FLOPS: f64 = 8e9;

/// Seconds that are assumed of each task beyond its arithmetic: starting a process, moving its
/// files.
pub const TASK_SECONDS: f64 = 0.1;

/// The stages whose time is that of a network's arithmetic, at which all of them are about as
/// fast.
const NETWORKS: [StageKind; 6] = [
    StageKind::SinddmTrain,
    StageKind::SinddmSample,
    StageKind::DdpmTrain,
    StageKind::DdpmSample,
    StageKind::Swin2srTrain,
    StageKind::ClassifyTrain,
];

/// The rate where nothing was measured. Large networks compute twenty times as fast as small
/// ones on processors with wide instructions.
const ASSUMED: Rate = Rate { typical: 1.0, low: 0.05, high: 2.0, largest: f64::INFINITY };

/// Fewest tasks that say by themselves how far tasks are apart.
const FEW: usize = 5;

/// How far the ends of the interval are moved out where fewer than [`FEW`] tasks were measured.
const FEW_FACTOR: f64 = 1.5;

/// A task with that many times the arithmetic of the largest that was measured is unlike it.
const FAR: f64 = 10.0;

/// How far they are moved out for a task more than [`FAR`] times as large as all that were measured.
const FAR_FACTOR: f64 = 3.0;

/// How long one task took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measurement {
    pub stage: StageKind,
    /// The task's arithmetic, as [`cost::flops`] has it.
    pub flop: f64,
    /// Time that the task occupied its slot.
    pub seconds: f64,
}

/// How long tasks take in multiples of what is assumed of them.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rate {
    /// All that was measured took together.
    typical: f64,
    /// A tenth of what was measured took less.
    low: f64,
    /// A tenth of what was measured took more.
    high: f64,
    /// Arithmetic of the largest task that was measured.
    largest: f64,
}

/// What the rate of a stage rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Tasks of this stage.
    Stage,
    /// Tasks of other stages that compute with networks.
    OtherStages,
    /// Nothing that was measured.
    Assumed,
}

/// Measured rates: one for each stage that was measured, and one of all networks for those that
/// were not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    stages: BTreeMap<StageKind, Rate>,
    networks: Option<Rate>,
}

/// A time in seconds. The interval is that of a plan all of whose tasks are as fast as the
/// fastest tenth of those measured, or as slow as the slowest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Span {
    pub seconds: f64,
    pub low: f64,
    pub high: f64,
}

/// Time in slots that the tasks of one stage take together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StageSpan {
    pub stage: StageKind,
    pub basis: Basis,
    #[serde(flatten)]
    pub span: Span,
}

/// How long a plan takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    #[serde(flatten)]
    pub span: Span,
    /// Attempts that run at once.
    pub slots: usize,
    pub stages: Vec<StageSpan>,
}

impl Rates {
    /// The rates by these measurements. What has no known arithmetic is left out.
    pub fn of(measured: &[Measurement]) -> Self {
        let mut stages: BTreeMap<StageKind, Vec<Measurement>> = BTreeMap::new();
        let known =
            |each: &&Measurement| [each.flop, each.seconds].iter().all(|value| value.is_finite() && *value > 0.0);
        for each in measured.iter().filter(known) {
            stages.entry(each.stage).or_default().push(*each);
        }
        let networks: Vec<Measurement> =
            NETWORKS.iter().filter_map(|stage| stages.get(stage)).flatten().copied().collect();
        let rates = stages.iter().filter_map(|(stage, measured)| Some((*stage, Rate::of(measured)?)));
        Self { stages: rates.collect(), networks: Rate::of(&networks) }
    }

    /// How long a plan takes on so many slots, but for the tasks that are done: all its tasks
    /// shared out evenly, and no less than the longest chain of tasks that need each other.
    pub fn estimate(&self, plan: &Plan, slots: usize, is_done: impl Fn(TaskKey) -> bool) -> Estimate {
        let slots = slots.max(1);
        let mut stages: BTreeMap<StageKind, StageSpan> = BTreeMap::new();
        let mut after: BTreeMap<TaskKey, Span> = BTreeMap::new();
        let (mut sum, mut longest) = (Span::default(), Span::default());
        for (task, flop) in plan.tasks.iter().zip(cost::flops(plan)).rev().filter(|(task, _)| !is_done(task.key)) {
            let stage = task.stage.kind();
            let (rate, basis) = self.rate(stage);
            let span = rate.span(flop);
            sum = sum.with(span, |a, b| a + b);
            let of_stage = stages.entry(stage).or_insert(StageSpan { stage, basis, span: Span::default() });
            of_stage.span = of_stage.span.with(span, |a, b| a + b);
            let chain = after.get(&task.key).map_or(span, |rest| rest.with(span, |a, b| a + b));
            longest = longest.with(chain, f64::max);
            for need in task.needs() {
                let rest = after.entry(need).or_default();
                *rest = rest.with(chain, f64::max);
            }
        }
        let span = sum.with(longest, |sum, longest| longest.max(sum / slots as f64));
        Estimate { span, slots, stages: stages.into_values().collect() }
    }

    fn rate(&self, stage: StageKind) -> (Rate, Basis) {
        let of_networks = self.networks.filter(|_| NETWORKS.contains(&stage));
        match (self.stages.get(&stage), of_networks) {
            (Some(rate), _) => (*rate, Basis::Stage),
            (None, Some(rate)) => (rate, Basis::OtherStages),
            (None, None) => (ASSUMED, Basis::Assumed),
        }
    }
}

impl Rate {
    fn of(measured: &[Measurement]) -> Option<Self> {
        let mut ratios: Vec<f64> = measured.iter().map(|each| each.seconds / assumed_seconds(each.flop)).collect();
        ratios.sort_by(f64::total_cmp);
        let (first, last) = (ratios.first()?, ratios.last()?);
        let (low, high) = match ratios.len() {
            ..FEW => (first / FEW_FACTOR, last * FEW_FACTOR),
            many => (ratios[many / 10], ratios[many - 1 - many / 10]),
        };
        let took: f64 = measured.iter().map(|each| each.seconds).sum();
        let typical = took / measured.iter().map(|each| assumed_seconds(each.flop)).sum::<f64>();
        let largest = measured.iter().map(|each| each.flop).fold(0.0, f64::max);
        // One large task may outweigh all others.
        Some(Self { typical, low: low.min(typical), high: high.max(typical), largest })
    }

    fn span(&self, flop: f64) -> Span {
        let assumed = assumed_seconds(flop);
        let doubt = if flop > FAR * self.largest { FAR_FACTOR } else { 1.0 };
        Span { seconds: assumed * self.typical, low: assumed * self.low / doubt, high: assumed * self.high * doubt }
    }
}

impl Span {
    fn with(self, other: Self, put: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            seconds: put(self.seconds, other.seconds),
            low: put(self.low, other.low),
            high: put(self.high, other.high),
        }
    }
}

fn assumed_seconds(flop: f64) -> f64 {
    flop / ASSUMED_FLOPS + TASK_SECONDS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::experiment::Scale;
    use crate::study::overrides;
    use crate::study::plan::{Data, plan};

    fn planned() -> Plan {
        plan(&overrides::resolve(Scale::Tiny, None, &[]).unwrap(), &Data::of_the_paper()).unwrap()
    }

    /// Each task as if it had taken its arithmetic at a speed of its own.
    fn measured(plan: &Plan, speed: impl Fn(usize) -> f64) -> Vec<Measurement> {
        let tasks = plan.tasks.iter().zip(cost::flops(plan)).enumerate();
        let took = |(at, (task, flop)): (usize, (&crate::study::plan::TaskSpec, f64))| Measurement {
            stage: task.stage.kind(),
            flop,
            seconds: flop / speed(at) + 0.3,
        };
        tasks.map(took).collect()
    }

    fn near(a: f64, b: f64) -> bool {
        (a / b - 1.0).abs() < 1e-9
    }

    #[test]
    fn what_was_measured_takes_what_it_took() {
        let plan = planned();
        let measured = measured(&plan, |at| 1e9 * (1 + at % 7) as f64);
        let took: f64 = measured.iter().map(|each| each.seconds).sum();
        let estimate = Rates::of(&measured).estimate(&plan, 1, |_| false);
        assert!(near(estimate.span.seconds, took), "{estimate:?} {took}");
        assert!(estimate.span.low < took && took < estimate.span.high, "{estimate:?}");
        for of_stage in &estimate.stages {
            let took: f64 = measured.iter().filter(|each| each.stage == of_stage.stage).map(|each| each.seconds).sum();
            assert!(near(of_stage.span.seconds, took) && of_stage.basis == Basis::Stage, "{of_stage:?} {took}");
        }
    }

    #[test]
    fn slots_share_the_work_down_to_the_longest_chain() {
        let plan = planned();
        let rates = Rates::of(&measured(&plan, |_| 4e9));
        let on = |slots| rates.estimate(&plan, slots, |_| false).span;
        assert!(near(on(1).seconds, 2.0 * on(2).seconds));
        let chain = on(1_000_000).seconds;
        assert!(chain == on(2_000_000).seconds && chain > on(1).seconds / plan.tasks.len() as f64, "{chain}");
        let last = plan.tasks.last().unwrap().key;
        let alone = rates.estimate(&plan, 1_000_000, |key| key != last).span;
        assert!(chain > 3.0 * alone.seconds, "a training, its samples and the tables come one after the other");
    }

    #[test]
    fn what_is_done_takes_nothing() {
        let done = Rates::default().estimate(&planned(), 2, |_| true);
        assert_eq!((done.span, done.stages), (Span::default(), vec![]));
    }

    #[test]
    fn the_interval_is_that_of_the_middle_eight_tenths() {
        let each = |took: u32| Measurement {
            stage: StageKind::SinddmTrain,
            flop: ASSUMED_FLOPS * 0.9,
            seconds: f64::from(took),
        };
        let rate = Rate::of(&(1..=20).map(each).collect::<Vec<_>>()).unwrap();
        assert_eq!((rate.low, rate.high), (3.0, 18.0));
        let few = Rate::of(&[each(2), each(4)]).unwrap();
        assert_eq!((few.low, few.typical, few.high), (2.0 / 1.5, 3.0, 6.0));
    }

    #[test]
    fn a_network_that_was_not_measured_goes_by_the_others_and_is_less_certain_if_far_larger() {
        let plan = planned();
        let of = |stage, mut measured: Vec<Measurement>| {
            measured.retain(|each| each.stage == StageKind::SinddmTrain);
            let estimate = Rates::of(&measured).estimate(&plan, 2, |_| false);
            estimate.stages.into_iter().find(|each| each.stage == stage).unwrap()
        };
        let near = of(StageKind::SinddmSample, measured(&plan, |_| 4e9));
        assert_eq!(near.basis, Basis::OtherStages);
        let mut small = measured(&plan, |_| 4e9);
        small.iter_mut().for_each(|each| (each.flop, each.seconds) = (1e6, 0.1));
        let far = of(StageKind::SinddmSample, small);
        let width = |of: StageSpan| of.span.high / of.span.low;
        assert!(width(far) > 8.9 * width(near).min(FEW_FACTOR.powi(2)) && width(far) < 20.0, "{near:?} {far:?}");
        let pictures = of(StageKind::Ingest, measured(&plan, |_| 4e9));
        assert_eq!(pictures.basis, Basis::Assumed, "moving pictures is another matter");
        let assumed = Rates::default().estimate(&plan, 2, |_| false);
        assert!(assumed.stages.iter().all(|each| each.basis == Basis::Assumed));
    }

    #[test]
    fn what_says_nothing_is_left_out() {
        let each = |flop, seconds| Measurement { stage: StageKind::Command, flop, seconds };
        let nothing = [each(0.0, 3.0), each(f64::NAN, 3.0), each(1e9, 0.0), each(1e9, f64::INFINITY), each(1e9, -1.0)];
        assert_eq!(Rates::of(&nothing), Rates::default());
    }
}
