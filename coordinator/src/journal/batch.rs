//! The stored form of events: those of one transaction together.

use domain::event::Event;

use super::Error;

/// Events that were appended together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// Number of the first.
    pub(super) first: u64,
    /// Number of the last.
    pub(super) last: u64,
    /// Milliseconds since 1970, when they were decided.
    pub(super) at_ms: i64,
    /// The events as a JSON array.
    pub(super) events: String,
    /// blake3 of all of this: databases do not check what they read.
    pub(super) digest: Vec<u8>,
}

impl Batch {
    /// Packs events of which the first gets that number.
    pub(super) fn pack(first: u64, at_ms: i64, events: &[Event]) -> Self {
        let last = first + events.len() as u64 - 1;
        let events = serde_json::to_string(events).expect("events serialise to JSON");
        let digest = digest(first, last, at_ms, &events);
        Self { first, last, at_ms, events, digest }
    }

    fn unpack(&self, place: &str) -> Result<Vec<Event>, Error> {
        let Self { first, last, .. } = *self;
        let place = || place.to_owned();
        if self.digest != digest(first, last, self.at_ms, &self.events) {
            let problem = format!("the checksum of events {first} to {last} does not match");
            return Err(Error::Damaged { place: place(), problem });
        }
        let problem = match serde_json::from_str::<Vec<Event>>(&self.events) {
            Ok(events) if events.len() as u64 == last - first + 1 => return Ok(events),
            Ok(events) => format!("they are {}", events.len()),
            Err(error) => error.to_string(),
        };
        Err(Error::Event { place: place(), first, last, problem })
    }
}

/// Reads batches one after the other and sees to it that none is missing.
pub(super) struct Replay<'a> {
    place: &'a str,
    after: u64,
    last: u64,
    apply: &'a mut dyn FnMut(u64, i64, Event),
}

impl<'a> Replay<'a> {
    /// Hands the events after a number to `apply`.
    pub(super) fn new(place: &'a str, after: u64, apply: &'a mut dyn FnMut(u64, i64, Event)) -> Self {
        Self { place, after, last: after, apply }
    }

    /// Takes the next batch.
    pub(super) fn take(&mut self, batch: &Batch) -> Result<(), Error> {
        let begins = batch.first <= self.last + 1 && (batch.first == self.last + 1 || self.last == self.after);
        if !begins || batch.last < batch.first {
            return Err(self.damaged(format!("event {} is followed by event {}", self.last, batch.first)));
        }
        for (number, event) in (batch.first..).zip(batch.unpack(self.place)?) {
            if number > self.after {
                (self.apply)(number, batch.at_ms, event);
            }
        }
        self.last = batch.last;
        Ok(())
    }

    /// Sees to it that nothing is missing at the end.
    pub(super) fn end(self, last: u64) -> Result<(), Error> {
        match self.last == last {
            true => Ok(()),
            false => Err(self.damaged(format!("event {} was expected after event {}", last, self.last))),
        }
    }

    fn damaged(&self, problem: String) -> Error {
        Error::Damaged { place: self.place.to_owned(), problem }
    }
}

fn digest(first: u64, last: u64, at_ms: i64, events: &str) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&first.to_le_bytes()).update(&last.to_le_bytes()).update(&at_ms.to_le_bytes());
    hasher.update(events.as_bytes());
    hasher.finalize().as_bytes().to_vec()
}
