//! `lithogen results`.

use crate::args::Results;
use crate::out;
use crate::{local, table};

/// Prints the results of a run.
///
/// # Errors
/// If it has none yet.
pub async fn run(args: &Results) -> anyhow::Result<()> {
    let run = &args.run;
    let (text, results) = local::ask(run.remote.coordinator.as_deref(), &run.state.state, |remote| async move {
        let status = remote.status(&run.run).await?;
        remote.results(&status).await
    })
    .await?;
    match args.json {
        true => out::line(text.trim_end()),
        false => out::line(table::text(&results).trim_end()),
    }
    Ok(())
}
