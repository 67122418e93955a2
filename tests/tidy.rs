//! Rules about the source that no compiler checks.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use domain::study::experiment::Scale;
use domain::study::overrides::{self, SpecFile};
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
        ("kernels", vec![]),
        ("science", vec!["domain", "kernels", "report"]),
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
    for without in ["domain", "report", "kernels", "proto", "coordinator", "worker", "tests"] {
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

/// The modules of a crate, by their paths, with their code: without comments, and without
/// what only tests use.
fn modules(krate: &str) -> BTreeMap<Vec<String>, String> {
    let root = workspace().join(krate).join("src");
    let mut modules = BTreeMap::new();
    let mut open = vec![root.clone()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            if path.extension().is_none_or(|ending| ending != "rs") {
                continue;
            }
            let inner = path.strip_prefix(&root).unwrap().with_extension("");
            let mut name: Vec<String> = inner.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            name.pop_if(|last| ["lib", "main", "mod"].contains(&last.as_str()));
            let text = std::fs::read_to_string(&path).unwrap();
            let shipped = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let code: Vec<&str> = shipped.lines().map(|line| line.split("//").next().unwrap()).collect();
            modules.insert(name, code.join("\n"));
        }
    }
    // Modules that are declared for tests alone.
    let tests: Vec<Vec<String>> = modules
        .iter()
        .flat_map(|(name, code)| {
            let declared = code.split("#[cfg(test)]\nmod ").skip(1);
            declared.filter_map(move |rest| Some([name.clone(), vec![rest.split_once(';')?.0.to_owned()]].concat()))
        })
        .collect();
    modules.retain(|name, _| !tests.iter().any(|test| name.starts_with(test)));
    modules
}

/// The modules that the code of module `own` names, by paths from the root of its crate.
fn named(own: &[String], code: &str) -> Vec<Vec<String>> {
    let is_path = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
    let mut found = vec![];
    for (start, _) in code.match_indices("crate::").chain(code.match_indices("super::")) {
        if code[..start].ends_with(is_path) {
            continue;
        }
        let path = code[start..].split(|letter| !is_path(letter)).next().unwrap();
        // What follows a path that ends in `::` is a group, of a glob or of names.
        let group = code[start + path.len()..].strip_prefix('{').and_then(|rest| rest.split('}').next());
        assert!(!group.is_some_and(|group| group.contains('{')), "a group within a group: {path}{{{group:?}");
        for last in group.unwrap_or_default().split(',').map(str::trim) {
            let mut full = own.to_vec();
            for part in format!("{path}{last}").split("::").filter(|part| !part.is_empty()) {
                match part {
                    "crate" => full.clear(),
                    "super" => drop(full.pop()),
                    part => full.push(part.to_owned()),
                }
            }
            found.push(full);
        }
    }
    found
}

/// The modules of one folder that import each other in a circle, directly or through what lies
/// below them, as pairs of who imports whom.
fn circles(modules: &BTreeMap<Vec<String>, String>) -> Vec<String> {
    let folders: BTreeSet<&[String]> = modules.keys().filter_map(|name| Some(name.split_last()?.1)).collect();
    let mut arrows: BTreeMap<&[String], BTreeSet<(&String, String)>> = BTreeMap::new();
    for (name, code) in modules {
        for target in named(name, code) {
            for folder in folders.iter().filter(|folder| name.starts_with(folder) && target.starts_with(folder)) {
                if let (Some(own), Some(other)) = (name.get(folder.len()), target.get(folder.len()))
                    && own != other
                    && modules.contains_key(&target[..=folder.len()])
                {
                    arrows.entry(folder).or_default().insert((own, other.clone()));
                }
            }
        }
    }
    let mut left = vec![];
    for (folder, mut arrows) in arrows {
        loop {
            let before = arrows.len();
            let importing: BTreeSet<String> = arrows.iter().map(|(own, _)| (*own).clone()).collect();
            let imported: BTreeSet<String> = arrows.iter().map(|(_, other)| other.clone()).collect();
            arrows.retain(|(own, other)| importing.contains(other) && imported.contains(*own));
            if arrows.len() == before {
                break;
            }
        }
        left.extend(arrows.iter().map(|(own, other)| format!("{}: {own} -> {other}", folder.join("::"))));
    }
    left
}

#[test]
fn imports_within_a_crate_form_no_circle() {
    for krate in ["domain", "report", "proto", "kernels", "science", "coordinator", "worker", "cli"] {
        assert_eq!(circles(&modules(krate)), Vec::<String>::new(), "in {krate}");
    }
    let module = |name: &str, code: &str| (name.split('/').map(str::to_owned).collect::<Vec<_>>(), code.to_owned());
    let planted = BTreeMap::from([
        module("lib", ""),
        module("a", "use crate::b::{One, two};"),
        module("b", "use super::lib; use super::d::Four;"),
        module("d", ""),
        module("b/deep", "use super::super::{a, lib};"),
        module("c", "use crate::a::Three;"),
    ]);
    assert_eq!(circles(&planted), [": a -> b", ": b -> a"]);
}

/// What the api alone knows, another face of the coordinator need not know.
#[test]
fn the_coordinator_knows_messages_of_the_wire_in_its_api_only() {
    let modules = modules("coordinator");
    let groups = |code: &str| code.split("proto::{").skip(1).any(|rest| rest.split('}').next().unwrap().contains("v1"));
    assert!(groups("use proto::{channel, v1};") && !groups("use proto::{channel, window};"));
    let knows = |code: &str| code.contains("proto::v1") || groups(code);
    let knowing = modules.iter().filter(|(_, code)| knows(code)).map(|(name, _)| name.join("/"));
    // The server serves the services by their names.
    let (api, others): (Vec<String>, Vec<String>) = knowing.partition(|name| name.starts_with("api/"));
    assert!(!api.is_empty());
    assert_eq!(others, ["server"]);
}
