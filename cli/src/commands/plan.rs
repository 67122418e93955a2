//! `lithogen plan`.

use domain::cost;
use domain::experiment::{Experiment, MultiImage, Trials};
use domain::overrides;
use domain::plan::{self, Data};
use domain::stone::View;
use domain::trial::Training;

use crate::args::Plan;
use crate::data;
use crate::exit::{self, Problem};
use crate::out;
use crate::weights::WeightsFolder;

/// Floating-point operations per second that one core reaches on these stages,
/// measured on two cores of a server with AVX-512 (docs/benchmarks.md).
const CORE_FLOPS: f64 = 8e9;

/// Seconds that each task takes beyond its arithmetic: starting a process,
/// moving its files.
const TASK_SECONDS: f64 = 0.1;

/// What an A100 is expected to sustain: 30 % of its TF32 peak of 156 TFLOP/s (ALGORITHM 9).
const A100_FLOPS: f64 = 0.3 * 156e12;

/// Prints what a study consists of.
///
/// # Errors
/// Exit code 2 if the spec is wrong, 4 if the data cannot be used.
pub fn run(args: &Plan) -> anyhow::Result<()> {
    let experiment = super::resolve(&args.spec)?;
    let folder = WeightsFolder::new(&args.weights, &args.state.state);
    let weights = folder.needed(&experiment)?;
    let mut data = match &args.data {
        Some(root) => data::find(root)?.data,
        None => Data::of_the_paper(),
    };
    let drawn = args.data.is_none();
    weights.plan_with(&mut data);
    let plan = plan::plan(&experiment, &data).map_err(|error| Problem::new(exit::DATA, error.to_string()))?;
    if args.json {
        let tasks: Vec<_> = plan
            .tasks
            .iter()
            .zip(cost::flops(&plan))
            .map(|(task, flop)| {
                serde_json::json!({
                    "key": task.key, "stage": task.stage.kind().name(), "subject": task.subject,
                    "needs": task.needs().collect::<Vec<_>>(), "flop": flop,
                })
            })
            .collect();
        let document = serde_json::json!({
            "schema_version": 1, "run_id": plan.digest(), "absent_weights": weights.absent, "tasks": tasks,
        });
        out::line(serde_json::to_string_pretty(&document)?);
        return Ok(());
    }
    out::line(format_args!("study    scale {}, seed {}", experiment.scale.name(), experiment.seed));
    for line in describe(&experiment, &data) {
        out::line(format_args!("         {line}"));
    }
    out::line(format_args!("memory   {}", memory(&experiment)));
    out::line(format_args!("plan     {} tasks", plan.tasks.len()));
    out::line(format_args!("         {:<17} {:>6} {:>12}", "stage", "tasks", "arithmetic"));
    let flops = cost::flops(&plan);
    for (stage, tasks) in plan.by_stage() {
        let of_stage = plan.tasks.iter().zip(&flops).filter(|(task, _)| task.stage.kind() == stage);
        let flop: f64 = of_stage.map(|(_, flop)| flop).sum();
        out::line(format_args!("         {stage:<17} {tasks:>6} {:>12}", arithmetic(flop)));
    }
    let flop = total_flop(&plan);
    out::line(format_args!(
        "cost     {} ≈ {} on two cores (within a factor of two)",
        arithmetic(flop),
        duration(seconds(&plan, 2))
    ));
    if flop > 60.0 * A100_FLOPS {
        out::line(format_args!(
            "         ≈ {} on one A100 at 30 % of its TF32 peak (within a factor of two)",
            duration(flop / A100_FLOPS)
        ));
    }
    for stand_in in plan::stand_ins(&experiment, &data) {
        out::line(format_args!("differs  {stand_in}"));
    }
    for line in plan::untested(&experiment, &data) {
        out::line(format_args!("folds    {line}"));
    }
    for reading in experiment.readings() {
        out::line(format_args!("reading  {reading}"));
    }
    for warning in overrides::without_effect(&experiment, drawn) {
        out::line(format_args!("warning  {warning}"));
    }
    for line in weights.absent.iter().flat_map(|which| folder.ways(*which)) {
        out::line(format_args!("needs    {line}"));
    }
    Ok(())
}

/// The study in numbers, one line each.
pub fn describe(experiment: &Experiment, data: &Data) -> Vec<String> {
    let models = experiment.diffusion_models();
    let samples = (View::ALL.len() * 6) as u32 * experiment.sampling.per_model;
    let (train, test) = experiment.patch.quota();
    let patches = 3 * View::ALL.len() as u32 * 6 * (train + test);
    let [width, height] = experiment.sampling.size(experiment.finest());
    let factor = experiment.upscale.factor;
    let (distinct, protocols) = (Training::all().len(), experiment.tl.trials());
    let mut lines = vec![
        format!(
            "{models} diffusion trainings of {} steps on {}",
            grouped(experiment.sinddm.steps),
            match experiment.sinddm.multi_image {
                MultiImage::FirstOnly | MultiImage::PerImage => "one picture each".to_owned(),
                MultiImage::Pooled | MultiImage::Mosaic => {
                    let most = if plan::short_generators(experiment, data).is_empty() { "" } else { "at most " };
                    format!("{most}{} pictures each", experiment.sinddm.images_per_model)
                }
            }
        ),
        format!("{samples} synthetic pictures of {width}×{height}, enlarged to {}×{}", width * factor, height * factor),
        format!(
            "{} patches of {size}×{size}{}: 3 data sets × 2 views × 6 classes × ({train} to learn from + {test} to test on)",
            grouped(patches),
            if protocols.iter().all(|trials| trials.points().count() == 1) { "" } else { " in each split" },
            size = experiment.patch.size
        ),
    ];
    lines.extend(protocols.into_iter().map(|Trials { protocol, repeats, folds }| {
        format!(
            "{} classifiers by {protocol}: {distinct} trainings × 2 views × {} × {}",
            distinct as u32 * 2 * repeats * folds,
            counted(repeats, "repeat"),
            counted(folds, "fold")
        )
    }));
    lines
}

/// How training on the finest scale fits into the memory of devices.
fn memory(experiment: &Experiment) -> String {
    let (sinddm, finest) = (&experiment.sinddm, experiment.finest());
    let [width, height] = finest.map(f64::from);
    let bytes = cost::activation_bytes(sinddm, width * height) * f64::from(sinddm.batch);
    let part = |memory: u64| cost::micro_batch(sinddm, finest, memory);
    format!(
        "{:.1} GB for a batch of {} at the finest scale, so {} pictures at once on a processor, {} on a GPU of 8 GiB, \
         {} of 24 GiB, {} of 80 GiB",
        bytes / 1e9,
        sinddm.batch,
        part(cost::CPU_MEMORY_BYTES),
        part(8 << 30),
        part(24 << 30),
        part(80 << 30)
    )
}

/// All arithmetic of a plan.
pub fn total_flop(plan: &plan::Plan) -> f64 {
    cost::flops(plan).iter().sum()
}

/// Seconds that a plan takes on so many cores, within a factor of two.
pub fn seconds(plan: &plan::Plan, cores: usize) -> f64 {
    (total_flop(plan) / CORE_FLOPS + plan.tasks.len() as f64 * TASK_SECONDS) / cores.max(1) as f64
}

/// Floating-point operations with the prefix that fits.
fn arithmetic(flop: f64) -> String {
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

/// A number of things.
fn counted(number: u32, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// With a space between thousands, as the paper prints it.
fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_spans_read_well() {
        assert_eq!(grouped(120_001), "120 001");
        assert_eq!(grouped(300), "300");
        assert_eq!(duration(61.0), "61 s");
        assert_eq!(duration(7200.0), "2.0 h");
    }
}
