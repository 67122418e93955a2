//! `lithogen config`.

use domain::runner::command::Commands;
use domain::study::experiment::knobs;
use domain::study::results::Results;

use crate::args::{Config, ConfigCommand, SchemaOf};
use crate::out;
use crate::spec;

/// Prints the resolved spec, the ledger of readings or a schema.
///
/// # Errors
/// Exit code 2 if the spec is wrong.
pub fn run(args: &Config) -> anyhow::Result<()> {
    match &args.command {
        ConfigCommand::Show { spec } => out::line(toml::to_string(&spec::resolve(spec)?)?.trim_end()),
        ConfigCommand::Ledger { json } => ledger(*json)?,
        ConfigCommand::Schema { of } => {
            let schema = match of {
                SchemaOf::Spec => knobs::schema(),
                SchemaOf::Commands => schemars::schema_for!(Commands).into(),
                SchemaOf::Results => schemars::schema_for!(Results).into(),
            };
            out::line(serde_json::to_string_pretty(&schema)?);
        }
    }
    Ok(())
}

/// Prints what the paper leaves open and how it is read; as JSON, every knob.
fn ledger(json: bool) -> anyhow::Result<()> {
    let entries = knobs::ledger();
    if json {
        let document = serde_json::json!({ "schema_version": 1, "knobs": entries });
        out::line(serde_json::to_string_pretty(&document)?);
        return Ok(());
    }
    for entry in &entries {
        let (Some(section), Some(paper), Some(alternatives), Some(reason)) =
            (entry.section, entry.paper, entry.alternatives, entry.reason)
        else {
            continue;
        };
        out::line(format_args!("{} = {}", entry.knob, entry.default));
        out::line(format_args!("  paper    {section}: {paper}"));
        out::line(format_args!("  because  {reason}"));
        out::line(format_args!("  also     {alternatives}\n"));
    }
    for (kind, means) in [
        ("execution", "cannot change what is measured on given pictures"),
        ("deviation", "settled by the paper: another value makes results incomparable"),
    ] {
        let names: Vec<&str> = entries.iter().filter(|entry| entry.kind == kind).map(|entry| entry.knob).collect();
        out::line(format_args!("{kind} ({means}):\n  {}\n", names.join(", ")));
    }
    Ok(())
}
