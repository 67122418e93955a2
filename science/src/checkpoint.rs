//! Checkpoints: all that a training needs to go on as if it had never stopped.
//!
//! A checkpoint is a folder with `state.safetensors`, tensors by name, and
//! `checkpoint.json`, which says what they belong to. One that belongs to
//! anything else, or is damaged, is not used: the training then starts anew,
//! which costs time and changes no result.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;

use domain::digest::Digest;
use domain::seed::Seed;
use domain::study::records::{Misfit, Record};
use domain::study::stage::{Failure, FailureCode, Folder, Monitor, Stage};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::files;
use crate::weights::{self, Arrays};

/// Raised when the files or the names in them change their meaning.
const FORMAT: u32 = 2;

/// The file that says what the tensors belong to.
const HEADER: &str = "checkpoint.json";

/// The file with the tensors.
const STATE: &str = "state.safetensors";

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: u32,
    /// The number of steps done.
    step: u64,
    /// Stage, version, parameters and seed, in full.
    parameters: Value,
    /// The digest of `parameters`.
    config: Digest,
    /// The digest of the inputs' names and bytes.
    data: Digest,
    /// The digest of the file with the tensors.
    state: Digest,
}

/// The part of every header that is understood whatever its format.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

impl Record for Format {
    const FILE: &str = HEADER;

    fn check(&self) -> Result<(), Misfit> {
        Ok(())
    }
}

impl Record for Header {
    const FILE: &str = HEADER;

    fn check(&self) -> Result<(), Misfit> {
        if Digest::of_json(&self.parameters) == self.config {
            Ok(())
        } else {
            Err(Misfit { field: "parameters".to_owned(), problem: "are not those of `config`".to_owned() })
        }
    }
}

/// The checkpoints of one attempt.
pub struct Checkpoints<'a> {
    folder: &'a Folder,
    parameters: Value,
    data: Digest,
    /// The number of steps done at the last checkpoint, or where the attempt began.
    last: u64,
}

impl<'a> Checkpoints<'a> {
    /// The checkpoints of an attempt at a stage.
    ///
    /// # Errors
    /// If an input cannot be read.
    pub fn new(stage: &Stage, seed: Seed, folder: &'a Folder) -> Result<Self, Failure> {
        let parameters = json!({ "parameters": stage.parameters(), "version": stage.kind().version(), "seed": seed });
        let data = of_folder(&folder.inputs())?;
        Ok(Self { folder, parameters, data, last: 0 })
    }

    /// The number of steps done at the last checkpoint that is there; 0 if there is none.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Rebuilds the state in the checkpoint that the attempt was given, from the number of
    /// steps done and the tensors. `None` if there is no checkpoint, or none that can be used,
    /// which the log then says.
    pub fn resume<T>(
        &mut self,
        monitor: &mut dyn Monitor,
        rebuild: impl FnOnce(u64, Arrays) -> Result<T, Failure>,
    ) -> Option<T> {
        let folder = self.folder.checkpoint();
        if !folder.exists() {
            return None;
        }
        let resumed = self.read(&folder).and_then(|(step, arrays)| Ok((step, rebuild(step, arrays)?)));
        match resumed {
            Ok((step, state)) => {
                monitor.log(&format!("going on from the checkpoint of step {step}"));
                self.last = step;
                Some(state)
            }
            Err(why) => {
                monitor.log(&format!("the checkpoint is not used, the training starts anew: {why}"));
                None
            }
        }
    }

    /// To be called before each step, with the number of steps done: leaves a
    /// checkpoint if one is due, and ends the attempt if it is told to stop.
    ///
    /// # Errors
    /// If the state cannot be had or written; [`FailureCode::NotANumber`] if
    /// something in it is not a number: what is kept can be gone on from;
    /// [`FailureCode::Preempted`] if the attempt has to end.
    pub fn visit(
        &mut self,
        step: u64,
        monitor: &mut dyn Monitor,
        state: impl FnOnce() -> Result<Arrays, Failure>,
    ) -> Result<(), Failure> {
        let due = monitor.checkpoint_due(step);
        let stopping = monitor.stopping();
        if (due || stopping) && step > self.last {
            let state = state()?;
            if let Some(name) = weights::not_a_number(&state) {
                return Err(Failure::new(
                    FailureCode::NotANumber,
                    format!(
                        "{name} is not a number after {step} steps; the last good checkpoint is of step {}",
                        self.last
                    ),
                ));
            }
            self.write(step, &state)?;
            self.last = step;
            monitor.checkpointed(step);
        }
        if stopping {
            Err(Failure::new(FailureCode::Preempted, format!("told to stop after {step} steps")))
        } else {
            Ok(())
        }
    }

    fn read(&self, folder: &Path) -> Result<(u64, Arrays), Failure> {
        let refuse = |why: &str| Err(Failure::invalid_input(why));
        let header = folder.join(HEADER);
        let Format { format } = files::read(&header)?;
        if format != FORMAT {
            return refuse(&format!("it has format {format}, this version reads {FORMAT}"));
        }
        let header: Header = files::read(&header)?;
        let state = folder.join(STATE);
        if let Some(difference) = difference("", &header.parameters, &self.parameters) {
            refuse(&format!("it belongs to another configuration: {difference}"))
        } else if header.data != self.data {
            refuse("it belongs to other inputs")
        } else if header.state != of_file(&state)? {
            refuse(&format!("{STATE} is damaged"))
        } else {
            Ok((header.step, weights::read(&state)?))
        }
    }

    /// Writes under another name, syncs and renames: what has the final name is whole.
    fn write(&self, step: u64, arrays: &Arrays) -> Result<(), Failure> {
        let whole = self.folder.checkpoint_of(step);
        let part = whole.with_extension("part");
        weights::write(arrays, &part.join(STATE))?;
        let (parameters, config) = (self.parameters.clone(), Digest::of_json(&self.parameters));
        let (data, state) = (self.data, of_file(&part.join(STATE))?);
        files::write(&part.join(HEADER), &Header { format: FORMAT, step, parameters, config, data, state })?;
        for path in [part.join(STATE), part.join(HEADER), part.clone()] {
            sync(&path)?;
        }
        fs::rename(&part, &whole).map_err(|error| Failure::io("rename", &part, &error))?;
        sync(whole.parent().unwrap_or(&whole))
    }
}

/// The first difference of two configurations, by the name of the knob.
fn difference(name: &str, theirs: &Value, ours: &Value) -> Option<String> {
    let inner = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    match (theirs, ours) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            let of = |map: &Map<String, Value>, key: &str| map.get(key).cloned().unwrap_or(Value::Null);
            keys.into_iter().find_map(|key| difference(&inner(key), &of(a, key), &of(b, key)))
        }
        _ if theirs == ours => None,
        _ => Some(format!("{name} is {theirs} there and {ours} here")),
    }
}

fn sync(path: &Path) -> Result<(), Failure> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| Failure::io("sync", path, &error))
}

fn of_file(path: &Path) -> Result<Digest, Failure> {
    let hash = |file| Ok(blake3::Hasher::new().update_reader(file)?.finalize());
    File::open(path).and_then(hash).map(Digest::from).map_err(|error| Failure::io("read", path, &error))
}

/// The digest of all files in a folder with their paths in it.
fn of_folder(root: &Path) -> Result<Digest, Failure> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let failure = |error| Failure::io("list", &folder, &error);
        for entry in fs::read_dir(&folder).map_err(failure)? {
            let path = entry.map_err(failure)?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    let name = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
    let digests = files.iter().map(|path| Ok((name(path), of_file(path)?)));
    Ok(Digest::of_json(&digests.collect::<Result<Vec<_>, Failure>>()?))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use domain::study::stage::{InputName, Progress, Unwatched};

    use super::*;
    use crate::weights::Array;

    /// Wants a checkpoint every few steps, and an end once so many are done.
    #[derive(Default)]
    pub(crate) struct Notes {
        pub(crate) every: Option<u64>,
        pub(crate) stop_at: Option<u64>,
        pub(crate) checkpoints: Vec<u64>,
        pub(crate) log: Vec<String>,
        pub(crate) progress: Vec<Progress>,
        stopping: bool,
    }

    impl Notes {
        pub(crate) fn until(step: u64) -> Self {
            Self { stop_at: Some(step), ..Self::default() }
        }
    }

    impl Monitor for Notes {
        fn progress(&mut self, progress: Progress) {
            self.progress.push(progress);
        }

        fn stopping(&self) -> bool {
            self.stopping
        }

        fn checkpoint_due(&mut self, step: u64) -> bool {
            self.stopping = self.stop_at == Some(step);
            self.every.is_some_and(|every| step.is_multiple_of(every))
        }

        fn checkpointed(&mut self, step: u64) {
            self.checkpoints.push(step);
        }

        fn log(&mut self, line: &str) {
            self.log.push(line.to_owned());
        }
    }

    /// A training in a folder.
    pub(crate) type Train<'a> = &'a dyn Fn(&Path, &mut dyn Monitor) -> Result<Folder, Failure>;

    /// The files that a training leaves.
    pub(crate) fn outputs(folder: &Folder) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![folder.outputs()];
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.insert(path.display().to_string(), fs::read(&path).unwrap());
                }
            }
        }
        let root = folder.outputs().display().to_string();
        files.into_iter().map(|(path, bytes)| (path.replacen(&root, "", 1), bytes)).collect()
    }

    /// The names of files that are not the same in both.
    fn differing<'a>(one: &'a BTreeMap<String, Vec<u8>>, other: &'a BTreeMap<String, Vec<u8>>) -> Vec<&'a str> {
        let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
        names.into_iter().filter(|name| one.get(*name) != other.get(*name)).map(String::as_str).collect()
    }

    /// Stops after each of the steps and goes on in another folder. Gives the last.
    pub(crate) fn with_stops(root: &Path, steps: &[u64], train: Train<'_>) -> Folder {
        let mut given: Option<std::path::PathBuf> = None;
        let start = |number: usize, given: &Option<std::path::PathBuf>| {
            let folder = Folder::new(root.join(number.to_string()));
            fs::create_dir_all(folder.root()).unwrap();
            given.iter().for_each(|given| fs::rename(given, folder.checkpoint()).unwrap());
            folder
        };
        for (number, &step) in steps.iter().enumerate() {
            let folder = start(number, &given);
            let mut notes = Notes::until(step);
            let failure = train(folder.root(), &mut notes).unwrap_err();
            assert_eq!((failure.code, &notes.checkpoints), (FailureCode::Preempted, &vec![step]));
            let went_on = notes.log.iter().any(|line| line.starts_with("going on from the checkpoint"));
            assert_eq!(went_on, given.is_some(), "{:?}", notes.log);
            given = Some(folder.checkpoint_of(step));
        }
        let folder = start(steps.len(), &given);
        let mut notes = Notes::default();
        train(folder.root(), &mut notes).unwrap();
        let went_on = format!("going on from the checkpoint of step {}", steps.last().unwrap());
        assert!(notes.log.contains(&went_on), "{:?}", notes.log);
        folder
    }

    /// Stops at each step given and, elsewhere, at all of them; leaves a
    /// checkpoint at every step and goes on: the files are always those of a
    /// training that was left alone.
    pub(crate) fn changes_nothing(steps: &[u64], train: Train<'_>) {
        let root = tempfile::tempdir().unwrap();
        let alone = outputs(&train(&root.path().join("alone"), &mut Unwatched).unwrap());
        for step in steps {
            let stopped = with_stops(&root.path().join(format!("once-{step}")), &[*step], train);
            assert_eq!(differing(&outputs(&stopped), &alone), [""; 0], "stopped at {step}");
        }
        let often = with_stops(&root.path().join("often"), steps, train);
        assert_eq!(differing(&outputs(&often), &alone), [""; 0], "stopped often");
        let mut notes = Notes { every: Some(1), ..Notes::default() };
        let busy = train(&root.path().join("busy"), &mut notes).unwrap();
        assert_eq!(differing(&outputs(&busy), &alone), [""; 0], "a checkpoint at every step");
    }

    /// The model follows from the seed: the same twice, and another with another seed.
    pub(crate) fn follows_from_its_seed(train: &dyn Fn(&Path, u64) -> Folder) {
        let root = tempfile::tempdir().unwrap();
        let [a, b, c] = [("a", 7), ("b", 7), ("c", 8)].map(|(name, seed)| model(&train(&root.path().join(name), seed)));
        assert!(a == b && a != c);
    }

    /// The model is the same with one thread and with three.
    pub(crate) fn threads_change_nothing(train: &(dyn Fn(&Path) -> Folder + Sync)) {
        let root = tempfile::tempdir().unwrap();
        let [one, three] = [1, 3].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            model(&pool.install(|| train(&root.path().join(threads.to_string()))))
        });
        assert!(one == three);
    }

    fn model(folder: &Folder) -> Vec<u8> {
        fs::read(folder.output("model.safetensors")).unwrap()
    }

    fn stage() -> Stage {
        Stage::SinddmTrain { sinddm: Default::default() }
    }

    fn state() -> Arrays {
        Arrays::from([("x".to_owned(), Array { shape: vec![2], values: vec![0.5, -1.0] })])
    }

    /// An attempt at `stage` with one input.
    fn checkpoints<'a>(folder: &'a Folder, stage: &Stage, seed: u64, input: &str) -> Checkpoints<'a> {
        files::write_bytes(&folder.input(InputName::Pad(None)).join("a.txt"), input.as_bytes()).unwrap();
        Checkpoints::new(stage, Seed(seed), folder).unwrap()
    }

    #[test]
    fn comes_when_due_and_at_the_end_but_never_without_progress() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        let mut checkpoints = checkpoints(&folder, &stage(), 7, "stone");
        let mut notes = Notes { every: Some(4), stop_at: Some(10), ..Notes::default() };
        for step in 0..10 {
            checkpoints.visit(step, &mut notes, || Ok(state())).unwrap();
        }
        let stopped = checkpoints.visit(10, &mut notes, || Ok(state())).unwrap_err();
        assert_eq!((stopped.code, stopped.message.as_str()), (FailureCode::Preempted, "told to stop after 10 steps"));
        assert_eq!(notes.checkpoints, [4, 8, 10]);
        checkpoints.visit(10, &mut notes, || panic!("nothing new")).unwrap_err();
        let mut names: Vec<_> = fs::read_dir(folder.checkpoint_of(4).parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["10", "4", "8"], "nothing half written is left");
    }

    #[test]
    fn what_is_not_a_number_is_never_kept_and_the_last_good_one_stays() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        let mut checkpoints = checkpoints(&folder, &stage(), 7, "stone");
        let mut notes = Notes { every: Some(1), ..Notes::default() };
        checkpoints.visit(1, &mut notes, || Ok(state())).unwrap();
        let mut broken = state();
        broken.get_mut("x").unwrap().values[1] = f32::NAN;
        let failure = checkpoints.visit(2, &mut notes, || Ok(broken)).unwrap_err();
        assert_eq!(failure.code.name(), "nan");
        assert_eq!(failure.message, "x is not a number after 2 steps; the last good checkpoint is of step 1");
        assert!(folder.checkpoint_of(1).exists() && !folder.checkpoint_of(2).exists());
    }

    #[test]
    fn one_that_does_not_fit_or_is_damaged_is_not_used_and_the_log_says_why() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        let mut first = checkpoints(&folder, &stage(), 7, "stone");
        first.visit(5, &mut Notes { every: Some(5), ..Notes::default() }, || Ok(state())).unwrap();
        fs::rename(folder.checkpoint_of(5), folder.checkpoint()).unwrap();
        let resume = |stage: &Stage, seed: u64, input: &str| {
            let mut notes = Notes::default();
            let resumed =
                checkpoints(&folder, stage, seed, input).resume(&mut notes, |step, arrays| Ok((step, arrays)));
            (resumed, notes.log.join("; "))
        };
        let refused = |(resumed, log): (Option<(u64, Arrays)>, String), why: &str| {
            assert_eq!(resumed, None);
            assert!(log.starts_with("the checkpoint is not used, the training starts anew: "), "{log}");
            assert!(log.contains(why), "{log}");
        };
        let fits = || resume(&stage(), 7, "stone");
        assert_eq!(fits(), (Some((5, state())), "going on from the checkpoint of step 5".to_owned()));

        let longer =
            Stage::SinddmTrain { sinddm: domain::study::experiment::Sinddm { steps: 9, ..Default::default() } };
        let other = "it belongs to another configuration: ";
        refused(resume(&longer, 7, "stone"), &format!("{other}parameters.sinddm.steps is 120001 there and 9 here"));
        refused(resume(&stage(), 8, "stone"), &format!("{other}seed is 7 there and 8 here"));
        refused(resume(&stage(), 7, "other stone"), "it belongs to other inputs");
        let unfit = checkpoints(&folder, &stage(), 7, "stone")
            .resume(&mut Unwatched, |_, _| Err::<(), _>(Failure::invalid_input("no such tensor")));
        assert_eq!(unfit, None);

        let [header, tensors] = [HEADER, STATE].map(|name| folder.checkpoint().join(name));
        let [whole_header, whole] = [&header, &tensors].map(|path| fs::read(path).unwrap());
        for damage in [whole[..whole.len() - 1].to_vec(), Vec::new(), [&whole[..whole.len() - 1], b"?"].concat()] {
            fs::write(&tensors, damage).unwrap();
            refused(fits(), "state.safetensors is damaged");
        }
        fs::remove_file(&tensors).unwrap();
        refused(fits(), "state.safetensors");
        fs::write(&tensors, &whole).unwrap();
        fs::write(&header, &whole_header[..20]).unwrap();
        refused(fits(), "checkpoint.json");
        fs::write(&header, r#"{"format": 1, "steps": [5]}"#).unwrap();
        refused(fits(), "it has format 1, this version reads 2");
        fs::remove_file(&header).unwrap();
        refused(fits(), "checkpoint.json");
        fs::write(&header, &whole_header).unwrap();
        assert_eq!(fits().0, Some((5, state())));
    }
}
