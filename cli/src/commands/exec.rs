//! `lithogen exec`.

use std::collections::BTreeMap;
use std::path::Path;

use domain::runner::command::{CommandSpec, Commands};
use proto::clock::since_1970;

use crate::args::Exec;
use crate::commands::watch;
use crate::exit::{self, Problem};
use crate::local;
use crate::out;
use crate::remote::short;

/// Hands commands in; prints the run's name, and with `--wait` waits for its end.
///
/// # Errors
/// Exit code 2 for what cannot be run, 5 if tasks failed.
pub async fn run(args: &Exec) -> anyhow::Result<()> {
    let commands = commands(args)?;
    let status = local::ask(args.remote.coordinator.as_deref(), &args.state.state, |remote| {
        let commands = commands.clone();
        async move {
            let status = remote.submit_commands(commands, Path::new(""), args.priority).await?;
            out::line(&status.run_id);
            if args.wait { watch::follow(&remote, &status.run_id, true, |_, _| {}).await } else { Ok(status) }
        }
    })
    .await?;
    if args.wait {
        return watch::conclude(&status);
    }
    let run = short(&status.run_id);
    note!("run {run}: {} tasks, {} cached", status.tasks, status.committed);
    note!("next: lithogen wait {run}");
    Ok(())
}

fn commands(args: &Exec) -> anyhow::Result<Commands> {
    let program = args.argv.first().map(|program| Path::new(program).file_name().unwrap_or_default().to_string_lossy());
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let of_program: String = program.unwrap_or_default().chars().filter(plain).take(60).collect();
    let lines = match &args.each_line {
        Some(path) => {
            let read = |error| Problem::new(exit::USAGE, format!("cannot read {}: {error}", path.display()));
            std::fs::read_to_string(path).map_err(read)?.lines().map(str::to_owned).collect()
        }
        None => vec![],
    };
    if args.each_line.is_some() && lines.is_empty() {
        return Err(Problem::new(exit::USAGE, "the file of --each-line has no lines").into());
    }
    let inputs = pairs("--input", &args.inputs)?;
    let spec = CommandSpec {
        name: args.name.clone().unwrap_or(of_program),
        argv: args.argv.clone(),
        environment: pairs("--env", &args.environment)?,
        inputs: inputs.into_iter().map(|(name, source)| (name, qualified(source))).collect(),
        array: args.array,
        lines,
        resources: args.resources.clone(),
    };
    let unique = || format!("{:x}-{}", since_1970().as_nanos(), std::process::id());
    let id = if args.cached { String::new() } else { unique() };
    Ok(Commands { id, command: vec![spec] })
}

/// The source of an input in full: a digest alone means an artifact.
fn qualified(source: String) -> String {
    if source.contains(':') { source } else { format!("artifact:{source}") }
}

fn pairs(option: &str, items: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let pair = |item: &String| {
        let (name, value) = item.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    };
    let wrong = |item: &String| Problem::new(exit::USAGE, format!("{option} {item:?}: expected NAME=VALUE"));
    items.iter().map(|item| pair(item).ok_or_else(|| wrong(item).into())).collect()
}
