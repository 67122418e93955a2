//! Recovering a journal from a damaged disk, without what is lost.
//!
//! Recovery keeps the longest beginning of the history that can be read: of the journal as it
//! is, if a coordinator could start from it, or else of its events, from which everything else
//! can be rebuilt. The previous files are copied first. The recovered journal is assembled
//! beside the damaged one and replaces it by one renaming; until then, the same command starts
//! again or continues, and no coordinator starts.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use domain::runner::event::Event;
use domain::runner::scheduler::Scheduler;
use proto::clock::now_ms;

use super::leader::{Candidacy, Candidate};
use super::mark::{MarkFile, Refusal, sync_folder_of};
use super::postgres::Server;
use super::sqlite::{Sqlite, mark_file, recovered_file, remove_database, remove_logs};
use super::{Error, Journal, backup, beside, replay};
use crate::history;

/// Number of events that are assumed lost where nothing says how many were.
const UNKNOWN: u64 = 1_000_000;

/// Most events of the same time that share a batch.
const BATCH: usize = 256;

/// The outcome of a recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Why the journal was not served; none if it is served as it is.
    pub problem: Option<String>,
    /// Number of the last event that is kept.
    pub kept: u64,
    /// Number of the last event that the journal had; none if unknown.
    pub known: Option<u64>,
    /// Folder with copies of the previous files; none if nothing was changed.
    pub aside: Option<PathBuf>,
}

/// Recovers the journal at `path`, keeping as much of it as can be read, so that it is served
/// again. With `dry`, changes nothing and reports the outcome. No coordinator may use the
/// journal meanwhile.
///
/// # Errors
/// If the journal cannot be opened, is of another version, or the disk is full. The same
/// command may be tried again.
pub fn file(path: &Path, dry: bool) -> Result<Recovered, Error> {
    let failed = |cause| write_error(path, cause);
    let done = recovered_file(path);
    let marked = MarkFile::open(&mark_file(path))?.and_then(|mark| mark.places.newest()).map(|mark| mark.number);
    if done.exists() {
        // What it kept is whole, and what there was is aside.
        let kept = Sqlite::open_unmarked(&done)?.newest()?.number;
        if !dry {
            take_its_place(path)?;
        }
        let problem = Some(Refusal::Recovering.to_string());
        return Ok(Recovered { problem, kept, known: marked.map(|marked| marked.max(kept)), aside: None });
    }
    let problem = match served(path) {
        Ok(kept) => return Ok(Recovered { problem: None, kept, known: Some(kept), aside: None }),
        Err(error @ (Error::Damaged { .. } | Error::Refused { .. } | Error::Event { .. })) => error,
        Err(error) => return Err(error),
    };
    let aside = if dry { None } else { Some(copy_aside(path).map_err(failed)?) };
    let draft = beside(path, "-recovering");
    remove_database(&draft).map_err(failed)?;
    let (kept, last) = keep(path, &draft)?;
    let known = known(&problem, marked, last);
    if dry {
        remove_database(&draft).map_err(failed)?;
    } else {
        note_loss(&mut Sqlite::open_unmarked(&draft)?, known, kept)?;
        Sqlite::open_unmarked(&draft)?.close()?;
        std::fs::rename(&draft, &done).and_then(|()| sync_folder_of(path)).map_err(failed)?;
        take_its_place(path)?;
    }
    Ok(Recovered { problem: Some(problem.to_string()), kept, known, aside })
}

/// Lets this coordinator serve the journal in a database as it is, for instance after the
/// database was restored from a backup. `mark` is the file in which the coordinator noted how
/// far the journal had come. With `dry`, changes nothing.
///
/// # Errors
/// If the database cannot be reached or read, or another coordinator leads.
pub fn postgres(server: &Server, mark: &Path, dry: bool) -> Result<Recovered, Error> {
    let lead = match Candidate::new(server, "a recovery")?.stand()? {
        Candidacy::Leads(lead) => lead,
        Candidacy::Stands { leader } => return Err(Error::Led { place: server.place(), leader }),
    };
    let recovered = recover_led(server, lead.opener(), mark, dry);
    lead.release();
    recovered
}

fn recover_led(
    server: &Server,
    open: impl FnOnce() -> Result<Box<dyn Journal>, Error>,
    mark: &Path,
    dry: bool,
) -> Result<Recovered, Error> {
    let marked = MarkFile::open(mark)?;
    let mut journal = open()?;
    replay::check(journal.as_mut())?;
    let kept = journal.last();
    let problem = match server.check(marked.as_ref())? {
        Ok(()) => return Ok(Recovered { problem: None, kept, known: Some(kept), aside: None }),
        Err(refusal) => Error::Refused { place: server.place(), refusal },
    };
    let marked = marked.and_then(|mark| mark.places.newest()).map(|mark| mark.number);
    let known = known(&problem, marked, kept);
    let mut aside = None;
    if !dry {
        let old = beside(mark, &format!("-damaged-{}", now_ms()));
        std::fs::copy(mark, &old).map_err(|cause| write_error(&old, cause))?;
        note_loss(journal.as_mut(), known, kept)?;
        MarkFile::create(mark, server.newest()?)?;
        aside = Some(old);
    }
    Ok(Recovered { problem: Some(problem.to_string()), kept, known, aside })
}

/// Whether there is, or was, a journal at `path`.
pub fn is_there(path: &Path) -> bool {
    [path.to_owned(), mark_file(path), recovered_file(path)].iter().any(|file| file.exists())
}

/// Opens the journal as a starting coordinator does; returns the number of its last event.
fn served(path: &Path) -> Result<u64, Error> {
    let mut journal = Sqlite::open(path)?;
    replay::check(&mut journal)?;
    Ok(journal.last())
}

/// Number of the last event that the journal had, if anything says so.
fn known(problem: &Error, marked: Option<u64>, last: u64) -> Option<u64> {
    match problem {
        Error::Refused { refusal: Refusal::Differs { .. } | Refusal::Missing | Refusal::Unreadable, .. } => None,
        _ => marked.map(|marked| marked.max(last)),
    }
}

/// Notes the loss in the journal, so that no fencing token is granted a second time.
fn note_loss(journal: &mut dyn Journal, known: Option<u64>, kept: u64) -> Result<(), Error> {
    match known.map_or(UNKNOWN, |known| known.saturating_sub(kept)) {
        0 => Ok(()),
        events => journal.append(now_ms(), &[Event::HistoryLost { events }], &[]),
    }
}

/// Makes a journal at `draft` with as much as can be read; returns the number of its last
/// event, and that of the last event found.
fn keep(path: &Path, draft: &Path) -> Result<(u64, u64), Error> {
    if is_empty(path) {
        Sqlite::open_unmarked(draft)?.close()?;
        return Ok((0, 0));
    }
    let (kept, last) = replayed(path, draft)?;
    let whole = Sqlite::open_unmarked(path).and_then(|mut journal| {
        replay::check(&mut journal)?;
        Ok((journal.last(), journal.is_sound()))
    });
    match whole {
        // If that is more than the events are good for, a snapshot stands for the others.
        Ok((whole, is_sound)) if whole > kept || whole == kept && is_sound => {
            remove_database(draft).map_err(|cause| write_error(draft, cause))?;
            backup::copy(path, draft)?;
            Ok((whole, last.max(whole)))
        }
        _ => Ok((kept, last)),
    }
}

/// Makes a journal at `draft` from the events that can be read; returns the number of the last
/// of these, and that of the last event found.
fn replayed(path: &Path, draft: &Path) -> Result<(u64, u64), Error> {
    let (mut events, mut last) = (vec![], 0);
    let read = Sqlite::open_as_found(path).and_then(|mut found| {
        last = found.last();
        found.replay(0, &mut |_, at_ms, event| events.push((at_ms, event)))
    });
    match read {
        // What comes after the first that cannot be read is no history.
        Ok(()) | Err(Error::Damaged { .. } | Error::Event { .. }) => {}
        Err(error) => return Err(error),
    }
    let mut journal = Sqlite::open_unmarked(draft)?;
    let mut scheduler = Scheduler::default();
    for batch in events.chunk_by(|a, b| a.0 == b.0).flat_map(|events| events.chunks(BATCH)) {
        let (at_ms, first) = (batch[0].0, journal.last() + 1);
        let mut rows = vec![];
        for (number, (_, event)) in (first..).zip(batch) {
            rows.extend(history::rows(number, at_ms, event, &scheduler));
            scheduler.apply(event);
        }
        let events: Vec<Event> = batch.iter().map(|(_, event)| event.clone()).collect();
        journal.append(at_ms, &events, &rows)?;
    }
    let kept = journal.last();
    journal.close()?;
    Ok((kept, last.max(kept)))
}

/// Copies the journal's files to a new folder; the copies are on disk when this returns.
fn copy_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = beside(path, &format!("-damaged-{}", now_ms()));
    std::fs::create_dir(&aside)?;
    for ending in ["", "-wal", "-mark"] {
        let from = beside(path, ending);
        let (Some(name), true) = (from.file_name(), from.exists()) else { continue };
        let to = aside.join(name);
        std::fs::copy(&from, &to)?;
        File::open(to)?.sync_all()?;
    }
    File::open(&aside)?.sync_all()?;
    sync_folder_of(path)?;
    Ok(aside)
}

/// Moves the recovered journal into its place, with a mark of its own. Whenever this is
/// interrupted, doing it again completes it.
fn take_its_place(path: &Path) -> Result<(), Error> {
    let failed = |cause| write_error(path, cause);
    let done = recovered_file(path);
    let end = Sqlite::open_unmarked(&done)?.newest()?;
    // A log of the old file would be taken for one of the new.
    remove_logs(path).and_then(|()| remove_logs(&done)).and_then(|()| sync_folder_of(path)).map_err(failed)?;
    MarkFile::create(&mark_file(path), end)?;
    std::fs::rename(&done, path).and_then(|()| sync_folder_of(path)).map_err(failed)
}

fn is_empty(path: &Path) -> bool {
    std::fs::metadata(path).map_or(true, |file| file.len() == 0)
}

fn write_error(path: &Path, cause: io::Error) -> Error {
    Error::Write { place: path.display().to_string(), cause: cause.into() }
}
