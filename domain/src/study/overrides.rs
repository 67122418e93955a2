//! Presets, spec files and `--set key=value` combined into one [`Experiment`].
//!
//! Later layers win: built-in defaults (the paper's), the preset that the spec names, the spec
//! file, then each override in the order given.

use std::ops::Range;

use toml::{Table, Value};

use crate::study::experiment::{Experiment, Idle, InvalidKnob, Scale, knobs};

/// Why there is no valid spec.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The file is not a spec: bad syntax, unknown key or wrong type.
    #[error("{file}:{line}:{column}: {problem}")]
    File {
        /// Name of the spec file.
        file: String,
        /// Line, counted from 1.
        line: usize,
        /// Column in characters, counted from 1.
        column: usize,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// An override is not `key=value`.
    #[error("--set {0}: expected key=value, for instance tl.repeats=2")]
    Form(String),
    /// An override names no knob.
    #[error("--set {key}: there is no such knob{}", did_you_mean(suggestion))]
    UnknownKey {
        /// The requested knob.
        key: String,
        /// The nearest knob, if one is near.
        suggestion: Option<String>,
    },
    /// An override has a value of the wrong type.
    #[error("--set {key}={value}: {problem}")]
    Value {
        key: String,
        /// The value that the knob was set to.
        value: String,
        /// What was expected.
        problem: String,
    },
    /// A value is out of range or conflicts with another.
    #[error(transparent)]
    Knob(#[from] InvalidKnob),
}

fn did_you_mean(suggestion: &Option<String>) -> String {
    suggestion.as_ref().map(|near| format!("; did you mean {near}?")).unwrap_or_default()
}

/// A spec file.
#[derive(Clone, Copy, Debug)]
pub struct SpecFile<'a> {
    /// Where the file was read from, for messages.
    pub name: &'a str,
    /// The file's text, in TOML.
    pub text: &'a str,
}

/// The text of a preset, also found in `experiments/`.
pub fn preset(scale: Scale) -> &'static str {
    match scale {
        Scale::Smoke => include_str!("../../../experiments/smoke.toml"),
        Scale::Tiny => include_str!("../../../experiments/tiny.toml"),
        Scale::Small => include_str!("../../../experiments/small.toml"),
        Scale::Paper => include_str!("../../../experiments/paper.toml"),
    }
}

/// Combines all layers into one checked spec. `scale` picks the preset when there is no file; a
/// file names its own.
///
/// # Errors
/// The first thing that is wrong, and where.
///
/// # Examples
/// ```
/// use domain::study::experiment::Scale;
/// let spec = domain::study::overrides::resolve(Scale::Tiny, None, &["tl.repeats=3".to_owned()]).unwrap();
/// assert_eq!(spec.tl.repeats, 3);
/// ```
pub fn resolve(scale: Scale, file: Option<SpecFile<'_>>, sets: &[String]) -> Result<Experiment, Error> {
    let scale = match file {
        Some(file) => parse(file)?.scale,
        None => scale,
    };
    let preset = SpecFile { name: scale.name(), text: preset(scale) };
    let mut table = to_table(&Experiment::default());
    for layer in [Some(preset), file].into_iter().flatten() {
        parse(layer)?;
        let text: Table = layer.text.parse().map_err(|error| locate(layer, &error))?;
        merge(&mut table, text);
    }
    for set in sets {
        table = apply(table, set)?;
    }
    let experiment: Experiment = table.try_into().map_err(|error: toml::de::Error| Error::Form(error.to_string()))?;
    experiment.check()?;
    Ok(experiment)
}

/// Parses a file without the other layers, so that errors have a position in the file.
fn parse(file: SpecFile<'_>) -> Result<Experiment, Error> {
    let spec = toml::from_str(file.text).map_err(|error| locate(file, &error))?;
    // A text may have more items in an array than there are places; a table may not.
    let table: Table = file.text.parse().map_err(|error| locate(file, &error))?;
    table.try_into::<Experiment>().map_err(|error| locate(file, &error))?;
    Ok(spec)
}

/// The error with its place in the file.
pub(crate) fn locate(file: SpecFile<'_>, error: &toml::de::Error) -> Error {
    let span = error.span().or_else(|| line_of(file.text, &error.to_string()));
    let offset = span.map_or(0, |span| span.start).min(file.text.len());
    let before = &file.text.as_bytes()[..offset];
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    let column = 1 + String::from_utf8_lossy(&before[line_start..]).chars().count();
    let mut problem = error.message().trim().replace('\n', "; ");
    if let Some(near) = unknown_field(error.message()).and_then(|field| nearest_leaf(&field)) {
        problem = format!("{problem}; did you mean {near}?");
    }
    Error::File { file: file.name.to_owned(), line, column, problem }
}

/// Range in the text of the knob that an error names last, if the error says "in `a.b`" instead
/// of a position.
fn line_of(text: &str, message: &str) -> Option<Range<usize>> {
    let (_, key) = message.trim_end().strip_suffix('`')?.rsplit_once("in `")?;
    let knob = key.rsplit('.').next().unwrap_or(key);
    let line = text.lines().find(|line| line.trim_start().starts_with(knob))?;
    let start = line.as_ptr().addr() - text.as_ptr().addr();
    Some(start..start + line.len())
}

/// The name between the first pair of backticks of "unknown field `x`, …".
fn unknown_field(message: &str) -> Option<String> {
    let rest = message.strip_prefix("unknown field `")?;
    Some(rest[..rest.find('`')?].to_owned())
}

fn nearest_leaf(field: &str) -> Option<String> {
    let leaf = |name: &str| name.rsplit('.').next().is_some_and(|leaf| strsim::damerau_levenshtein(leaf, field) <= 2);
    knobs::all().map(|knob| knob.name).find(|name| leaf(name)).map(str::to_owned)
}

fn to_table(experiment: &Experiment) -> Table {
    Table::try_from(experiment).expect("a spec is a table")
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

fn apply(mut table: Table, set: &str) -> Result<Table, Error> {
    let (key, text) = set.split_once('=').ok_or_else(|| Error::Form(set.to_owned()))?;
    let (key, text) = (key.trim(), text.trim());
    if !knobs::all().any(|knob| knob.name == key) {
        return Err(Error::UnknownKey { key: key.to_owned(), suggestion: nearest(key) });
    }
    let problem =
        |problem: &str| Error::Value { key: key.to_owned(), value: text.to_owned(), problem: problem.to_owned() };
    let mut here = &mut table;
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            here.insert(part.to_owned(), value_of(text));
            break;
        }
        here = match here.get_mut(part) {
            Some(Value::Table(inner)) => inner,
            _ => return Err(Error::UnknownKey { key: key.to_owned(), suggestion: None }),
        };
    }
    match table.clone().try_into::<Experiment>() {
        Ok(_) => Ok(table),
        Err(error) => Err(problem(error.message().trim())),
    }
}

/// A TOML value, or a bare word as a string: `fit=stretch` needs no quotes.
fn value_of(text: &str) -> Value {
    let document: Result<Table, _> = format!("value = {text}").parse();
    match document {
        Ok(mut table) if table.len() == 1 => table.remove("value").unwrap_or(Value::String(text.to_owned())),
        _ => Value::String(text.to_owned()),
    }
}

fn nearest(key: &str) -> Option<String> {
    let known = || knobs::all().map(|knob| knob.name);
    let same_leaf = known().find(|name| name.rsplit('.').next() == key.rsplit('.').next());
    let similar = || {
        let scored = known().map(|name| (strsim::jaro_winkler(key, name), name));
        scored.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(score, _)| *score > 0.8).map(|(_, name)| name)
    };
    same_leaf.or_else(similar).map(str::to_owned)
}

/// Warnings about knobs that a file or an override has set and that have no effect given the
/// others, each with the reason. `drawn` says that no pictures are given, so that stand-ins are
/// drawn.
pub fn without_effect(experiment: &Experiment, drawn: bool) -> Vec<String> {
    let preset = resolve(experiment.scale, None, &[]).map(|preset| knobs::values(&preset)).unwrap_or_default();
    let own = knobs::values(experiment);
    let is_set = |idle: &Idle| own.get(idle.knob) != preset.get(idle.knob);
    let warning =
        |idle: Idle| format!("{} = {} has no effect: {}", idle.knob, knobs::text(own.get(idle.knob)), idle.because);
    experiment.idle(drawn).into_iter().filter(is_set).map(warning).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(sets: &[&str]) -> Result<Experiment, Error> {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        resolve(Scale::Paper, None, &sets)
    }

    fn file(text: &str) -> Result<Experiment, Error> {
        resolve(Scale::Tiny, Some(SpecFile { name: "spec.toml", text }), &[])
    }

    #[test]
    fn presets_are_specs_and_the_papers_is_the_default() {
        for scale in Scale::ALL {
            assert_eq!(resolve(scale, None, &[]).unwrap().scale, scale);
        }
        assert_eq!(resolve(Scale::Paper, None, &[]).unwrap(), Experiment::default());
        let written: Experiment = toml::from_str(preset(Scale::Paper)).unwrap();
        assert_eq!(written, Experiment::default());
        let spelt: Table = preset(Scale::Paper).parse().unwrap();
        for knob in knobs::values(&Experiment::default()).keys() {
            let path: Vec<&str> = knob.split('.').collect();
            let section = path[..path.len() - 1].iter().try_fold(&spelt, |table, part| table.get(*part)?.as_table());
            let is_spelt = section.is_some_and(|section| section.contains_key(path[path.len() - 1]));
            assert!(is_spelt, "experiments/paper.toml does not name {knob}");
        }
    }

    #[test]
    fn overrides_change_one_knob() {
        let sets = ["sinddm.fit=stretch", "tl.lr=[0.1, 0.2]", "seed = 7", "sinddm.coarsest=20", "patch.max_overlap=20"];
        let spec = set(&sets).unwrap();
        assert_eq!(spec.patch.max_overlap, Some(20));
        assert_eq!(spec.sinddm.fit, crate::study::experiment::Fit::Stretch);
        assert_eq!(spec.tl.lr, [0.1, 0.2]);
        assert_eq!(spec.seed, 7);
        assert_eq!(spec.sinddm.coarsest, Some(20));
    }

    #[test]
    fn an_unknown_key_gets_a_suggestion() {
        let message = |sets: &[&str]| set(sets).unwrap_err().to_string();
        assert_eq!(message(&["tl.epoch=3"]), "--set tl.epoch: there is no such knob; did you mean tl.epochs?");
        assert_eq!(message(&["repeats=3"]), "--set repeats: there is no such knob; did you mean tl.repeats?");
        assert_eq!(message(&["zzz=3"]), "--set zzz: there is no such knob");
        assert!(message(&["tl"]).contains("expected key=value"));
    }

    #[test]
    fn a_wrong_type_is_named() {
        let error = set(&["tl.repeats=many"]).unwrap_err();
        assert!(matches!(&error, Error::Value { key, .. } if key == "tl.repeats"), "{error}");
        assert!(set(&["tl.repeats=-1"]).is_err());
        assert!(set(&["tl.lr=[1]"]).is_err());
    }

    #[test]
    fn errors_in_a_file_have_line_and_column() {
        let error = file("scale = \"tiny\"\n[tl]\nrepeats = \"two\"\n").unwrap_err();
        assert!(matches!(&error, Error::File { line: 3, column: 11, .. }), "{error}");
        let error = file("[tl]\nrepaets = 2\n").unwrap_err();
        assert!(error.to_string().contains("spec.toml:2:1: unknown field `repaets`"), "{error}");
        assert!(error.to_string().ends_with("did you mean tl.repeats?"), "{error}");
        assert!(matches!(file("[tl\n").unwrap_err(), Error::File { line: 1, .. }));
        let error = file("scale = \"tiny\"\n[phantom]\nsize_a = [64, 48, 3]\n").unwrap_err();
        assert!(error.to_string().starts_with("spec.toml:3:1: invalid length 3"), "{error}");
    }

    #[test]
    fn a_file_builds_on_the_preset_it_names() {
        let spec = file("scale = \"tiny\"\n[tl]\nrepeats = 7\n").unwrap();
        let tiny = resolve(Scale::Tiny, None, &[]).unwrap();
        assert_eq!(spec.tl.repeats, 7);
        assert_eq!(spec.sinddm, tiny.sinddm);
    }

    #[test]
    fn out_of_range_is_refused_whatever_the_layer() {
        assert!(matches!(set(&["tl.folds=0"]), Err(Error::Knob(_))));
        assert!(matches!(file("[tl]\nfolds = 0\n"), Err(Error::Knob(_))));
    }

    /// Asserts that a text is a spec, or gives an error with a position.
    fn is_spec_or_has_a_place(text: &str) {
        let lines = 1 + text.matches('\n').count();
        match file(text) {
            Ok(spec) => assert_eq!(spec.check(), Ok(())),
            Err(Error::File { line, column, .. }) => {
                let longest = text.split('\n').map(|line| line.chars().count()).max().unwrap_or(0);
                assert!((1..=lines).contains(&line) && (1..=longest + 1).contains(&column), "{line}:{column}");
            }
            Err(Error::Knob(_)) => {}
            Err(error) => panic!("no error of a file: {error}"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_is_a_spec_or_an_error_with_a_place(text in any::<String>()) {
            is_spec_or_has_a_place(&text);
        }

        #[test]
        fn a_damaged_preset_is_a_spec_or_an_error_with_a_place(
            place in any::<prop::sample::Index>(),
            removed in 0..20usize,
            added in "\\PC{0,4}|[0-9.e+-]{1,4}|[\\[\\]{}=\",\n#]{1,3}",
        ) {
            let mut text: Vec<char> = preset(Scale::Tiny).chars().collect();
            let from = place.index(text.len());
            let to = (from + removed).min(text.len());
            text.splice(from..to, added.chars());
            is_spec_or_has_a_place(&text.into_iter().collect::<String>());
        }

        #[test]
        fn any_override_is_taken_or_refused(
            knob in any::<prop::sample::Index>(),
            value in "\\PC{0,8}|-?[0-9]{1,25}|[0-9]e[0-9]{1,3}|nan|inf|\\[\\]|\\[0, 1\\]|\\{\\}|true",
        ) {
            let knobs: Vec<&str> = knobs::all().map(|knob| knob.name).collect();
            if let Ok(spec) = set(&[&format!("{}={value}", knob.get(&knobs))]) {
                prop_assert_eq!(spec.check(), Ok(()));
            }
            let _ = set(&[&value]);
        }
    }
}
