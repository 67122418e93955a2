//! Rules about the source that no compiler checks.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use domain::experiment::Scale;
use domain::overrides::{self, SpecFile};
use serde_json::Value;

use crate::harness::workspace;

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--format-version", "1", "--filter-platform", env!("PLATFORM")])
        .current_dir(workspace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a Vec<Value> {
    value[name].as_array().unwrap_or_else(|| panic!("no {name} in {value}"))
}

/// An arrow is what `cargo tree` would show of the shipped crates: what only
/// tests need does not count.
#[test]
fn crates_import_only_those_that_they_may() {
    let metadata = metadata();
    let members = list(&metadata, "workspace_members");
    let mut arrows: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in list(&metadata, "packages").iter().filter(|package| members.contains(&package["id"])) {
        let ours = |dependency: &&Value| dependency["path"].is_string() && dependency["kind"].is_null();
        let names = list(package, "dependencies").iter().filter(ours).map(|one| one["name"].as_str().unwrap());
        arrows.entry(package["name"].as_str().unwrap()).or_default().extend(names);
    }
    arrows.values_mut().for_each(|names| names.sort_unstable());
    let allowed: BTreeMap<&str, Vec<&str>> = BTreeMap::from([
        ("domain", vec![]),
        ("proto", vec!["domain"]),
        ("science", vec!["domain"]),
        ("coordinator", vec!["domain", "proto"]),
        ("worker", vec!["domain", "proto"]),
        ("cli", vec!["coordinator", "domain", "proto", "science", "worker"]),
        ("tests", vec!["coordinator", "domain", "proto", "worker"]),
    ]);
    assert_eq!(arrows, allowed);
}

#[test]
fn only_the_science_and_what_starts_it_know_burn() {
    let metadata = metadata();
    let names: BTreeMap<&str, &str> = list(&metadata, "packages")
        .iter()
        .map(|package| (package["id"].as_str().unwrap(), package["name"].as_str().unwrap()))
        .collect();
    let mut needs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in list(&metadata["resolve"], "nodes") {
        let shipped = |one: &&Value| list(one, "dep_kinds").iter().any(|kind| kind["kind"] != "dev");
        let ids = list(node, "deps").iter().filter(shipped).map(|one| one["pkg"].as_str().unwrap());
        needs.insert(node["id"].as_str().unwrap(), ids.collect());
    }
    let burns = |root: &str| {
        let root =
            list(&metadata, "workspace_members").iter().map(|id| id.as_str().unwrap()).find(|id| names[id] == root);
        let mut seen = BTreeSet::new();
        let mut open = vec![root.unwrap()];
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                open.extend(&needs[id]);
            }
        }
        seen.iter().any(|id| names[id] == "burn" || names[id].starts_with("burn-"))
    };
    for without in ["domain", "proto", "coordinator", "worker", "tests"] {
        assert!(!burns(without), "{without} pulls burn in");
    }
    for with in ["science", "cli"] {
        assert!(burns(with), "this test no longer finds burn where it is");
    }
}

#[test]
fn every_spec_in_the_folder_of_experiments_can_be_run() {
    let mut seen = vec![];
    for file in std::fs::read_dir(workspace().join("experiments")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(&path).unwrap();
            let file = SpecFile { name: &name, text: &text };
            let experiment =
                overrides::resolve(Scale::Paper, Some(file), &[]).unwrap_or_else(|error| panic!("{error}"));
            seen.push(experiment.scale.name());
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, ["paper", "small", "smoke", "tiny"]);
}
