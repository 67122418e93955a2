//! Rules about the source that no compiler checks.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use domain::experiment::Scale;
use domain::overrides::{self, SpecFile};
use serde_json::Value;
use spdx::{Expression, Licensee, ParseMode};

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
        ("report", vec!["domain"]),
        ("science", vec!["domain", "report"]),
        ("coordinator", vec!["domain", "proto"]),
        ("worker", vec!["domain", "proto"]),
        ("cli", vec!["coordinator", "domain", "proto", "report", "science", "worker"]),
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
    for without in ["domain", "report", "proto", "coordinator", "worker", "tests"] {
        assert!(!burns(without), "{without} pulls burn in");
    }
    for with in ["science", "cli"] {
        assert!(burns(with), "this test no longer finds burn where it is");
    }
}

/// `deny.toml`, which `cargo deny` reads as well.
fn policy() -> toml::Table {
    std::fs::read_to_string(workspace().join("deny.toml")).unwrap().parse().unwrap()
}

#[test]
fn every_dependency_has_a_licence_that_is_allowed() {
    let policy = policy();
    let allowed: Vec<Licensee> = policy["licenses"]["allow"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| Licensee::parse(it.as_str().unwrap()).unwrap())
        .collect();
    let is_allowed = |text: &str| {
        let terms = Expression::parse_mode(text, ParseMode::LAX).unwrap_or_else(|error| panic!("{error}"));
        terms.evaluate(|wanted| allowed.iter().any(|it| it.satisfies(wanted)))
    };
    assert!(is_allowed("MIT/Apache-2.0") && is_allowed("GPL-3.0-only OR MIT"));
    assert!(!is_allowed("GPL-3.0-only") && !is_allowed("MIT AND GPL-3.0-only"));
    let clarified: BTreeMap<&str, &str> = policy["licenses"]["clarify"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["crate"].as_str().unwrap(), it["expression"].as_str().unwrap()))
        .collect();
    let metadata = metadata();
    let terms = |package: &Value| {
        let name = package["name"].as_str().unwrap();
        package["license"].as_str().or(clarified.get(name).copied()).unwrap_or("none").to_owned()
    };
    let refused: Vec<String> = list(&metadata, "packages")
        .iter()
        .filter(|package| terms(package) == "none" || !is_allowed(&terms(package)))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], terms(package)))
        .collect();
    assert!(refused.is_empty(), "deny.toml does not allow {refused:#?}");
}

/// Of every build: with any features, on any system.
#[test]
fn every_dependency_is_of_the_registry_and_of_a_version() {
    let policy = policy();
    for source in ["unknown-registry", "unknown-git"] {
        assert_eq!(policy["sources"][source].as_str(), Some("deny"));
    }
    let lock: toml::Table = std::fs::read_to_string(workspace().join("Cargo.lock")).unwrap().parse().unwrap();
    let packages = lock["package"].as_array().unwrap();
    let sources: BTreeSet<&str> = packages.iter().filter_map(|package| package.get("source")?.as_str()).collect();
    assert_eq!(sources.into_iter().collect::<Vec<_>>(), ["registry+https://github.com/rust-lang/crates.io-index"]);
    let unsourced = packages.iter().filter(|package| package.get("source").is_none());
    let metadata = metadata();
    let members = list(&metadata, "workspace_members");
    assert_eq!(unsourced.count(), members.len());
    for package in list(&metadata, "packages").iter().filter(|package| members.contains(&package["id"])) {
        for dependency in list(package, "dependencies") {
            let is_ours = dependency["path"].is_string();
            assert!(
                is_ours || dependency["req"] != "*",
                "{} of any version in {}",
                dependency["name"],
                package["name"]
            );
        }
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
