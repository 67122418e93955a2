//! What worker and child agree on.

use std::io;
use std::path::Path;

use domain::seed::Seed;
use domain::study::stage::{Cadence, Progress, Stage};
use serde::{Deserialize, Serialize};

/// Name of the order's file.
pub const ORDER: &str = "order.json";

/// Name of the file that says why there is no result.
pub const FAILURE: &str = "failure.json";

/// Name of the file with what the child said on standard error.
pub const LOG: &str = "log.txt";

/// The line that asks the child to end.
pub const STOP: &str = "stop";

/// What the child is to do: `order.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// The stage with its parameters.
    pub stage: Stage,
    /// Root of the stage's random numbers.
    pub seed: Seed,
    /// How often to leave a checkpoint. The cadence changes no result, so it is no part
    /// of the task's key.
    #[serde(default)]
    pub checkpoint: Cadence,
}

impl Order {
    /// Reads the order in an attempt's folder.
    ///
    /// # Errors
    /// If there is no order, or one that does not decode.
    pub fn read(folder: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(folder.join(ORDER))?)?)
    }
}

/// What the child says on standard output, one JSON object a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// How far the stage is.
    Progress(Progress),
    /// `checkpoints/<checkpoint>/` is whole. Whoever reads this may take the folder away.
    Checkpoint {
        /// Steps done.
        checkpoint: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_orders_have_the_forms_that_programs_rely_on() {
        let half = Progress { done: 1, total: 2, note: "half".into(), ..Progress::default() };
        let values = [("lr", 1e-3), ("loss", 0.1)].into_iter().collect();
        let with_values = Progress { values, ..half.clone() };
        for (line, text) in [
            (Line::Progress(half), r#"{"done":1,"total":2,"note":"half"}"#),
            (Line::Progress(with_values), r#"{"done":1,"total":2,"note":"half","values":{"loss":0.1,"lr":0.001}}"#),
            (Line::Checkpoint { checkpoint: 40 }, r#"{"checkpoint":40}"#),
        ] {
            assert_eq!(serde_json::to_string(&line).unwrap(), text);
            assert_eq!(serde_json::from_str::<Line>(text).unwrap(), line);
        }
        let hostile = r#"{"done":1,"total":2,"note":"half","values":{"a b":1,"loss":1e400}}"#;
        assert!(serde_json::from_str::<Line>(hostile).is_err());
        let seed = serde_json::to_string(&Seed(7)).unwrap();
        let plain = format!(r#"{{"stage":{{"stage":"report"}},"seed":{seed}}}"#);
        assert_eq!(serde_json::from_str::<Order>(&plain).unwrap().checkpoint, Cadence::default());
    }
}
