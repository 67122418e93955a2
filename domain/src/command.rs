//! Any program as a task: what `lithogen exec` and `[[command]]` in a spec ask
//! for, and the tasks that follow from it.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::plan::{Input, Plan, Source, TaskSpec};
use crate::resources::{InvalidResources, Resources};
use crate::seed::Seed;
use crate::stage::{Command, Stage};

/// Most tasks of one submission.
pub const TASKS_MAX: u64 = 1_000_000;

/// Commands that are submitted together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Commands {
    /// Sets this submission apart from all others, so that what it says is run
    /// although the same was run before. Empty: what has a result is not run again.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The commands, each after those whose results it reads.
    pub command: Vec<CommandSpec>,
}

/// One command, once or once for each index or line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandSpec {
    /// Unique among the commands of a submission.
    pub name: String,
    /// The program and its arguments; no shell looks at them.
    pub argv: Vec<String>,
    /// Variables set for it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// What it reads, by the names of the folders it finds them in:
    /// `artifact:<digest>`, or `task:<name>` for the outputs of an earlier command.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, String>,
    /// First and last index: one task each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<[u64; 2]>,
    /// Lines: one task each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<String>,
    /// What each task occupies.
    #[serde(default)]
    pub resources: Resources,
}

/// What is wrong with a submission of commands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("command {name:?}: {problem}")]
pub struct InvalidCommand {
    /// Which.
    pub name: String,
    /// What is wrong and what would be right.
    pub problem: Problem,
}

/// See [`InvalidCommand`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// No name, or one with characters that paths and subjects cannot have.
    Name,
    /// The name is taken.
    Twice,
    /// No program.
    Empty,
    /// Both an array and lines.
    Both,
    /// The last index is smaller than the first.
    Range,
    /// More tasks than [`TASKS_MAX`].
    Many,
    /// An input's name or source.
    Input(String),
    /// What it asks for.
    Resources(InvalidResources),
    /// It is the same as another, of that name.
    Same(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Name => f.write_str("a name has 1 to 60 letters, digits, `-`, `_` or `.`"),
            Problem::Twice => f.write_str("the name stands twice"),
            Problem::Empty => f.write_str("argv names no program"),
            Problem::Both => f.write_str("has both an array and lines; give one of them"),
            Problem::Range => f.write_str("the array's last index is smaller than its first"),
            Problem::Many => write!(f, "makes more than {TASKS_MAX} tasks; submit it in parts"),
            Problem::Input(input) => write!(
                f,
                "input {input}: a name without slashes and `artifact:<digest>` or `task:<name of a command above>`"
            ),
            Problem::Resources(problem) => problem.fmt(f),
            Problem::Same(other) => {
                write!(
                    f,
                    "does just what {other:?} does, whose result it would get; leave it out, or let something differ"
                )
            }
        }
    }
}

/// The tasks of a submission. An array that reads an array of the same length
/// reads it element by element; otherwise all elements are read, as `<input>.<index>`.
///
/// # Errors
/// Names the first command that is wrong.
pub fn plan(commands: &Commands) -> Result<Plan, InvalidCommand> {
    let mut plan = Plan { tasks: vec![] };
    let mut made: BTreeMap<&str, Vec<(String, Digest)>> = BTreeMap::new();
    let mut seen: BTreeMap<Digest, &str> = BTreeMap::new();
    for spec in &commands.command {
        let wrong = |problem| InvalidCommand { name: spec.name.clone(), problem };
        check(spec).map_err(wrong)?;
        if made.contains_key(spec.name.as_str()) {
            return Err(wrong(Problem::Twice));
        }
        let elements = elements(spec);
        if plan.tasks.len() as u64 + elements.len() as u64 > TASKS_MAX {
            return Err(wrong(Problem::Many));
        }
        let mut keys = Vec::with_capacity(elements.len());
        for (place, (index, line)) in elements.iter().enumerate() {
            let inputs = inputs(spec, place, elements.len(), &made).map_err(wrong)?;
            let (argv, environment) = (spec.argv.clone(), spec.environment.clone());
            let id = commands.id.clone();
            let stage = Stage::Command(Command { id, argv, environment, index: *index, line: line.clone() });
            let (subject, suffix) = match index {
                None => (spec.name.clone(), String::new()),
                Some(index) => (format!("{}.{index}", spec.name), index.to_string()),
            };
            let mut task = TaskSpec::new(subject, stage, inputs, Seed(index.unwrap_or(0)));
            task.resources = spec.resources.clone();
            if let Some(other) = seen.insert(task.key, &spec.name) {
                return Err(wrong(Problem::Same(other.to_owned())));
            }
            keys.push((suffix, task.key));
            plan.tasks.push(task);
        }
        made.insert(&spec.name, keys);
    }
    Ok(plan)
}

fn check(spec: &CommandSpec) -> Result<(), Problem> {
    if !is_plain(&spec.name) {
        return Err(Problem::Name);
    }
    if spec.argv.first().is_none_or(String::is_empty) {
        return Err(Problem::Empty);
    }
    spec.resources.check().map_err(Problem::Resources)?;
    match spec.array {
        Some(_) if !spec.lines.is_empty() => Err(Problem::Both),
        Some([first, last]) if last < first => Err(Problem::Range),
        Some([first, last]) if last - first >= TASKS_MAX => Err(Problem::Many),
        _ => Ok(()),
    }
}

fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=60).contains(&name.len()) && name.chars().all(plain) && !name.starts_with('.')
}

fn elements(spec: &CommandSpec) -> Vec<(Option<u64>, Option<String>)> {
    match spec.array {
        Some([first, last]) => (first..=last).map(|index| (Some(index), None)).collect(),
        None if spec.lines.is_empty() => vec![(None, None)],
        None => (1..).zip(&spec.lines).map(|(index, line)| (Some(index), Some(line.clone()))).collect(),
    }
}

fn inputs(
    spec: &CommandSpec,
    place: usize,
    count: usize,
    made: &BTreeMap<&str, Vec<(String, Digest)>>,
) -> Result<BTreeMap<String, Input>, Problem> {
    let mut inputs = BTreeMap::new();
    for (name, source) in &spec.inputs {
        let wrong = || Problem::Input(format!("{name} = {source:?}"));
        if !is_plain(name) {
            return Err(wrong());
        }
        let whole = |from| Input { from, only: vec![] };
        match source.split_once(':') {
            Some(("artifact", digest)) => {
                let digest = digest.parse().map_err(|_| wrong())?;
                inputs.insert(name.clone(), whole(Source::Artifact(digest)));
            }
            Some(("task", task)) => match made.get(task).map(Vec::as_slice) {
                None => return Err(wrong()),
                Some([(_, key)]) => drop(inputs.insert(name.clone(), whole(Source::Task(*key)))),
                Some(keys) if keys.len() == count => {
                    inputs.insert(name.clone(), whole(Source::Task(keys[place].1)));
                }
                Some(keys) => {
                    let named =
                        |(index, key): &(String, Digest)| (format!("{name}.{index}"), whole(Source::Task(*key)));
                    inputs.extend(keys.iter().map(named));
                }
            },
            _ => return Err(wrong()),
        }
    }
    Ok(inputs)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn echo(name: &str) -> CommandSpec {
        CommandSpec { name: name.to_owned(), argv: vec!["echo".to_owned()], ..CommandSpec::default() }
    }

    fn of(command: Vec<CommandSpec>) -> Commands {
        Commands { id: String::new(), command }
    }

    #[test]
    fn two_commands_that_do_the_same_are_refused() {
        let refused = plan(&of(vec![echo("first"), echo("second")])).unwrap_err();
        assert_eq!((refused.name.as_str(), &refused.problem), ("second", &Problem::Same("first".to_owned())));
    }

    #[test]
    fn an_array_is_a_task_per_index_and_reads_an_array_of_its_length_by_element() {
        let mut first = echo("first");
        first.array = Some([3, 5]);
        let mut second = first.clone();
        second.name = "second".to_owned();
        second.inputs = BTreeMap::from([("in".to_owned(), "task:first".to_owned())]);
        let mut last = echo("last");
        last.inputs = second.inputs.clone();
        let plan = plan(&of(vec![first, second, last])).unwrap();
        let subjects: Vec<&str> = plan.tasks.iter().map(|task| task.subject.as_str()).collect();
        assert_eq!(subjects, ["first.3", "first.4", "first.5", "second.3", "second.4", "second.5", "last"]);
        assert!(plan.tasks[4].needs().eq([plan.tasks[1].key]));
        let names: Vec<&str> = plan.tasks[6].inputs.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["in.3", "in.4", "in.5"]);
    }

    #[test]
    fn the_same_command_is_the_same_task_unless_set_apart() {
        let key = |id: &str| plan(&Commands { id: id.to_owned(), command: vec![echo("a")] }).unwrap().tasks[0].key;
        assert_eq!(key(""), key(""));
        assert_ne!(key(""), key("x"));
        assert_ne!(key("x"), key("y"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let problem = |spoil: fn(&mut CommandSpec)| {
            let mut spec = echo("a");
            spoil(&mut spec);
            plan(&of(vec![spec])).unwrap_err().problem
        };
        assert_eq!(problem(|spec| spec.name = "../a".to_owned()), Problem::Name);
        assert_eq!(problem(|spec| spec.argv.clear()), Problem::Empty);
        assert_eq!(problem(|spec| spec.array = Some([2, 1])), Problem::Range);
        assert_eq!(problem(|spec| spec.array = Some([0, u64::MAX])), Problem::Many);
        assert_eq!(problem(|spec| spec.resources.slots = 0), Problem::Resources(InvalidResources::NoSlot));
        let both = |spec: &mut CommandSpec| {
            spec.array = Some([1, 2]);
            spec.lines = vec!["x".to_owned()];
        };
        assert_eq!(problem(both), Problem::Both);
        let input = |source: &'static str| {
            let mut spec = echo("a");
            spec.inputs = BTreeMap::from([("in".to_owned(), source.to_owned())]);
            plan(&of(vec![spec])).unwrap_err().problem
        };
        for source in ["task:a", "artifact:12", "elsewhere"] {
            assert!(matches!(input(source), Problem::Input(_)), "{source}");
        }
        assert_eq!(plan(&of(vec![echo("a"), echo("a")])).unwrap_err().problem, Problem::Twice);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever is handed in, it is refused or every task comes after what it reads.
        #[test]
        fn any_commands_are_refused_or_a_plan(specs in prop::collection::vec(any_command(), 1..5)) {
            let text = format!("{{\"command\":[{}]}}", specs.join(","));
            let Ok(commands) = serde_json::from_str::<Commands>(&text) else { return Ok(()) };
            let Ok(plan) = plan(&commands) else { return Ok(()) };
            let mut made = std::collections::BTreeSet::new();
            for task in &plan.tasks {
                for (_, input) in task.inputs.iter() {
                    prop_assert!(!matches!(input.from, Source::Task(key) if !made.contains(&key)));
                }
                made.insert(task.key);
            }
        }

        #[test]
        fn any_text_is_commands_or_an_error(text in any::<String>()) {
            let _ = serde_json::from_str::<Commands>(&text);
        }
    }

    /// A command as JSON, right or nearly so.
    fn any_command() -> impl Strategy<Value = String> {
        let name = "[abc]|[abc]|[abc]|\\.|/|x{61}";
        let argv = prop_oneof![4 => Just(r#"["true"]"#), 1 => Just("[]"), 1 => Just(r#"[""]"#), 1 => Just("7")];
        let edge = prop_oneof![0..4u64, Just(u64::MAX - 1), Just(u64::MAX)];
        let array = prop::option::of((edge.clone(), edge));
        let source = "task:[abc]|task:|artifact:|artifact:0{64}|x";
        let inputs = prop::option::of(("[ab]|\\.\\.", source));
        let slots = prop::option::of(prop_oneof![Just("0"), Just("1"), Just("-1"), Just("1e300"), Just("4294967296")]);
        (name, argv, array, inputs, slots).prop_map(|(name, argv, array, inputs, slots)| {
            let array = array.map(|(first, last)| format!(",\"array\":[{first},{last}]")).unwrap_or_default();
            let inputs =
                inputs.map(|(name, from)| format!(",\"inputs\":{{\"{name}\":\"{from}\"}}")).unwrap_or_default();
            let slots = slots.map(|slots| format!(",\"resources\":{{\"slots\":{slots}}}")).unwrap_or_default();
            format!("{{\"name\":\"{name}\",\"argv\":{argv}{array}{inputs}{slots}}}")
        })
    }
}
