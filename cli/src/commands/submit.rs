//! `lithogen submit`.

use std::path::Path;

use domain::study::experiment::Experiment;
use domain::study::overrides;
use proto::v1::RunStatus;

use crate::args::Submit;
use crate::out;
use crate::remote::{Remote, short};
use crate::spec::{self, Work};
use crate::weights::WeightsFolder;

/// Uploads the data and hands the study or the commands in.
///
/// # Errors
/// If the spec or the data cannot be used, or there is no coordinator.
pub async fn run(args: &Submit, quiet: bool) -> anyhow::Result<()> {
    let remote = Remote::new(&args.coordinator)?;
    let status = match spec::work(&args.spec)? {
        Work::Study(experiment) => {
            for warning in overrides::without_effect(&experiment, args.data.is_none()) {
                note!("warning: {warning}");
            }
            study(args, &remote, &experiment, quiet).await?
        }
        Work::Commands(commands) => {
            let file = args.spec.spec.as_deref().unwrap_or(Path::new(""));
            remote.submit_commands(commands, file.parent().unwrap_or(Path::new("")), args.priority).await?
        }
    };
    out::line(&status.run_id);
    if quiet {
        return Ok(());
    }
    let run = short(&status.run_id);
    // What is done by now needs no work: also of a run that was handed in before.
    note!("run {run}: {} tasks, {} cached", status.tasks, status.committed);
    note!("next: lithogen watch {run} --coordinator {}", remote.url());
    Ok(())
}

async fn study(args: &Submit, remote: &Remote, experiment: &Experiment, quiet: bool) -> anyhow::Result<RunStatus> {
    let weights = WeightsFolder::new(&args.weights, &args.state.state).all_needed(experiment)?;
    let found = spec::prepare(args.data.as_deref(), experiment, weights, &args.state.state, quiet)?;
    remote.submit(experiment, &found.data, &found.folders, args.priority).await
}
