//! Any program as a task: the commands of `lithogen exec` and of `[[command]]` in a spec, and
//! the tasks planned from them.

mod plan;

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Table;

pub use self::plan::plan;
use crate::resources::{InvalidResources, Resources};
use crate::study::overrides::{self, SpecFile};

/// Most commands of one submission.
pub const COMMANDS_MAX: usize = 10_000;

/// Most tasks of one submission, which is decided and written as a whole while nobody else is
/// answered.
pub const TASKS_MAX: u64 = 100_000;

/// Most inputs of all tasks of one submission together.
pub const INPUTS_MAX: u64 = 1_000_000;

/// Most bytes of one task's arguments, environment, line, labels and inputs: a worker gets them
/// in one message.
pub const TASK_BYTES_MAX: u64 = 2 << 20;

/// Most bytes of the arguments, environments, lines, labels and inputs of all tasks of one
/// submission: the journal holds them for each task.
pub const BYTES_MAX: u64 = 64 << 20;

/// Most different demands on workers among the tasks of one submission: every worker that asks
/// for work checks each of them.
pub const DEMANDS_MAX: usize = 64;

/// Most bytes of a submission's id.
pub const ID_MAX: usize = 100;

/// Commands that are submitted together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Commands {
    /// Sets this submission apart from all others, so that its commands run even if the same
    /// commands ran before. With an empty id, commands that have a result do not run again.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The commands, each after those whose results it reads.
    pub command: Vec<CommandSpec>,
}

impl Commands {
    /// The commands that a file asks for; none if the file describes a study. A file with
    /// `[[command]]` in it describes no study.
    ///
    /// # Errors
    /// The first thing that is wrong, and where.
    pub fn from_file(file: SpecFile<'_>) -> Result<Option<Self>, overrides::Error> {
        let table: Table = file.text.parse().map_err(|error| overrides::locate(file, &error))?;
        if !table.contains_key("command") {
            return Ok(None);
        }
        toml::from_str(file.text).map(Some).map_err(|error| overrides::locate(file, &error))
    }
}

/// One command, which runs once, or once for each index or line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandSpec {
    /// The command's name, unique within the submission.
    pub name: String,
    /// The program and its arguments; no shell interprets them.
    pub argv: Vec<String>,
    /// Environment variables set for the program.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// The command's inputs, by the names of the folders in which the program finds them:
    /// `artifact:<digest>`, or `task:<name>` for the outputs of an earlier command.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, String>,
    /// First and last index; the command runs once for each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<[u64; 2]>,
    /// Lines; the command runs once for each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<String>,
    /// Resources that each task occupies.
    #[serde(default)]
    pub resources: Resources,
}

/// Which command of a submission is wrong, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("command {name:?}: {problem}")]
pub struct InvalidCommand {
    /// Name of the command.
    pub name: String,
    /// What is wrong, and what would be right.
    pub problem: Problem,
}

/// What is wrong with a command; see [`InvalidCommand`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The name is empty or has characters that paths and subjects cannot have.
    Name,
    /// Another command has the same name.
    DuplicateName,
    /// There is no program.
    Empty,
    /// The command has both an array and lines.
    ArrayAndLines,
    /// The last index is smaller than the first.
    Range,
    /// Together with those before it, there are more commands than [`COMMANDS_MAX`].
    Commands(usize),
    /// The submission's id has more bytes than [`ID_MAX`].
    Id(usize),
    /// Together with the commands before it, there are more tasks than [`TASKS_MAX`].
    Tasks(u64),
    /// Together with the commands before it, there are more inputs than [`INPUTS_MAX`].
    Inputs(u64),
    /// One of the command's tasks has more bytes than [`TASK_BYTES_MAX`].
    TaskBytes(u64),
    /// Together with the commands before it, there are more bytes than [`BYTES_MAX`].
    Bytes(u64),
    /// Together with the commands before it, there are more different demands than
    /// [`DEMANDS_MAX`].
    Demands,
    /// The name or the source of an input is wrong.
    Input(String),
    /// The requested resources are invalid.
    Resources(InvalidResources),
    /// The command is the same as the one of that name.
    DuplicateWork(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Name => f.write_str("a name has 1 to 60 letters, digits, `-`, `_` or `.`"),
            Problem::DuplicateName => f.write_str("the name stands twice"),
            Problem::Empty => f.write_str("argv names no program"),
            Problem::ArrayAndLines => f.write_str("has both an array and lines; give one of them"),
            Problem::Range => f.write_str("the array's last index is smaller than its first"),
            Problem::Commands(count) => {
                write!(f, "is one of {count} commands, a submission has at most {COMMANDS_MAX}; submit them in parts")
            }
            Problem::Id(bytes) => write!(f, "the id of its submission has {bytes} bytes, at most {ID_MAX} are taken"),
            Problem::Tasks(count) => write!(
                f,
                "makes {count} tasks with those of the commands above, a submission has at most {TASKS_MAX}; \
                 submit it in parts"
            ),
            Problem::Inputs(count) => write!(
                f,
                "its tasks read {count} inputs with those of the commands above, a submission has at most \
                 {INPUTS_MAX}; let one task gather what others read, or submit it in parts"
            ),
            Problem::TaskBytes(bytes) => write!(
                f,
                "a task of it has {bytes} bytes of arguments, environment, labels and inputs, at most \
                 {TASK_BYTES_MAX} are taken; let it read a file as an input, or gather inputs in steps"
            ),
            Problem::Bytes(bytes) => write!(
                f,
                "all tasks down to its own have {bytes} bytes of arguments, environment, labels and inputs, at most \
                 {BYTES_MAX} are taken; let them read a file as an input, or submit them in parts"
            ),
            Problem::Demands => write!(
                f,
                "its resources are others than those of the commands above, of which there are {DEMANDS_MAX} \
                 different ones, as many as a submission may have"
            ),
            Problem::Input(input) => write!(
                f,
                "input {input}: a name without slashes and `artifact:<digest>` or `task:<name of a command above>`"
            ),
            Problem::Resources(problem) => problem.fmt(f),
            Problem::DuplicateWork(other) => {
                write!(
                    f,
                    "does just what {other:?} does, whose result it would get; leave it out, or let something differ"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_commands_is_no_study() {
        let of = |text| Commands::from_file(SpecFile { name: "spec.toml", text });
        let spec = "[[command]]\nname = \"a\"\nargv = [\"true\"]\nresources.slots = 2\n";
        let asked = of(spec).unwrap().unwrap();
        assert_eq!((asked.command[0].name.as_str(), asked.command[0].resources.slots), ("a", 2));
        assert_eq!(of("scale = \"tiny\"").unwrap(), None);
        let wrong = of("[[command]]\nname = \"a\"\nargs = []\n").unwrap_err().to_string();
        assert!(wrong.starts_with("spec.toml:3:1: unknown field `args`"), "{wrong}");
        let both = of("scale = \"tiny\"\n[[command]]\nname = \"a\"\nargv = []\n").unwrap_err().to_string();
        assert!(both.contains("unknown field `scale`"), "{both}");
    }
}
