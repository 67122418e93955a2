//! The tasks planned from the commands of a submission, which is measured first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{
    BYTES_MAX, COMMANDS_MAX, CommandSpec, Commands, DEMANDS_MAX, ID_MAX, INPUTS_MAX, InvalidCommand, Problem,
    TASK_BYTES_MAX, TASKS_MAX,
};
use crate::digest::DIGEST_BYTES;
use crate::id::{ArtifactId, TaskKey};
use crate::seed::Seed;
use crate::study::plan::{Input, Plan, Source, TaskSpec};
use crate::study::stage::{Command, Stage};
use crate::text::FIELD_BYTES;

/// Plans the tasks of a submission. An array that reads an array of the same length reads it
/// element by element; otherwise all elements are read, as `<input>.<index>`.
///
/// Sizes are counted first, so that no tasks are made of a submission that is too large.
///
/// # Errors
/// Names the first command that is wrong.
pub fn plan(commands: &Commands) -> Result<Plan, InvalidCommand> {
    measure(commands)?;
    let id: Arc<str> = commands.id.as_str().into();
    let mut plan = Plan { tasks: vec![] };
    let mut made: BTreeMap<&str, Vec<(String, TaskKey)>> = BTreeMap::new();
    let mut seen: BTreeMap<TaskKey, &str> = BTreeMap::new();
    for spec in &commands.command {
        let wrong = |problem| InvalidCommand { name: spec.name.clone(), problem };
        let (argv, environment): (Arc<[String]>, _) = (spec.argv.as_slice().into(), Arc::new(spec.environment.clone()));
        let resources = Arc::new(spec.resources.clone());
        let count = spec.elements();
        let mut keys = Vec::with_capacity(count as usize);
        for place in 0..count {
            let inputs = inputs(spec, place as usize, count as usize, &made).map_err(wrong)?;
            let (index, line) = spec.element(place);
            let (id, argv, environment) = (id.clone(), argv.clone(), environment.clone());
            let stage = Stage::Command(Command { id, argv, environment, index, line });
            let (subject, suffix) = match index {
                None => (spec.name.clone(), String::new()),
                Some(index) => (format!("{}.{index}", spec.name), index.to_string()),
            };
            let mut task = TaskSpec::new(subject, stage, inputs, Seed(index.unwrap_or(0)));
            task.resources = resources.clone();
            if let Some(other) = seen.insert(task.key, &spec.name) {
                return Err(wrong(Problem::DuplicateWork(other.to_owned())));
            }
            keys.push((suffix, task.key));
            plan.tasks.push(task);
        }
        made.insert(&spec.name, keys);
    }
    Ok(plan)
}

/// Counts the sizes of a submission without making any task.
fn measure(commands: &Commands) -> Result<(), InvalidCommand> {
    let (mut tasks, mut inputs, mut bytes) = (0, 0, 0);
    let mut made: BTreeMap<&str, u64> = BTreeMap::new();
    let mut demands = BTreeSet::new();
    for spec in &commands.command {
        let mut measure = || {
            if commands.command.len() > COMMANDS_MAX {
                return Err(Problem::Commands(commands.command.len()));
            }
            if commands.id.len() > ID_MAX {
                return Err(Problem::Id(commands.id.len()));
            }
            check(spec)?;
            demands.insert(&spec.resources);
            if demands.len() > DEMANDS_MAX {
                return Err(Problem::Demands);
            }
            let count = spec.elements();
            tasks += count;
            let each = Size::of(spec, commands.id.len(), &made)?;
            inputs += count * each.inputs;
            bytes += count * each.bytes + spec.lines.iter().map(|line| line.len() as u64).sum::<u64>();
            if made.insert(&spec.name, count).is_some() {
                return Err(Problem::DuplicateName);
            }
            let longest_line = spec.lines.iter().map(String::len).max().unwrap_or(0) as u64;
            match each.bytes + longest_line {
                _ if tasks > TASKS_MAX => Err(Problem::Tasks(tasks)),
                _ if inputs > INPUTS_MAX => Err(Problem::Inputs(inputs)),
                one if one > TASK_BYTES_MAX => Err(Problem::TaskBytes(one)),
                _ if bytes > BYTES_MAX => Err(Problem::Bytes(bytes)),
                _ => Ok(()),
            }
        };
        measure().map_err(|problem| InvalidCommand { name: spec.name.clone(), problem })?;
    }
    Ok(())
}

/// The size of each task of a command, apart from lines.
struct Size {
    inputs: u64,
    bytes: u64,
}

impl Size {
    /// Measures a command. `made` has the number of tasks of each earlier command.
    fn of(spec: &CommandSpec, id: usize, made: &BTreeMap<&str, u64>) -> Result<Self, Problem> {
        let pairs = spec.environment.iter().chain(&spec.resources.labels).flat_map(|(name, value)| [name, value]);
        let texts = spec.argv.iter().chain(pairs).map(|text| text.len() + FIELD_BYTES);
        let mut size = Self { inputs: 0, bytes: (id + texts.sum::<usize>()) as u64 };
        for (name, source) in &spec.inputs {
            let read = match Reads::parse(name, source)? {
                Reads::Artifact(_) => 1,
                Reads::Command(task) => match made.get(task) {
                    None => return Err(Reads::wrong(name, source)),
                    Some(count) if *count == spec.elements() => 1,
                    Some(count) => *count,
                },
            };
            size.inputs += read;
            size.bytes += read * (name.len() + DIGEST_BYTES) as u64;
        }
        Ok(size)
    }
}

/// The source of a command's input.
enum Reads<'a> {
    Artifact(ArtifactId),
    /// The outputs of the command of that name.
    Command(&'a str),
}

impl<'a> Reads<'a> {
    fn parse(name: &str, source: &'a str) -> Result<Self, Problem> {
        let parsed = match source.split_once(':') {
            _ if !is_plain(name) => None,
            Some(("artifact", digest)) => digest.parse().ok().map(Reads::Artifact),
            Some(("task", task)) => Some(Reads::Command(task)),
            _ => None,
        };
        parsed.ok_or_else(|| Self::wrong(name, source))
    }

    fn wrong(name: &str, source: &str) -> Problem {
        let shown = |text: &str| text.chars().take(80).collect::<String>();
        Problem::Input(format!("{} = {:?}", shown(name), shown(source)))
    }
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
        Some(_) if !spec.lines.is_empty() => Err(Problem::ArrayAndLines),
        Some([first, last]) if last < first => Err(Problem::Range),
        Some([first, last]) if last - first >= TASKS_MAX => Err(Problem::Tasks((last - first).saturating_add(1))),
        _ => Ok(()),
    }
}

impl CommandSpec {
    /// Number of tasks of a command that was checked.
    fn elements(&self) -> u64 {
        match self.array {
            Some([first, last]) => last - first + 1,
            None if self.lines.is_empty() => 1,
            None => self.lines.len() as u64,
        }
    }

    /// Index and line of the task at position `place`, counted from 0.
    fn element(&self, place: u64) -> (Option<u64>, Option<String>) {
        match self.array {
            Some([first, _]) => (Some(first + place), None),
            None => match self.lines.get(place as usize) {
                Some(line) => (Some(place + 1), Some(line.clone())),
                None => (None, None),
            },
        }
    }
}

fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=60).contains(&name.len()) && name.chars().all(plain) && !name.starts_with('.')
}

fn inputs(
    spec: &CommandSpec,
    place: usize,
    count: usize,
    made: &BTreeMap<&str, Vec<(String, TaskKey)>>,
) -> Result<BTreeMap<String, Input>, Problem> {
    let mut inputs = BTreeMap::new();
    for (name, source) in &spec.inputs {
        let whole = |from| Input { from, only: vec![] };
        match Reads::parse(name, source)? {
            Reads::Artifact(digest) => {
                inputs.insert(name.clone(), whole(Source::Artifact(digest)));
            }
            Reads::Command(task) => match made.get(task).map(Vec::as_slice) {
                None => return Err(Reads::wrong(name, source)),
                Some([(_, key)]) => {
                    inputs.insert(name.clone(), whole(Source::Task(*key)));
                }
                Some(keys) if keys.len() == count => {
                    inputs.insert(name.clone(), whole(Source::Task(keys[place].1)));
                }
                Some(keys) => {
                    let named =
                        |(index, key): &(String, TaskKey)| (format!("{name}.{index}"), whole(Source::Task(*key)));
                    inputs.extend(keys.iter().map(named));
                }
            },
        }
    }
    Ok(inputs)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::resources::InvalidResources;
    use crate::runner::event::Event;
    use crate::runner::scheduler::Scheduler;
    use crate::runner::task::Task;
    use crate::runner::work::Work;

    fn echo(name: &str) -> CommandSpec {
        CommandSpec { name: name.to_owned(), argv: vec!["echo".to_owned()], ..CommandSpec::default() }
    }

    fn of(command: Vec<CommandSpec>) -> Commands {
        Commands { id: String::new(), command }
    }

    #[test]
    fn two_commands_that_do_the_same_are_refused() {
        let refused = plan(&of(vec![echo("first"), echo("second")])).unwrap_err();
        assert_eq!((refused.name.as_str(), &refused.problem), ("second", &Problem::DuplicateWork("first".to_owned())));
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
        assert_eq!(problem(|spec| spec.array = Some([0, u64::MAX])), Problem::Tasks(u64::MAX));
        assert_eq!(problem(|spec| spec.resources.slots = 0), Problem::Resources(InvalidResources::NoSlot));
        let both = |spec: &mut CommandSpec| {
            spec.array = Some([1, 2]);
            spec.lines = vec!["x".to_owned()];
        };
        assert_eq!(problem(both), Problem::ArrayAndLines);
        let input = |source: &'static str| {
            let mut spec = echo("a");
            spec.inputs = BTreeMap::from([("in".to_owned(), source.to_owned())]);
            plan(&of(vec![spec])).unwrap_err().problem
        };
        for source in ["task:a", "artifact:12", "elsewhere"] {
            assert!(matches!(input(source), Problem::Input(_)), "{source}");
        }
        assert_eq!(plan(&of(vec![echo("a"), echo("a")])).unwrap_err().problem, Problem::DuplicateName);
    }

    fn refused(commands: &Commands) -> String {
        plan(commands).unwrap_err().to_string()
    }

    /// An array of `last + 1` tasks that may read another array.
    fn array(name: &str, last: u64, reads: Option<&str>) -> CommandSpec {
        let mut spec = echo(name);
        spec.array = Some([1, last]);
        spec.inputs = reads.map(|other| ("in".to_owned(), format!("task:{other}"))).into_iter().collect();
        spec
    }

    #[test]
    fn arguments_of_an_array_are_in_memory_once() {
        let mut spec = array("a", 1000, None);
        spec.argv.push("x".repeat(10_000));
        spec.environment = BTreeMap::from([("NAME".to_owned(), "value".to_owned())]);
        spec.resources.labels = spec.environment.clone();
        let plan = plan(&of(vec![spec])).unwrap();
        let Stage::Command(first) = &plan.tasks[0].stage else { panic!("a command") };
        assert_eq!((Arc::strong_count(&first.argv), Arc::strong_count(&first.environment)), (1000, 1000));
        assert_eq!((Arc::strong_count(&first.id), Arc::strong_count(&plan.tasks[0].resources)), (1000, 1000));
    }

    #[test]
    fn what_a_journal_says_of_an_array_is_in_memory_once_again() {
        let mut other = array("b", 2, None);
        other.array = Some([11, 12]);
        let commands = of(vec![array("a", 3, None), other]);
        let plan = plan(&commands).unwrap();
        let work = Work::Commands { commands: commands.into() };
        let tasks = plan.tasks.iter().cloned().map(Arc::new).collect();
        let event = Event::RunSubmitted { run: plan.id(), work, tasks, more: 0, priority: 0, by: None };
        let written = serde_json::to_string(&event).unwrap();
        let mut scheduler = Scheduler::default();
        scheduler.apply(&serde_json::from_str(&written).unwrap());
        assert!(scheduler.tasks().map(|task| &*task.spec).eq(&plan.tasks));
        let argv = |task: &Task| match &task.spec.stage {
            Stage::Command(command) => command.argv.clone(),
            other => panic!("{other:?}"),
        };
        let all: Vec<Arc<[String]>> = scheduler.tasks().map(argv).collect();
        assert!(all.iter().all(|argv| Arc::ptr_eq(argv, &all[0])) && Arc::strong_count(&all[0]) == 10);
    }

    #[test]
    fn an_array_that_reads_another_whole_is_counted_before_it_is_made() {
        let square = of(vec![array("a", 40_000, None), array("b", 50_000, Some("a"))]);
        assert_eq!(
            refused(&square),
            "command \"b\": its tasks read 2000000000 inputs with those of the commands above, a submission has at \
             most 1000000; let one task gather what others read, or submit it in parts"
        );
        let element_by_element = of(vec![array("a", 1000, None), array("b", 1000, Some("a"))]);
        assert_eq!(plan(&element_by_element).unwrap().tasks.len(), 2000);
    }

    #[test]
    fn long_arguments_of_an_array_are_counted_before_it_is_made() {
        let mut spec = array("a", 100_000, None);
        spec.argv.push("x".repeat(1_000_000));
        // Four around each argument, and `echo`.
        let expected = "command \"a\": all tasks down to its own have 100001200000 bytes of arguments";
        assert!(refused(&of(vec![spec])).starts_with(expected));
    }

    #[test]
    fn what_no_worker_could_be_told_in_one_message_is_refused() {
        let mut spec = echo("a");
        spec.argv.push("x".repeat(3 << 20));
        let expected = "command \"a\": a task of it has 3145740 bytes of arguments, environment, labels and inputs, at most 2097152";
        assert!(refused(&of(vec![spec])).starts_with(expected));
        let gather = of(vec![array("a", 50_000, None), array("b", 1, Some("a"))]);
        assert!(refused(&gather).starts_with("command \"b\": a task of it has 3700008 bytes"), "{}", refused(&gather));
        let mut lines = echo("a");
        lines.lines = vec!["short".to_owned(), "x".repeat(3 << 20)];
        assert!(matches!(plan(&of(vec![lines])).unwrap_err().problem, Problem::TaskBytes(3_145_736)));
    }

    #[test]
    fn too_many_tasks_commands_and_demands_are_counted() {
        let tasks = of(vec![array("a", 60_000, None), array("b", 60_000, None)]);
        assert!(refused(&tasks).starts_with("command \"b\": makes 120000 tasks with those"), "{}", refused(&tasks));
        let many = of((0..10_001).map(|number| echo(&number.to_string())).collect());
        assert!(refused(&many).starts_with("command \"0\": is one of 10001 commands, a submission has at most 10000"));
        let demand = |number: u32| {
            let mut spec = echo(&number.to_string());
            (spec.resources.slots, spec.argv) = (number, vec![number.to_string()]);
            spec
        };
        assert!(plan(&of((1..=64).map(demand).collect())).is_ok());
        assert_eq!(plan(&of((1..=65).map(demand).collect())).unwrap_err().problem, Problem::Demands);
        let id = Commands { id: "x".repeat(101), command: vec![echo("a")] };
        assert_eq!(plan(&id).unwrap_err().problem, Problem::Id(101));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Any submission is refused, or planned so that every task comes after the tasks that
        /// it reads.
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

    /// A command as JSON, valid or nearly so.
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
