//! What a disk keeps of a journal: whole batches up to some place, and the mark.

use coordinator::journal::mark::{Mark, Places, Refusal};
use domain::digest::Digest;

use crate::harness::dice::Dice;

/// A journal's batches by the marks that are right for them. Their events are the
/// world's to keep.
pub(super) struct Disk {
    batches: Vec<Mark>,
    /// Batches that are no longer in the log only, which nothing harms here.
    folded: usize,
    /// The mark, as it is stored.
    places: Vec<u8>,
    /// Batches ever written, so that each is like no other.
    written: u64,
    /// Whether anything was lost that nobody has found yet.
    pub(super) harmed: bool,
}

impl Disk {
    pub(super) fn new() -> Self {
        Self { batches: vec![], folded: 0, places: Places::new(Mark::none()).bytes(), written: 0, harmed: false }
    }

    /// Number of the last event.
    pub(super) fn last(&self) -> u64 {
        self.batches.last().map_or(0, |batch| batch.number)
    }

    /// Events are appended to the log.
    pub(super) fn append(&mut self, events: usize) {
        self.written += 1;
        let (number, digest) = (self.last() + events as u64, Digest::of(&self.written.to_le_bytes()));
        self.batches.push(Mark { number, digest });
    }

    /// The mark follows, or is torn as it is written.
    pub(super) fn note(&mut self, torn: Option<usize>) {
        let Some(last) = self.batches.last() else { return };
        let (offset, line) = Places::parse(&self.places).note(*last);
        let length = torn.unwrap_or(line.len()).min(line.len());
        let place = offset as usize;
        self.places[place..place + length].copy_from_slice(&line[..length]);
    }

    /// The log is folded into the file.
    pub(super) fn fold(&mut self) {
        self.folded = self.batches.len();
    }

    /// The log is torn, or a bit of it flips: what is behind that place is not read.
    pub(super) fn damage(&mut self, dice: &mut Dice) {
        let log = self.batches.len() - self.folded;
        if log > 0 {
            let whole = self.folded + dice.below(log as u64) as usize;
            self.batches.truncate(whole);
            self.harmed = true;
        }
    }

    /// Whether the journal may be served. The mark follows it then.
    pub(super) fn open(&mut self) -> Result<(), Refusal> {
        let mut places = Places::parse(&self.places);
        let is_marked = |mark: Mark| self.batches.iter().copied().find(|batch| batch.number == mark.number);
        places.check(self.last(), places.newest().and_then(is_marked))?;
        if let Some(last) = self.batches.last().filter(|last| places.newest() != Some(**last)) {
            places.note(*last);
            self.places = places.bytes();
        }
        self.harmed = false;
        Ok(())
    }

    /// Somebody says that what is there is to be served.
    pub(super) fn recover(&mut self) {
        self.places = Places::new(self.batches.last().copied().unwrap_or_else(Mark::none)).bytes();
        self.harmed = false;
        self.fold();
    }
}
