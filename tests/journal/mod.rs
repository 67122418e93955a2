//! The journal, whichever database holds it.

mod conformance;
mod database;
mod file;

use coordinator::journal::{Journal, Sqlite};
use domain::runner::event::Event;

/// Opens the journal in a folder.
fn open(folder: &std::path::Path) -> Sqlite {
    Sqlite::open(&folder.join("journal.sqlite")).unwrap()
}

/// All events after a number, with their times.
fn events(journal: &mut dyn Journal, after: u64) -> Vec<(i64, Event)> {
    let mut events = vec![];
    let mut expected = after;
    let mut take = |number: u64, at_ms, event| {
        expected += 1;
        assert_eq!(number, expected);
        events.push((at_ms, event));
    };
    journal.replay(after, &mut take).unwrap();
    events
}
