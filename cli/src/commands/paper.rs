//! `lithogen paper audit`.

use domain::study::audit;
use serde_json::json;

use crate::args::PaperCommand;
use crate::out;

/// Prints what the paper's numbers give away, for which no run is needed.
///
/// # Errors
/// Never, as yet.
pub fn run(command: &PaperCommand) -> anyhow::Result<()> {
    let PaperCommand::Audit { json } = command;
    let findings = audit::findings();
    if *json {
        let document = json!({ "schema_version": 1, "paper": "arXiv 2409.13409", "findings": findings });
        out::line(serde_json::to_string_pretty(&document)?);
        return Ok(());
    }
    for found in &findings {
        out::line(format_args!("{}: {}", found.id, found.finding));
        for evidence in &found.evidence {
            out::line(format_args!("  {evidence}"));
        }
    }
    Ok(())
}
