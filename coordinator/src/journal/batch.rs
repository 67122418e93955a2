//! The stored form of events: one batch per transaction.

use domain::runner::event::Event;

use super::Error;

/// Events that were appended together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// Number of the first event.
    pub(super) first: u64,
    /// Number of the last event.
    pub(super) last: u64,
    /// When the events were decided, in milliseconds since 1970.
    pub(super) at_ms: i64,
    /// The events as a JSON array.
    pub(super) events: String,
    /// blake3 of all other fields: databases do not check what they read.
    pub(super) digest: Vec<u8>,
}

impl Batch {
    /// Packs events of which the first has the number `first`.
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

/// Reads batches in order and checks that none is missing.
pub(super) struct Replay<'a> {
    place: &'a str,
    after: u64,
    last: u64,
    apply: &'a mut dyn FnMut(u64, i64, Event),
}

impl<'a> Replay<'a> {
    /// A replay that hands the events after number `after` to `apply`.
    pub(super) fn new(place: &'a str, after: u64, apply: &'a mut dyn FnMut(u64, i64, Event)) -> Self {
        Self { place, after, last: after, apply }
    }

    /// Checks the next batch and hands out its events.
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

    /// Checks that no event is missing up to `last`.
    pub(super) fn end(self, last: u64) -> Result<(), Error> {
        if self.last != last {
            return Err(self.damaged(format!("event {} was expected after event {}", last, self.last)));
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::journal::snapshot::Snapshot;

    fn read(batch: &Batch) -> Result<Vec<Event>, Error> {
        let mut events = vec![];
        let mut apply = |_, _, event| events.push(event);
        let mut replay = Replay::new("here", 0, &mut apply);
        replay.take(batch)?;
        replay.end(batch.last)?;
        Ok(events)
    }

    /// A batch with a valid checksum, as an attacker or another program could write.
    fn signed(first: u64, last: u64, events: String) -> Batch {
        let digest = digest(first, last, 0, &events);
        Batch { first, last, at_ms: 0, events, digest }
    }

    proptest! {
        /// Whatever is stored, reading it is an error or gives what was written.
        #[test]
        fn altered_batches_are_errors(place in any::<prop::sample::Index>(), bit in 0..7u8, at in 0..5usize) {
            let event: Event = serde_json::from_str(
                r#"{"event":"lease_released","task":"0000000000000000000000000000000000000000000000000000000000000000","token":7,"why":"lost"}"#,
            ).unwrap();
            let whole = Batch::pack(1, 5, &[event.clone(), event]);
            let mut altered = whole.clone();
            match at {
                0 => altered.first ^= 1 << bit,
                1 => altered.last ^= 1 << bit,
                2 => altered.at_ms ^= 1 << bit,
                3 => {
                    let mut bytes = altered.events.into_bytes();
                    let place = place.index(bytes.len());
                    bytes[place] ^= 1 << bit;
                    altered.events = String::from_utf8_lossy(&bytes).into_owned();
                }
                _ => { let place = place.index(32); altered.digest[place] ^= 1 << bit }
            }
            prop_assert!(read(&altered).is_err());
            prop_assert_eq!(read(&whole).unwrap().len(), 2);
        }

        #[test]
        fn any_text_as_events_is_an_error_or_events(text in any::<String>(), count in 1..4u64) {
            let _ = read(&signed(1, count, text));
        }

        #[test]
        fn events_with_any_values_are_errors_or_events(
            name in "run_submitted|lease_granted|task_committed|attempt_failed|lease_released|run_cancelled|x",
            values in prop::collection::vec("null|-1|\\[\\]|\\{\\}|1e400|\"\\PC{0,8}\"|18446744073709551616", 10),
        ) {
            let fields = ["task", "worker", "token", "attempt", "request", "run", "why", "failure", "tasks", "experiment"];
            let fields: Vec<String> =
                fields.iter().zip(values).map(|(field, value)| format!("\"{field}\":{value}")).collect();
            let text = format!("[{{\"event\":\"{name}\",{}}}]", fields.join(","));
            let _ = read(&signed(1, 1, text));
        }

        #[test]
        fn any_bytes_as_a_snapshot_are_an_error(packed in prop::collection::vec(any::<u8>(), 0..300)) {
            let digest = vec![0; 32];
            let forged = Snapshot { number: 1, packed: packed.clone(), digest };
            prop_assert!(forged.unpack().is_err());
            // And with a checksum that fits.
            let mut snapshot = Snapshot::pack(1, &packed).unwrap();
            prop_assert_eq!(snapshot.unpack().unwrap(), packed.clone());
            snapshot.packed.truncate(packed.len() / 2);
            prop_assert!(snapshot.unpack().is_err());
        }
    }
}
