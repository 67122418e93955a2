//! What the documentation tells people to type is understood.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory, Parser};
use domain::study::results::Results;
use lithogen_cli::args::Cli;
use serde_json::Value;

/// The README and all that it leads to, by path.
fn pages() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
    let docs = std::fs::read_dir(root.join("docs")).expect("a folder").map(|file| file.expect("a file").path());
    let pages = docs.chain([root.join("README.md")]).filter(|path| path.extension().is_some_and(|end| end == "md"));
    pages.map(|path| (path.clone(), std::fs::read_to_string(&path).expect("text"))).collect()
}

/// The commands that stand in blocks of a page: all lines of scripts, and what
/// follows the prompt in transcripts.
fn commands(page: &str) -> Vec<String> {
    let mut found = vec![];
    let mut block = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), block) {
            (Some(language), None) => block = Some(language),
            (Some(_), Some(_)) => block = None,
            (None, Some("sh")) => found.push(line),
            (None, Some("console")) => found.extend(line.strip_prefix("$ ")),
            (None, _) => {}
        }
    }
    // Variables before a command are the shell's.
    let is_variable = |word: &str| {
        word.split_once('=').is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
    };
    let bare = |line: &str| line.split_whitespace().skip_while(|word| is_variable(word)).collect::<Vec<_>>().join(" ");
    found.into_iter().map(bare).filter(|line| line.starts_with("lithogen ")).collect()
}

/// Up to what a shell would take for itself.
fn words(line: &str) -> Vec<String> {
    let words = shlex::split(line).unwrap_or_default();
    words.into_iter().take_while(|word| !matches!(word.as_str(), ">" | "|" | "&" | "…" | "\\")).collect()
}

#[test]
fn every_command_in_the_documentation_is_one() {
    let mut wrong = vec![];
    let mut count = 0;
    for (path, page) in pages() {
        for line in commands(&page) {
            count += 1;
            if let Err(error) = Cli::try_parse_from(words(&line)) {
                wrong.push(format!("{}: {line}\n{error}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 20, "they are not found any more: {count}");
}

/// The readings as a table for the documentation.
fn ledger() -> String {
    let mut table =
        "| knob | the paper | read as | because | its words also allow |\n|---|---|---|---|---|\n".to_owned();
    for entry in domain::study::experiment::knobs::ledger() {
        let (knob, default) = (entry.knob, &entry.default);
        if let (Some(section), Some(paper), Some(reason), Some(alternatives)) =
            (entry.section, entry.paper, entry.reason, entry.alternatives)
        {
            table += &format!("| `{knob}` | {section}: {paper} | `{default}` | {reason} | {alternatives} |\n");
        }
    }
    table
}

#[test]
fn the_ledger_of_the_documentation_is_that_of_the_program() {
    let (_, study) = pages().into_iter().find(|(path, _)| path.ends_with("study.md")).unwrap();
    let told =
        study.split("<!-- ledger: begin -->\n").nth(1).and_then(|rest| rest.split("<!-- ledger: end -->").next());
    let table = ledger();
    assert!(told == Some(table.as_str()), "docs/study.md has another ledger than the program:\n{table}");
}

fn options(command: &Command, found: &mut BTreeSet<String>) {
    found.extend(command.get_arguments().filter_map(|argument| argument.get_long()).map(str::to_owned));
    command.get_subcommands().for_each(|command| options(command, found));
}

#[test]
fn every_option_has_its_place_in_the_documentation() {
    let mut known = BTreeSet::new();
    options(&Cli::command(), &mut known);
    let all: String = pages().into_iter().map(|(_, page)| page).collect();
    let is_told = |name: &&String| !all.contains(&format!("--{name}"));
    let untold: Vec<&String> = known.iter().filter(is_told).collect();
    assert!(untold.is_empty(), "no page tells of {untold:?}");
}

#[test]
fn every_command_has_its_place_in_the_documentation() {
    let all: String = pages().into_iter().map(|(_, page)| page).collect();
    for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
        assert!(all.contains(&format!("`lithogen {}", command.get_name())), "no page tells of {}", command.get_name());
    }
}

/// The names of all fields in a schema.
fn fields<'a>(schema: &'a Value, found: &mut BTreeSet<&'a str>) {
    if let Some(properties) = schema["properties"].as_object() {
        found.extend(properties.keys().map(String::as_str));
    }
    let parts =
        schema.as_object().into_iter().flat_map(|parts| parts.values()).chain(schema.as_array().into_iter().flatten());
    parts.for_each(|part| fields(part, found));
}

#[test]
fn every_field_of_the_results_has_its_place_in_the_documentation() {
    let schema = serde_json::to_value(schemars::schema_for!(Results)).unwrap();
    let mut known = BTreeSet::new();
    fields(&schema, &mut known);
    let (_, page) = pages().into_iter().find(|(path, _)| path.ends_with("cli.md")).unwrap();
    let untold: Vec<&&str> = known.iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(known.len() > 100 && untold.is_empty(), "docs/cli.md tells nothing of {untold:?}");
}
