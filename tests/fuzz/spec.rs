//! Specs, orders and commands, as files and as `--set` on a command line.

use std::collections::BTreeMap;

use domain::digest::Digest;
use domain::id::ArtifactId;
use domain::runner::command::{self, Commands};
use domain::study::experiment::{Experiment, Scale};
use domain::study::overrides::{self, SpecFile};
use domain::study::plan::{self, Data, RawClass};
use domain::study::stage::Stage;

use super::MEMORY;
use crate::mutate::Target;

/// Words of specs: names of knobs and sections.
fn words() -> Vec<String> {
    let spec = serde_json::to_value(Experiment::default()).unwrap();
    let sections = spec.as_object().unwrap();
    let knobs = sections.iter().flat_map(|(section, knobs)| {
        let names = knobs.as_object().into_iter().flatten().map(move |(knob, _)| format!("{section}.{knob}="));
        names.chain([format!("[{section}]\n")])
    });
    knobs.chain(["\n--set ".to_owned(), "auto_max".to_owned(), "scale = \"paper\"\n".to_owned()]).collect()
}

/// Pictures of every class.
fn data() -> Data {
    let artifact = Digest::of(b"pictures");
    let raw = |place| RawClass::new(place, ArtifactId(artifact), 40);
    Data { classes: Data::folders().map(raw).collect(), ..Data::default() }
}

/// A file; its lines that begin with `--set ` are said on the command line.
fn resolve(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let (sets, lines): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with("--set "));
    let sets: Vec<String> = sets.iter().map(|line| line["--set ".len()..].to_owned()).collect();
    let experiment =
        match overrides::resolve(Scale::Tiny, Some(SpecFile { name: "spec.toml", text: &lines.join("\n") }), &sets) {
            Ok(experiment) => experiment,
            Err(error) => return error.to_string(),
        };
    holds(&experiment)
}

/// A spec that was taken can be told and sent on, and planned if it is small.
fn holds(experiment: &Experiment) -> String {
    assert_eq!(experiment.check(), Ok(()));
    let json = serde_json::to_vec(experiment).unwrap();
    assert_eq!(serde_json::from_slice::<Experiment>(&json).unwrap(), *experiment);
    let told = (experiment.stand_ins().len(), experiment.readings().len(), experiment.weights().len());
    let runs = u64::from(experiment.tl.repeats) * u64::from(experiment.tl.folds) + u64::from(experiment.tl.seeds);
    if runs * experiment.diffusion_models() as u64 > 100 {
        return format!("taken {told:?}");
    }
    match plan::plan(experiment, &data()) {
        Ok(plan) => plan.tasks.iter().try_for_each(|task| task.stage.check()).map_or_else(
            |problem| panic!("a planned stage is out of range: {problem}"),
            |()| format!("planned {told:?}"),
        ),
        Err(error) => error.to_string(),
    }
}

#[test]
fn any_spec_is_refused_or_holds() {
    let sets = "--set tl.repeats=3\n--set sinddm.finest=[64, 48]\n--set ddpm.models=per_view\n";
    let presets = Scale::ALL.map(|scale| overrides::preset(scale).as_bytes().to_vec());
    let mut corpus = presets.to_vec();
    corpus.push(sets.as_bytes().to_vec());
    corpus.push(b"[pad]\ntarget = \"aspect:4/3\"\nfill = [1, 2, 3]\n[tl]\nprotocol = [\"resplit\"]\n".to_vec());
    Target { name: "spec", executions: 3_000, memory: MEMORY, corpus, words: words() }.run(resolve);
}

#[test]
fn any_spec_as_json_is_refused_or_holds() {
    let json = |scale| serde_json::to_vec(&overrides::resolve(scale, None, &[]).unwrap()).unwrap();
    let corpus = Scale::ALL.map(json).to_vec();
    let execute = |bytes: &[u8]| match serde_json::from_slice::<Experiment>(bytes) {
        Ok(experiment) => experiment.check().map_or_else(|knob| knob.to_string(), |()| holds(&experiment)),
        Err(error) => error.to_string(),
    };
    Target { name: "spec-json", executions: 3_000, memory: MEMORY, corpus, words: words() }.run(execute);
}

#[test]
fn any_order_is_refused_or_in_range() {
    let spec = overrides::resolve(Scale::Tiny, None, &["ddpm.models=per_view".to_owned()]).unwrap();
    let stages: BTreeMap<&str, Stage> = plan::plan(&spec, &data())
        .unwrap()
        .tasks
        .into_iter()
        .map(|task| (task.stage.kind().name(), task.stage))
        .collect();
    let corpus: Vec<Vec<u8>> = stages.values().map(|stage| serde_json::to_vec(stage).unwrap()).collect();
    let execute = |bytes: &[u8]| match serde_json::from_slice::<Stage>(bytes) {
        Ok(stage) => {
            let again: Stage = serde_json::from_slice(&serde_json::to_vec(&stage).unwrap()).unwrap();
            assert_eq!((again.identity(), again.kind()), (stage.identity(), stage.kind()));
            stage.check().map_or_else(|knob| knob.to_string(), |()| format!("in range: {}", stage.kind().name()))
        }
        Err(error) => error.to_string(),
    };
    Target { name: "order", executions: 3_000, memory: MEMORY, corpus, words: words() }.run(execute);
}

#[test]
fn any_commands_are_refused_or_planned() {
    let commands = r#"
id = "once"
[[command]]
name = "make"
argv = ["sh", "-c", "echo $LITHOGEN_INDEX"]
array = [0, 3]
[command.environment]
A = "b"
[[command]]
name = "read"
argv = ["cat"]
lines = ["x", "y", "z"]
[command.inputs]
made = "task:make"
[command.resources]
memory_mib = 100
gpus = 0.5
"#;
    let words = ["array = [0, 9]\n", "[[command]]\n", "task:read", "artifact:", "gpus", "memory_mib", "labels"];
    let execute = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let commands = match Commands::from_file(SpecFile { name: "commands.toml", text: &text }) {
            Ok(Some(commands)) => commands,
            Ok(None) => return "no command".to_owned(),
            Err(error) => return error.to_string(),
        };
        let json = serde_json::to_vec(&commands).unwrap();
        assert_eq!(serde_json::from_slice::<Commands>(&json).unwrap(), commands);
        let tasks = |spec: &command::CommandSpec| spec.array.map_or(1, |[from, to]| to.saturating_sub(from));
        let many = commands.command.iter().map(tasks).fold(0, u64::saturating_add);
        if (1_000..=command::TASKS_MAX).contains(&many) {
            // Allowed, and as slow as it is long.
            return "many".to_owned();
        }
        command::plan(&commands).map_or_else(|error| error.to_string(), |plan| format!("{:?}", plan.tasks.len()))
    };
    let (corpus, words) = (vec![commands.as_bytes().to_vec()], words.map(str::to_owned).to_vec());
    Target { name: "commands", executions: 3_000, memory: MEMORY, corpus, words }.run(execute);
}
