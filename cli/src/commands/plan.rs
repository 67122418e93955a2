//! `lithogen plan`.

use domain::study::experiment::{Experiment, MultiImage, Trials};
use domain::study::overrides;
use domain::study::plan::{self, Data, cost};
use domain::study::stone::View;
use domain::study::trial::Training;

use crate::args::{Measure, Plan};
use crate::dataset::folders;
use crate::estimate::{A100_FLOPS, Pace, arithmetic, duration, memory, total_flop};
use crate::exit::{self, Problem};
use crate::local;
use crate::out;
use crate::remote::Remote;
use crate::spec;
use crate::weights::WeightsFolder;

/// Prints what a study consists of.
///
/// # Errors
/// Exit code 2 if the spec is wrong, 4 if the data cannot be used.
pub async fn run(args: &Plan, quiet: bool) -> anyhow::Result<()> {
    let experiment = spec::resolve(&args.spec)?;
    let folder = WeightsFolder::new(&args.weights, &args.state.state);
    let weights = folder.needed(&experiment)?;
    let mut data = match &args.data {
        Some(root) => folders::find(root)?.data,
        None => Data::of_the_paper(),
    };
    let drawn = args.data.is_none();
    weights.plan_with(&mut data);
    let plan = plan::plan(&experiment, &data).map_err(|error| Problem::new(exit::DATA, error.to_string()))?;
    let estimated = pace(args, quiet, &experiment, &plan).await?.estimate(&plan, None, |_| false);
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
            "schema_version": 1, "run_id": plan.id(), "absent_weights": weights.absent, "estimate": estimated,
            "tasks": tasks,
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
        "cost     {} ≈ {} in {} ({})",
        arithmetic(flop),
        duration(estimated.estimate.span.seconds),
        counted(u32::try_from(estimated.estimate.slots).unwrap_or(u32::MAX), "slot"),
        estimated.interval()
    ));
    if flop > 60.0 * A100_FLOPS {
        out::line(format_args!(
            "         ≈ {} on one A100 at 30 % of its TF32 peak (assumed, not measured)",
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

/// How fast tasks are: as a coordinator tells, or else as they are here. None has to be there.
///
/// # Errors
/// If what is given is no address of a coordinator.
async fn pace(args: &Plan, quiet: bool, experiment: &Experiment, plan: &plan::Plan) -> anyhow::Result<Pace> {
    let say = |text: &str| {
        if !quiet {
            note!("{text}");
        }
    };
    let url = args.remote.coordinator.as_ref();
    let remote = match url {
        Some(url) => Some(Remote::new(url)?),
        None => local::running(&args.state.state).ok(),
    };
    if let Some(remote) = remote
        && let Some(pace) = Pace::told_by(&remote).await
    {
        return Ok(pace);
    }
    if let Some(url) = url {
        say(&format!("no coordinator at {url} tells how long tasks took"));
    }
    // Scripts that read JSON wait for nothing that they did not ask for.
    let is_wanted = args.measure.map_or(!args.json, |measure| measure == Measure::Always);
    if is_wanted && cfg!(feature = "worker") {
        say("timing a few training steps here, for the estimate");
        return Ok(Pace::measured_here(experiment, plan, 1).await);
    }
    Ok(Pace::assumed())
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

/// A number of things, in words.
fn counted(number: u32, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// A number with a space between thousands, as the paper prints it.
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
    fn numbers_read_well() {
        assert_eq!(grouped(120_001), "120 001");
        assert_eq!(grouped(300), "300");
    }
}
