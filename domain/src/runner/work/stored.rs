//! The stored forms of [`Work`](super::Work), past and present. Programs before 2026-11-28 did
//! not store the kind of work.

use std::sync::Arc;

use serde::Deserialize;

use crate::runner::command::Commands;
use crate::study::experiment::Experiment;
use crate::study::plan::Data;

/// All fields of all kinds of work.
#[derive(Deserialize)]
pub(super) struct Work {
    kind: Option<String>,
    experiment: Option<Box<Experiment>>,
    data: Option<Data>,
    commands: Option<Arc<Commands>>,
}

impl TryFrom<Work> for super::Work {
    type Error = String;

    fn try_from(stored: Work) -> Result<Self, String> {
        let Work { kind, experiment, data, commands } = stored;
        match (kind.as_deref(), experiment, data, commands) {
            (Some("study") | None, Some(experiment), Some(data), None) => Ok(Self::Study { experiment, data }),
            (Some("commands") | None, None, None, Some(commands)) => Ok(Self::Commands { commands }),
            (None | Some("study" | "commands"), ..) => Err("work is neither a study nor commands".to_owned()),
            (Some(kind), ..) => Err(format!("work of the kind {kind:?} is of a newer program")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::Work;
    use super::*;

    #[test]
    fn work_says_its_kind_and_is_read_without_it() {
        let study = Work::Study { experiment: Box::default(), data: Data::of_the_paper() };
        let commands = Work::Commands { commands: Arc::default() };
        for (work, kind) in [(study, "study"), (commands, "commands")] {
            let mut json = serde_json::to_value(&work).unwrap();
            assert_eq!(serde_json::from_value::<Work>(json.clone()).unwrap(), work);
            assert_eq!(json.as_object_mut().unwrap().remove("kind"), Some(Value::from(kind)));
            assert_eq!(serde_json::from_value::<Work>(json.clone()).unwrap(), work);
            json["kind"] = "sweep".into();
            let error = serde_json::from_value::<Work>(json).unwrap_err().to_string();
            assert_eq!(error, "work of the kind \"sweep\" is of a newer program");
        }
        assert!(serde_json::from_value::<Work>(json!({ "kind": "study" })).is_err());
    }
}
