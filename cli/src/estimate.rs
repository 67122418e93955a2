//! What a study costs: arithmetic, time and memory, as far as can be told before.

use std::time::Duration;
#[cfg(feature = "worker")]
use std::time::Instant;

use domain::id::TaskKey;
use domain::resources::CPU_MEMORY_BYTES;
use domain::study::experiment::Experiment;
use domain::study::plan::rates::{Estimate, Measurement, Rates, Span};
use domain::study::plan::{Plan, cost};
use proto::channel::call;
use proto::v1;
use serde::Serialize;

use crate::remote::Remote;

/// Time within which a coordinator has to say how long tasks took.
const PATIENCE: Duration = Duration::from_secs(2);

/// About the longest that steps are measured.
#[cfg(feature = "worker")]
const MEASURE: Duration = Duration::from_secs(4);

/// Floating-point operations per second that an A100 is expected to sustain: 30 % of its TF32 peak
/// of 156 TFLOP/s (ALGORITHM 9).
pub const A100_FLOPS: f64 = 0.3 * 156e12;

/// How training on the finest scale fits into the memory of devices.
pub fn memory(experiment: &Experiment) -> String {
    let (sinddm, finest) = (&experiment.sinddm, experiment.finest());
    let [width, height] = finest.map(f64::from);
    let bytes = sinddm.activation_bytes(width * height) * f64::from(sinddm.batch);
    let part = |memory: u64| sinddm.at_once(finest, memory);
    format!(
        "{:.1} GB for a batch of {} at the finest scale, so {} pictures at once on a processor, {} on a GPU of 8 GiB, \
         {} of 24 GiB, {} of 80 GiB",
        bytes / 1e9,
        sinddm.batch,
        part(CPU_MEMORY_BYTES),
        part(8 << 30),
        part(24 << 30),
        part(80 << 30)
    )
}

/// The floating-point operations of a plan.
pub fn total_flop(plan: &Plan) -> f64 {
    cost::flops(plan).iter().sum()
}

/// The time that a plan takes, and where its rates are from. With `--json`, this is printed.
#[derive(Debug, Serialize)]
pub struct Estimated {
    #[serde(flatten)]
    pub estimate: Estimate,
    #[serde(flatten)]
    source: Source,
}

/// Where rates are from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "source", rename_all = "snake_case")]
enum Source {
    /// Tasks that a coordinator's workers have finished.
    FinishedTasks { finished_tasks: usize },
    /// Steps of trainings, in that time.
    #[cfg(feature = "worker")]
    MeasuredHere { measured_seconds: f64 },
    /// Nothing that was measured.
    Assumed,
}

/// Rates at which tasks are expected to run.
#[derive(Debug)]
pub struct Pace {
    rates: Rates,
    source: Source,
    /// Attempts that run at once, as far as that is known.
    slots: usize,
}

impl Pace {
    /// The rate of what the workers of a coordinator have finished; none if it does not say at
    /// once, or knows of nothing.
    pub async fn told_by(remote: &Remote) -> Option<Self> {
        let mut cluster = remote.cluster();
        let asked = cluster.list_measurements(call(v1::ListMeasurementsRequest {}));
        let answer = tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()?.into_inner();
        // What this version does not know, it does not plan.
        let measured = answer.measurements.into_iter().filter_map(|each| Measurement::try_from(each).ok());
        let measured: Vec<Measurement> = measured.collect();
        let tasks = measured.len();
        let slots = usize::try_from(answer.slots).unwrap_or(usize::MAX);
        (tasks > 0).then(|| Self {
            rates: Rates::of(&measured),
            source: Source::FinishedTasks { finished_tasks: tasks },
            slots,
        })
    }

    /// The rate of a few steps of the plan's trainings in this process, on so many threads; what is
    /// assumed if they cannot be measured.
    #[cfg(feature = "worker")]
    pub async fn measured_here(experiment: &Experiment, plan: &Plan, threads: usize) -> Self {
        let began = Instant::now();
        let (experiment, plan) = (experiment.clone(), plan.clone());
        let measuring =
            tokio::task::spawn_blocking(move || science::steps::measure(&experiment, &plan, threads, MEASURE));
        match measuring.await {
            Ok(Ok(measured)) if !measured.is_empty() => {
                let source = Source::MeasuredHere { measured_seconds: began.elapsed().as_secs_f64() };
                Self { rates: Rates::of(&measured), source, slots: 0 }
            }
            _ => Self::assumed(),
        }
    }

    /// Programs without the stages measure nothing.
    #[cfg(not(feature = "worker"))]
    pub async fn measured_here(_: &Experiment, _: &Plan, _: usize) -> Self {
        Self::assumed()
    }

    /// The rate that is assumed where none is known.
    pub fn assumed() -> Self {
        Self { rates: Rates::default(), source: Source::Assumed, slots: 0 }
    }

    /// The time that a plan takes, but for the tasks that are done: on so many slots, or on
    /// those that there are.
    pub fn estimate(&self, plan: &Plan, slots: Option<usize>, is_done: impl Fn(TaskKey) -> bool) -> Estimated {
        let slots = slots.or(Some(self.slots).filter(|slots| *slots > 0)).unwrap_or_else(cores);
        Estimated { estimate: self.rates.estimate(plan, slots, is_done), source: self.source }
    }
}

impl Estimated {
    /// The interval of the time and where it is from.
    pub fn interval(&self) -> String {
        let Span { low, high, .. } = self.estimate.span;
        let source = match self.source {
            Source::FinishedTasks { finished_tasks: 1 } => "from 1 finished task".to_owned(),
            Source::FinishedTasks { finished_tasks } => format!("from {finished_tasks} finished tasks"),
            #[cfg(feature = "worker")]
            Source::MeasuredHere { measured_seconds } => format!("measured here in {measured_seconds:.1} s"),
            Source::Assumed => "assumed, not measured".to_owned(),
        };
        format!("{} – {}; {source}", duration(low), duration(high))
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Floating-point operations with the prefix that fits.
pub fn arithmetic(flop: f64) -> String {
    let (size, prefix) = match flop {
        f if f < 1e12 => (1e9, 'G'),
        f if f < 1e15 => (1e12, 'T'),
        f if f < 1e18 => (1e15, 'P'),
        _ => (1e18, 'E'),
    };
    format!("{:.2} {prefix}FLOP", flop / size)
}

/// A span of time in the two units that matter.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s if s < 63e6 => format!("{:.0} days", s / 86_400.0),
        s => format!("{:.0} years", s / 31_557_600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time_read_well() {
        assert_eq!(duration(61.0), "61 s");
        assert_eq!(duration(7200.0), "2.0 h");
    }

    #[test]
    fn an_estimate_says_where_it_is_from() {
        let plan = Plan { tasks: vec![] };
        let interval = |source| Pace { source, ..Pace::assumed() }.estimate(&plan, None, |_| false).interval();
        assert_eq!(interval(Source::FinishedTasks { finished_tasks: 166 }), "0 s – 0 s; from 166 finished tasks");
        assert_eq!(interval(Source::Assumed), "0 s – 0 s; assumed, not measured");
    }
}
