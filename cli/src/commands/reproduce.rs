//! `lithogen reproduce`: the whole study in one command.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use domain::study::experiment::Experiment;
use domain::study::overrides;
use domain::study::plan::{self, Plan};
use domain::study::results::Results;
use proto::v1;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use worker::devices::Device;

use super::watch::{conclude, follow};
use super::worker as worker_command;
use crate::args::{OnFailure, Reproduce};
use crate::dataset::folders::Found;
use crate::estimate::{Pace, duration};
use crate::exit::{self, Problem};
use crate::local::{Local, address_file, stop_signal, surely_end_within};
use crate::out;
use crate::progress::View;
use crate::remote::{Remote, short};
use crate::spec;
use crate::table;
use crate::weights::{Needed, WeightsFolder};

/// Time in which the command ends when it is told to; attempts have thirty seconds of that.
const GRACE: Duration = Duration::from_secs(60);

/// How a followed run ended.
enum Ended {
    Over(Box<v1::RunStatus>),
    Interrupted,
}

/// Runs the study to its end and prints Table I.
///
/// # Errors
/// With the exit codes of [`exit`].
pub async fn run(args: &Reproduce, quiet: bool) -> anyhow::Result<()> {
    let experiment = spec::resolve(&args.spec)?;
    worker_command::check_device(&args.device)?;
    let weights = WeightsFolder::new(&args.weights, &args.state.state).all_needed(&experiment)?;
    let say = |line: String| {
        if !quiet {
            note!("{line}");
        }
    };
    say(format!("lithogen {} · the study at scale {}", env!("CARGO_PKG_VERSION"), experiment.scale.name()));
    match &args.remote.coordinator {
        Some(url) => {
            say(format!(" state    at the coordinator {url}"));
            let remote = Remote::new(url)?;
            let found = spec::prepare(args.data.as_deref(), &experiment, weights, &args.state.state, quiet)?;
            let status = remote.submit(&experiment, &found.data, &found.folders, 0).await?;
            announce(&experiment, &found, &status, args.data.is_none(), &say)?;
            say(cached(&status, ""));
            match watch(&remote, &status, args.on_failure, quiet).await? {
                Ended::Over(status) => finish(args, &remote, &status, quiet).await,
                Ended::Interrupted => {
                    let run = short(&status.run_id);
                    say(format!("the study goes on; watch: lithogen watch {run} --coordinator {url}"));
                    Err(Problem::new(exit::INTERRUPTED, "interrupted").into())
                }
            }
        }
        None => {
            let state = &args.state.state;
            say(format!(" state    {}", state.display()));
            let mut local = Local::start(state).await?;
            let remote = local.remote().clone();
            // The first answer says that the state folder is ours.
            local
                .with(async {
                    remote.wait().await;
                    Ok(())
                })
                .await?;
            let path = address_file(state);
            proto::private::write(&path, &format!("{}\n", remote.url()))
                .with_context(|| format!("cannot write {}", path.display()))?;
            let ended = local.with(study(args, &experiment, weights, &remote, quiet)).await;
            // A coordinator that has failed is the error that counts.
            let stopped = local.stop().await;
            ended.and(stopped)
        }
    }
}

/// Everything that happens while the local coordinator lives.
async fn study(
    args: &Reproduce,
    experiment: &Experiment,
    weights: Needed,
    remote: &Remote,
    quiet: bool,
) -> anyhow::Result<()> {
    let say = |line: String| {
        if !quiet {
            note!("{line}");
        }
    };
    doctor(args, &say);
    let found = spec::prepare(args.data.as_deref(), experiment, weights, &args.state.state, quiet)?;
    let status = remote.submit(experiment, &found.data, &found.folders, 0).await?;
    let cores = worker_command::cores();
    let workers = usize::from(args.workers);
    let gpus = worker_command::gpus(&args.device, None, false)?;
    let slots = args.slots.map_or_else(|| (worker_command::slots(gpus.len(), cores) / workers).max(1), usize::from);
    let threads = (cores / (workers * slots)).max(1);
    let plan = announce(experiment, &found, &status, args.data.is_none(), &say)?;
    let mut estimate = String::new();
    // Nobody waits for a number that nobody reads.
    if status.committed < status.tasks && !quiet {
        let pace = pace(args, experiment, &plan, remote, threads).await;
        estimate = expected(&pace, &plan, remote, &status, (workers * slots).min(cores)).await;
    }
    say(cached(&status, &estimate));
    if status.state() == v1::RunState::Succeeded {
        return finish(args, remote, &status, quiet).await;
    }
    let drain = CancellationToken::new();
    let tracker = TaskTracker::new();
    for number in 0..args.workers {
        let name = format!("local-{number}");
        let state = args.state.state.join("workers").join(&name);
        let mut config = worker_command::config(remote.url(), &name, slots, threads, &args.device, state)?;
        config.gpus = share(&gpus, usize::from(number), workers);
        let drain = drain.clone();
        tracker.spawn(async move {
            if let Err(error) = worker::run(config, None, drain.cancelled()).await {
                tracing::error!(%error, "worker");
            }
        });
    }
    tracker.close();
    surely_end_within(GRACE)?;
    let ended = watch(remote, &status, args.on_failure, quiet).await;
    if let Ok(Ended::Interrupted) = &ended {
        say("draining: what runs may end within 30 s; ^C again ends at once".to_owned());
        tokio::spawn(async {
            stop_signal().await;
            std::process::exit(i32::from(exit::INTERRUPTED));
        });
    }
    drain.cancel();
    tracker.wait().await;
    // Inputs of local workers are copies of what the coordinator has; what cannot
    // be removed now is emptied when they start again.
    let _ = tokio::fs::remove_dir_all(args.state.state.join("workers")).await;
    match ended? {
        Ended::Over(status) => finish(args, remote, &status, quiet).await,
        Ended::Interrupted => {
            let status = remote.status(&status.run_id).await?;
            say(format!(
                "interrupted with {} of {} tasks done; the same command goes on from there",
                status.committed, status.tasks
            ));
            Err(Problem::new(exit::INTERRUPTED, "interrupted").into())
        }
    }
}

/// The GPUs of one of several workers: each has its own as long as there are enough.
fn share(gpus: &[Device], number: usize, workers: usize) -> Vec<Device> {
    match gpus.len() {
        0 => vec![],
        there if number < there => gpus.iter().skip(number).step_by(workers).cloned().collect(),
        there => vec![gpus[number % there].clone()],
    }
}

/// What a person should know of this machine before waiting for it.
fn doctor(args: &Reproduce, say: &impl Fn(String)) {
    let state = &args.state.state;
    let cores = worker_command::cores();
    let here = state.canonicalize().unwrap_or_else(|_| state.clone());
    let disks = sysinfo::Disks::new_with_refreshed_list().ok();
    let holding = disks.iter().flatten().filter(|disk| here.starts_with(disk.mount_point()));
    let disk = holding.max_by_key(|disk| disk.mount_point().as_os_str().len());
    let free = disk.map_or_else(String::new, |disk| format!(" · {:.0} GB free", disk.available_space() as f64 / 1e9));
    say(format!(" doctor   ✓ {cores} cores{free} · computes on: {}", args.device));
}

fn announce(
    experiment: &Experiment,
    found: &Found,
    status: &v1::RunStatus,
    drawn: bool,
    say: &impl Fn(String),
) -> anyhow::Result<Plan> {
    for remark in &found.remarks {
        say(format!("          ✓ {remark}"));
    }
    for stand_in in plan::stand_ins(experiment, &found.data) {
        say(format!("          ! {stand_in}"));
    }
    for line in plan::untested(experiment, &found.data) {
        say(format!("          ! {line}"));
    }
    for reading in experiment.readings() {
        say(format!("          · reading of the paper: {reading}"));
    }
    for warning in overrides::without_effect(experiment, drawn) {
        say(format!("          ! {warning}"));
    }
    let plan = plan::plan(experiment, &found.data)?;
    let stages: Vec<String> = plan.by_stage().iter().map(|(stage, tasks)| format!("{tasks} {stage}")).collect();
    say(format!(" plan     run {}: {} tasks = {}", short(&status.run_id), status.tasks, stages.join(" · ")));
    Ok(plan)
}

/// How much of a run is done already, and what is said of the rest.
fn cached(status: &v1::RunStatus, rest: &str) -> String {
    let rest = if status.committed == status.tasks { " · nothing to run" } else { rest };
    format!("          {} cached{rest}", status.committed)
}

/// How fast tasks are on the workers that will run them, each with so many threads.
async fn pace(args: &Reproduce, experiment: &Experiment, plan: &Plan, remote: &Remote, threads: usize) -> Pace {
    // What other devices do, the processor does not tell, nor what was done on it.
    if args.device != "cpu" {
        return Pace::assumed();
    }
    match Pace::told_by(remote).await {
        Some(pace) => pace,
        None => Pace::measured_here(experiment, plan, threads).await,
    }
}

/// The time that the rest of a run takes, in words; nothing if the rest is not known.
async fn expected(pace: &Pace, plan: &Plan, remote: &Remote, status: &v1::RunStatus, slots: usize) -> String {
    let done = if status.committed > 0 { remote.tasks_of(&status.run_id, "succeeded").await } else { Ok(vec![]) };
    let Ok(done) = done else { return String::new() };
    let done: BTreeSet<String> = done.into_iter().map(|task| task.task_key).collect();
    let estimated = pace.estimate(plan, Some(slots), |key| done.contains(&key.to_string()));
    format!(" · est. {} ({})", duration(estimated.estimate.span.seconds), estimated.interval())
}

/// Follows the run to its end or to an interrupt.
async fn watch(remote: &Remote, status: &v1::RunStatus, on_failure: OnFailure, quiet: bool) -> anyhow::Result<Ended> {
    let mut view = View::new(quiet);
    let given_up = CancellationToken::new();
    let following = follow(remote, &status.run_id, false, |status, changes| {
        view.show(status, changes);
        if !status.failures.is_empty() && on_failure == OnFailure::Stop {
            given_up.cancel();
        }
    });
    let stop_on_failure = async {
        given_up.cancelled().await;
        // Should this fail, the run goes on, which loses nothing.
        let _ = remote.cancel(&status.run_id, &[]).await;
        std::future::pending::<()>().await
    };
    let ended = tokio::select! {
        status = following => status.map(|status| Ended::Over(Box::new(status))),
        () = stop_signal() => Ok(Ended::Interrupted),
        () = stop_on_failure => Ok(Ended::Interrupted),
    };
    view.end();
    ended
}

/// Prints Table I and says where the report lies and what to do next.
async fn finish(args: &Reproduce, remote: &Remote, status: &v1::RunStatus, quiet: bool) -> anyhow::Result<()> {
    conclude(status)?;
    let (text, results) = remote.results(status).await?;
    let report = args.state.state.join("report");
    remote.report(status, &report).await?;
    if args.json {
        out::line(text.trim_end())
    } else {
        out::line(format_args!("\n{}", table::text(&results).trim_end()))
    }
    if !quiet {
        note!("\n{}", next_steps(args, &results, &report));
    }
    Ok(())
}

fn next_steps(args: &Reproduce, results: &Results, report: &Path) -> String {
    let mut lines = vec![format!(" verdicts {}", table::tally(results))];
    lines.extend(table::gate(results).map(|gate| format!(" gate     {gate}")));
    lines.push(format!(
        " report   {}/index.html · table.csv · scores.csv · claims.csv · table.md · table.tex · results.json",
        report.display()
    ));
    match &args.data {
        None => lines.push(format!(
            " next     your data: lithogen reproduce --scale {} --data DIR   full size: lithogen plan --scale paper",
            results.scale
        )),
        Some(_) => lines.push(" next     full size: lithogen plan --scale paper".to_owned()),
    }
    lines.join("\n")
}
