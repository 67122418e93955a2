//! The `lithogen` command line: arguments, one module per command, and the client.
//!
//! | module | what it holds |
//! |---|---|
//! | [`args`] | the commands and their options |
//! | [`commands`] | one command per file |
//! | [`spec`] | what the options ask for: a study or commands, and its data |
//! | [`estimate`] | what a study costs |
//! | [`dataset`] | a data set of pictures on this machine |
//! | [`weights`] | the folder of published weights |
//! | [`local`] | a coordinator and a worker in this process |
//! | [`remote`] | calls to a coordinator |
//! | [`identities`] | who a person is to coordinators of other machines |
//! | [`progress`] | bars and lines while a study runs |
//! | [`table`] | results as text |
//! | [`out`] | standard output and error: what terminals are let see |
//! | `traces` | traces, for a receiver that the environment names |
//! | [`units`] | sizes and times as people write them |
//! | [`exit`] | exit codes |

#![warn(clippy::print_stdout, clippy::print_stderr, reason = "what is printed goes through `out`")]

// First, for its macro.
#[macro_use]
pub mod out;

pub mod args;
pub mod commands;
pub mod dataset;
pub mod estimate;
pub mod exit;
pub mod identities;
pub mod local;
pub mod progress;
pub mod remote;
pub mod spec;
pub mod table;
mod traces;
pub mod units;
pub mod weights;

use std::process::ExitCode;

use args::{Cli, Command, LogFormat};
use traces::Traces;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt, registry};

/// Runs one command; what went wrong is on standard error.
pub fn run(cli: Cli) -> ExitCode {
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, _) => "debug",
    };
    let filter = EnvFilter::try_from_env("LITHOGEN_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,lithogen_cli={level},coordinator={level},worker={level}")));
    let traces = Traces::start(&cli.command);
    start_logs(filter, log_format(&cli.command), traces.as_ref().ok().and_then(Option::as_ref));
    let traces = traces.unwrap_or_else(|error| {
        tracing::warn!("{error:#}");
        None
    });
    let code = match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = exit::code_of(&error);
            if code != exit::INTERRUPTED {
                out::problem(describe(&error));
            }
            ExitCode::from(code)
        }
    };
    if let Some(traces) = traces {
        traces.end();
    }
    code
}

/// What looks after workers speaks to people, also where workers do not.
fn log_format(command: &Command) -> LogFormat {
    match command {
        Command::Coordinator(args) => args.logs.log_format,
        Command::Worker(args) if args.command.is_none() => args.logs.log_format,
        _ => LogFormat::Text,
    }
}

/// Logs for people have none of our spans. JSON has all of them, whatever it has of events, and
/// so have traces.
fn start_logs(filter: EnvFilter, format: LogFormat, traces: Option<&Traces>) {
    let traced = registry().with(traces.map(|traces| traces.layer().with_filter(filter_fn(is_our_span))));
    // Complaining where nobody reads would panic in the midst of a call.
    let logs = fmt::layer().log_internal_errors(false);
    match format {
        LogFormat::Text => {
            let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
            let logs = logs.with_writer(std::io::stderr).with_ansi(ansi).with_target(false);
            traced.with(logs.with_filter(filter.and(filter_fn(|metadata| !is_our_span(metadata))))).init();
        }
        LogFormat::Json => {
            let logs = logs.json().flatten_event(true).with_writer(|| out::Lines);
            // Nothing is logged within the spans that a coordinator keeps of tasks.
            let spans = filter_fn(|metadata| is_our_span(metadata) && metadata.target() != "coordinator::traces");
            traced.with(logs.with_filter(out::with_notes(filter).or(spans))).init();
            out::write_json();
        }
    }
}

fn is_our_span(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target().split("::").next().unwrap_or_default();
    metadata.is_span()
        && *metadata.level() <= Level::INFO
        && ["coordinator", "worker", "lithogen_cli"].contains(&target)
}

/// The chain of causes on one line, each said once.
fn describe(error: &anyhow::Error) -> String {
    let mut said: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if !said.iter().any(|earlier| earlier.contains(&cause)) {
            said.push(cause);
        }
    }
    said.join(": ")
}

fn dispatch(cli: Cli) -> anyhow::Result<()> {
    let quiet = cli.quiet;
    match cli.command {
        #[cfg(feature = "worker")]
        Command::Attempt { folder } => commands::attempt::run(&folder),
        #[cfg(feature = "worker")]
        Command::Guard => block_on(async { Ok(worker::reaper::run().await?) }),
        #[cfg(feature = "worker")]
        Command::Bench(args) => commands::bench::run(&args, quiet),
        #[cfg(feature = "worker")]
        Command::Dataset(args) => commands::dataset::run(&args, quiet),
        #[cfg(feature = "worker")]
        Command::Model(args) => commands::model::run(&args),
        #[cfg(feature = "worker")]
        Command::Weights(args) => block_on(commands::weights::run(&args, quiet)),
        #[cfg(feature = "worker")]
        Command::Reproduce(args) => block_on(commands::reproduce::run(&args, quiet)),
        Command::Worker(args) => block_on(commands::worker::run(args)),
        Command::Artifact(args) => block_on(commands::artifact::run(&args)),
        Command::Token(args) => block_on(commands::token::run(args.command)),
        Command::Login(args) => block_on(commands::login::run(&args)),
        Command::Exec(args) => block_on(commands::exec::run(&args)),
        Command::Wait(run) => block_on(commands::watch::wait(&run)),
        Command::Pause(args) => block_on(commands::pause::pause(&args)),
        Command::Resume(args) => block_on(commands::pause::resume(&args)),
        Command::Task(args) => block_on(commands::task::run(&args.command)),
        Command::Cancel(args) => block_on(commands::cancel::run(&args)),
        Command::Completions { shell } => {
            commands::completions::run(shell);
            Ok(())
        }
        Command::Config(args) => commands::config::run(&args),
        Command::Coordinator(args) => block_on(commands::coordinator::run(args)),
        Command::Journal(args) => commands::journal::run(&args.command),
        Command::Cell(args) => block_on(commands::cell::run(&args.command)),
        Command::Paper(args) => commands::paper::run(&args.command),
        Command::Plan(args) => block_on(commands::plan::run(&args, quiet)),
        Command::Results(args) => block_on(commands::results::run(&args)),
        Command::Status(args) => block_on(commands::status::run(&args)),
        Command::Submit(args) => block_on(commands::submit::run(&args, quiet)),
        Command::Watch(args) => block_on(commands::watch::run(&args, quiet)),
    }
}

fn block_on(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(command);
    // What an interrupt left behind must not be waited for.
    runtime.shutdown_timeout(std::time::Duration::from_millis(100));
    ended
}
