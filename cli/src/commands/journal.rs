//! `lithogen journal`.

use std::fs::File;
use std::path::Path;

use anyhow::Context;
use coordinator::journal::recover::{self, Recovered};
use coordinator::journal::{Location, backup};

use crate::args::{JournalCommand, JournalUrl};
use crate::exit::{self, Problem};
use crate::out;

/// Copies a journal, or makes it one that is served.
///
/// # Errors
/// If there is none, it is in use, cannot be read or cannot be written.
pub fn run(command: &JournalCommand) -> anyhow::Result<()> {
    match command {
        JournalCommand::Backup { file, state } => backup(&state.state, file),
        JournalCommand::Recover { dry_run, journal, state } => recover(&state.state, journal.as_ref(), *dry_run),
    }
}

fn backup(state: &Path, file: &Path) -> anyhow::Result<()> {
    let journal = journal_of(state)?;
    let last = backup::file(&journal, file)?;
    out::line(format_args!("{} has events 1 to {last}; copy the folder of files after it", file.display()));
    Ok(())
}

fn recover(state: &Path, url: Option<&JournalUrl>, dry: bool) -> anyhow::Result<()> {
    let _lock = lock(state)?;
    let recovered = match url {
        Some(url) => recover::postgres(&url.server()?, &coordinator::Config::new(state).postgres_mark(), dry)?,
        None => recover::file(&journal_of(state)?, dry)?,
    };
    say(&recovered, dry);
    Ok(())
}

fn lock(state: &Path) -> anyhow::Result<File> {
    std::fs::metadata(state).with_context(|| format!("cannot use {}", state.display()))?;
    Ok(proto::private::lock(state).map_err(coordinator::Error::from)?)
}

/// The journal of a state folder, if it has one or had.
fn journal_of(state: &Path) -> anyhow::Result<std::path::PathBuf> {
    match coordinator::Config::new(state).journal {
        Location::File(path) if recover::is_there(&path) => Ok(path),
        _ => {
            let message = format!(
                "there is no journal in {}; one in PostgreSQL is copied by pg_dump, and named by --journal",
                state.display()
            );
            Err(Problem::new(exit::ERROR, message).into())
        }
    }
}

fn say(recovered: &Recovered, dry: bool) {
    let Recovered { problem, kept, known, aside } = recovered;
    let Some(problem) = problem else {
        out::line(format_args!("nothing is wrong: events 1 to {kept} are there; nothing was changed"));
        return;
    };
    out::line(format_args!("problem  {problem}"));
    match kept {
        0 => out::line("kept     nothing"),
        kept => out::line(format_args!("kept     events 1 to {kept}")),
    }
    match known {
        Some(known) if known > kept => {
            out::line(format_args!("lost     events {} to {known}", kept + 1));
            out::line("         their files are still there: submit again before `artifact gc` removes them");
        }
        Some(_) => out::line("lost     nothing"),
        None => out::line(format_args!(
            "lost     perhaps what came after event {kept}: nothing says whether there was more"
        )),
    }
    match aside {
        Some(aside) => out::line(format_args!("aside    {} has everything as it was", aside.display())),
        None if dry => out::line("nothing was changed; without --dry-run it is"),
        None => {}
    }
}
