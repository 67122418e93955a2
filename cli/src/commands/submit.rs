//! `lithogen submit`.

use crate::args::Submit;
use crate::out;
use crate::progress::Counter;
use crate::remote::{Remote, short};

/// Uploads the data and hands the study in.
///
/// # Errors
/// If the spec or the data cannot be used, or there is no coordinator.
pub async fn run(args: &Submit, quiet: bool) -> anyhow::Result<()> {
    let experiment = super::resolve(&args.spec)?;
    let remote = Remote::new(&args.coordinator)?;
    let mut counter = Counter::new("drawing stand-ins", quiet);
    let found = super::data(args.data.as_deref(), &experiment, &args.state.state, &mut |done, total| {
        counter.show(done, total);
    })?;
    counter.end();
    let status = remote.submit(&experiment, &found.data, &found.folders).await?;
    out::line(&status.run_id);
    if quiet {
        return Ok(());
    }
    let run = short(&status.run_id);
    eprintln!("run {run}: {} tasks, {} cached", status.tasks, status.cached);
    eprintln!("next: lithogen watch {run} --coordinator {}", remote.url());
    Ok(())
}
