//! `lithogen results`.

use report::tables;

use crate::args::{Format, Results};
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
    let printed = match args.form() {
        Format::Json => text,
        Format::Text => table::text(&results),
        Format::Csv => tables::table_csv(&results),
        Format::Markdown => tables::markdown(&results),
        Format::Latex => tables::latex(&results),
    };
    out::line(printed.trim_end());
    Ok(())
}
