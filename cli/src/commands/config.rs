//! `lithogen config`.

use domain::command::Commands;
use domain::experiment::Experiment;
use domain::results::Results;

use crate::args::{Config, ConfigCommand, SchemaOf};
use crate::out;

/// Prints the resolved spec or a schema.
///
/// # Errors
/// Exit code 2 if the spec is wrong.
pub fn run(args: &Config) -> anyhow::Result<()> {
    match &args.command {
        ConfigCommand::Show { spec } => out::line(toml::to_string(&super::resolve(spec)?)?.trim_end()),
        ConfigCommand::Schema { of } => {
            let schema = match of {
                SchemaOf::Spec => schemars::schema_for!(Experiment),
                SchemaOf::Commands => schemars::schema_for!(Commands),
                SchemaOf::Results => schemars::schema_for!(Results),
            };
            out::line(serde_json::to_string_pretty(&schema)?);
        }
    }
    Ok(())
}
