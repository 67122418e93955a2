//! `lithogen results`.

use crate::args::Results;
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
        true => println!("{}", text.trim_end()),
        false => print!("{}", table::text(&results)),
    }
    Ok(())
}
