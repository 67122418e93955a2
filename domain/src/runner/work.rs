//! The work of a run: what was submitted.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::runner::command::Commands;
use crate::study::experiment::Experiment;
use crate::study::plan::Data;

mod stored;

/// The work of a run. A stored format, in which `kind` names the variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", try_from = "stored::Work")]
pub enum Work {
    /// A study.
    Study {
        /// The spec that the study was planned from.
        experiment: Box<Experiment>,
        /// The data that the study was planned for.
        data: Data,
    },
    /// Programs of the submitter.
    Commands {
        /// The submitted commands.
        commands: Arc<Commands>,
    },
}

impl Work {
    /// The title for people: the preset's name, or the first command's.
    pub fn title(&self) -> &str {
        match self {
            Work::Study { experiment, .. } => experiment.scale.name(),
            Work::Commands { commands } => commands.command.first().map_or("nothing", |command| &command.name),
        }
    }

    /// The weight of a run of this work, without its tasks, in the limit on what is kept for
    /// its submitter: 1, and 1 more for each KiB.
    pub fn weight(&self) -> u64 {
        1 + serde_json::to_vec(self).map_or(0, |json| json.len() as u64 / 1024)
    }
}
