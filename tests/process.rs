//! The program as people start it: one command, or a coordinator, workers and a
//! client in processes of their own.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::chaos::undisturbed;
use crate::harness::PATIENCE;
use crate::harness::eventually;
use crate::harness::program::{Running, lithogen, processes_about, results, run, run_in, study, turn};

/// A coordinator in a process of its own, and where it serves.
fn coordinator(state: &Path) -> (Running, String) {
    let mut coordinator = Running::start_in(state, "coordinator --listen 127.0.0.1:0");
    coordinator.hear("ends it, workers wait for it");
    let said = coordinator.said().clone();
    let url = said.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
    (coordinator, url.to_owned())
}

fn worker(folder: &Path, name: &str, url: &str) -> Running {
    Running::start_in(&folder.join(name), &format!("worker --slots 1 --name {name} --coordinator {url}"))
}

/// What `lithogen status --json` says.
fn status(url: &str) -> Value {
    run(["status", "--json", "--coordinator", url]).json()
}

#[test]
fn a_coordinator_workers_and_a_client_give_what_one_command_gives() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    study(&path("alone"), "").is_done();
    let _turn = turn();
    let (coordinator, url) = coordinator(&path("coordinator"));
    let workers = ["one", "two"].map(|name| worker(folder.path(), name, &url));
    let connected = || status(&url)["workers"].as_array().unwrap().len() == 2;
    eventually("both workers are connected", PATIENCE, connected);
    let submitted = run_in(&path("client"), &format!("submit --scale smoke --coordinator {url}"));
    submitted.says(0, &["118 tasks, 0 cached", "next: lithogen watch"]);
    let id = submitted.out.trim();
    let watched = run(["watch", &id[..8], "--coordinator", &url]);
    watched.says(0, &["118/118", "report done", "on one", "on two"]);
    let over = run(["results", "--json", "--coordinator", &url]);
    over.is_done();
    assert_eq!(over.out, results(&path("alone")));
    let status = status(&url);
    assert_eq!(status["schema_version"], 1);
    assert_eq!(status["runs"][0]["run_id"], id);
    assert_eq!((&status["runs"][0]["state"], &status["runs"][0]["committed"]), (&"succeeded".into(), &118.into()));
    for worker in workers {
        worker.signal("INT");
        worker.end().says(0, &["drain"]);
    }
    coordinator.signal("INT");
    coordinator.end().is_done();
    eventually("no process is left", PATIENCE, || processes_about(folder.path()).is_empty());
}

/// Several studies interleaved, the coordinator killed in between and at the end.
#[test]
fn the_study_submitted_last_is_meant_though_it_was_known_before() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("coordinator");
    let (mut first, mut url) = coordinator(&state);
    let submit = |knob: &str, url: &str| {
        run_in(&folder.path().join("client"), &format!("submit --scale smoke {knob} --coordinator {url}"))
    };
    let id = |submitted: crate::harness::program::Ended| {
        submitted.is_done();
        submitted.out.trim().to_owned()
    };
    let one = id(submit("", &url));
    let two = id(submit("--set tl.margin=3 --set patch.max_overlap=5", &url));
    assert_eq!(id(submit("", &url)), one);
    let listed = |url: &str| {
        let runs = status(url)["runs"].as_array().unwrap().clone();
        runs.iter().map(|run| run["run_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for _ in 0..2 {
        assert_eq!(listed(&url), [one.as_str(), two.as_str()]);
        first.kill();
        (first, url) = coordinator(&state);
    }
    let three = id(submit("--set seed=1", &url));
    submit("--set tl.margin=3 --set patch.max_overlap=5", &url).is_done();
    first.kill();
    let (_again, url) = coordinator(&state);
    assert_eq!(listed(&url), [two.as_str(), three.as_str(), one.as_str()]);

    let differences = |run: usize| status(&url)["runs"][run]["differences"].clone();
    // First what no other has. The seed draws the stand-ins for the pictures too.
    let of_two = differences(0);
    assert_eq!((&of_two[0], &of_two[1]), (&"patch.max_overlap=5".into(), &"tl.margin=3.0".into()));
    assert_eq!((&of_two[3], &of_two[4]), (&"seed=3407".into(), &Value::Null));
    assert_eq!((&differences(1)[1], &differences(2)[1]), (&"seed=1".into(), &"patch.max_overlap=none".into()));
    let told = run(["status", "--coordinator", &url]);
    assert!(told.out.contains("  seed=1  patch.max_overlap=none  tl.margin=2.0"), "{told}");
}

#[test]
fn the_results_are_those_of_the_study_that_was_reproduced_last() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    study(&state, "").is_done();
    let of_the_first = results(&state);
    study(&state, "--set tl.margin=3").says(0, &["116 cached"]);
    assert_ne!(results(&state), of_the_first);
    study(&state, "").says(0, &["118 cached · nothing to run"]);
    assert_eq!(results(&state), of_the_first);
    let explained = run_in(&state, "cell explain SUR-8-2 --json").json();
    assert_eq!(explained["run"], run_in(&state, "status --json").json()["runs"][0]["run_id"]);
}

#[test]
fn a_cancelled_study_is_over_and_can_be_handed_in_again() {
    let folder = tempfile::tempdir().unwrap();
    let (_coordinator, url) = coordinator(&folder.path().join("coordinator"));
    let submit = || run_in(&folder.path().join("client"), &format!("submit --scale smoke --coordinator {url}"));
    submit().is_done();
    run(["cancel", "--coordinator", &url]).says(0, &["is cancelled; 0 of 118 tasks are done"]);
    run(["watch", "--coordinator", &url]).says(5, &["was cancelled with 0 of 118 tasks done"]);
    assert_eq!(status(&url)["runs"][0]["state"], "cancelled");
    submit().is_done();
    assert_eq!(status(&url)["runs"][0]["state"], "running");
}

#[test]
fn a_spec_of_commands_reads_files_and_what_other_commands_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (_coordinator, url) = coordinator(&path("coordinator"));
    std::fs::create_dir_all(path("specs/stones")).unwrap();
    std::fs::write(path("specs/stones/names"), "WW\nAU\n").unwrap();
    let spec = r#"
        [[command]]
        name = "sort"
        argv = ["sh", "-c", "sort $LITHOGEN_INPUTS/stones/names > $LITHOGEN_OUTPUTS/sorted"]
        inputs = { stones = "path:stones" }

        [[command]]
        name = "show"
        argv = ["sh", "-c", "head -n $LITHOGEN_INDEX $LITHOGEN_INPUTS/of/sorted"]
        inputs = { of = "task:sort" }
        array = [1, 2]
        "#;
    std::fs::write(path("specs/own.toml"), spec).unwrap();
    let spec = path("specs/own.toml");
    let submit = || run([Path::new("submit"), &spec, Path::new("--coordinator"), Path::new(&url)]);
    submit().says(0, &["3 tasks, 0 cached"]);
    // Its folder is the usual one, below where it is started.
    let mut worker = lithogen(["worker", "--name", "one", "--allow-exec", "--coordinator", &url]);
    worker.current_dir(folder.path());
    let _worker = Running::spawn(worker);
    run(["wait", "--coordinator", &url]).is_done();
    submit().says(0, &["3 tasks, 3 cached"]);
    let tasks = run(["task", "list", "--json", "--coordinator", &url]).json();
    let labels = || tasks["tasks"].as_array().unwrap().iter().map(|task| task["label"].as_str().unwrap());
    assert_eq!(labels().collect::<Vec<_>>(), ["command sort", "command show.1", "command show.2"]);
    let artifact = tasks["tasks"][2]["artifact"].as_str().unwrap();
    let fetched = path("fetched");
    run(["artifact", "get", artifact, "--out", fetched.to_str().unwrap(), "--coordinator", &url]).is_done();
    assert_eq!(std::fs::read_to_string(fetched.join("stdout.txt")).unwrap(), "AU\nWW\n");
    std::fs::write(path("specs/own.toml"), "[[command]]\nname = \"a\"\nargv = []\n").unwrap();
    submit().says(2, &["command \"a\": argv names no program"]);
}

#[test]
fn a_command_ends_with_all_that_it_started_when_its_worker_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (_coordinator, url) = coordinator(&folder.path().join("coordinator"));
    let mark = folder.path().join("mark");
    let script = format!("sh -c 'sleep 1000; : {0}' & sh -c 'sleep 1000; : {0}'", mark.display());
    run(["exec", "--array", "1-2", "--coordinator", &url, "--", "sh", "-c", &script]).is_done();
    let words = format!("worker --slots 2 --name one --allow-exec --coordinator {url}");
    let mut worker = Running::start_in(&folder.path().join("one"), &words);
    eventually("all are there", PATIENCE, || processes_about(&mark).len() >= 6);
    worker.kill();
    eventually("none is left", PATIENCE, || processes_about(&mark).is_empty());
}

/// Its worker may be killed after it has started a command and before it can say so.
#[test]
fn a_guard_ends_what_it_was_not_told_of_and_what_left_its_group() {
    let mut guard = lithogen(["guard"]).stdin(Stdio::piped()).spawn().unwrap();
    let begin = |mark: u32| {
        let mut command = Command::new("setsid");
        command.args(["sleep", "1000"]).env("LITHOGEN_GUARD", mark.to_string()).spawn().unwrap()
    };
    let (mut own, mut of_another) = (begin(guard.id()), begin(0));
    drop(guard.stdin.take());
    assert_eq!(own.wait().unwrap().code(), None, "killed");
    assert!(guard.wait().unwrap().success());
    assert_eq!(of_another.try_wait().unwrap(), None, "still runs");
    of_another.kill().unwrap();
    of_another.wait().unwrap();
}

/// A sweep drops the tasks that it has seen enough of.
#[test]
fn tasks_that_are_dropped_end_and_the_run_goes_on_without_them() {
    let folder = tempfile::tempdir().unwrap();
    let (_coordinator, url) = coordinator(&folder.path().join("coordinator"));
    run(["exec", "--array", "1-2", "--coordinator", &url, "--", "sh", "-c", "test $LITHOGEN_INDEX = 1 || sleep 1000"])
        .is_done();
    let words = format!("worker --slots 2 --name one --allow-exec --coordinator {url}");
    let _worker = Running::start_in(&folder.path().join("one"), &words);
    eventually("one is done", PATIENCE, || status(&url)["runs"][0]["committed"] == 1);
    let running = run(["task", "list", "--only", "running", "--json", "--coordinator", &url]).json();
    let id = running["tasks"][0]["task"].as_str().unwrap();
    run(["cancel", "--coordinator", &url, "--task", &id[..8]]).says(0, &["goes on without 1 of its 2 tasks"]);
    run(["wait", "--coordinator", &url]).is_done();
    eventually("nothing runs", PATIENCE, || status(&url)["workers"][0]["running"] == serde_json::json!([]));
}

/// The client asks the coordinator of the folder, so it needs no address.
#[test]
fn a_running_study_can_be_asked_about_by_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (_coordinator, url) = coordinator(folder.path());
    run_in(&folder.path().join("client"), &format!("submit --scale smoke --coordinator {url}")).is_done();
    let by_folder = run_in(folder.path(), "status --json").json();
    assert_eq!(by_folder, status(&url));
    assert_eq!(by_folder["runs"][0]["tasks"], 118);
}

#[test]
fn a_worker_waits_for_a_coordinator_that_is_killed_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("coordinator");
    let _turn = turn();
    let (first, url) = coordinator(&state);
    let _worker = worker(folder.path(), "one", &url);
    run_in(&folder.path().join("client"), &format!("submit --scale smoke --coordinator {url}")).is_done();
    let mut watching = Running::start(["watch", "--coordinator", &url]);
    watching.hear("ingest A/SUR done");
    first.signal("KILL");
    first.end();
    let listen = url.strip_prefix("http://").unwrap();
    let mut again = Running::start_in(&state, &format!("coordinator --listen {listen}"));
    again.hear("ends it, workers wait for it");
    watching.end().says(0, &["118/118"]);
}

#[test]
fn the_study_at_a_coordinator_and_the_study_here_are_one_command() {
    let folder = tempfile::tempdir().unwrap();
    let _turn = turn();
    let (_coordinator, url) = coordinator(&folder.path().join("coordinator"));
    let _worker = worker(folder.path(), "one", &url);
    let client = folder.path().join("client");
    let ended = run_in(&client, &format!("reproduce --scale smoke --json --coordinator {url}"));
    assert_eq!(ended.json()["cells"].as_array().unwrap().len(), 26);
    assert!(client.join("report/index.html").is_file());
}

#[test]
fn the_results_are_what_their_schema_says() {
    let folder = tempfile::tempdir().unwrap();
    let results = {
        let _turn = turn();
        run_in(folder.path(), "reproduce --scale smoke --json").json()
    };
    let schema = run(["config", "schema", "--of", "results"]).json();
    fits(&schema, &schema, &results, "results");
    assert_eq!(results["schema_version"], 4);
    let cells = results["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 26);
    for cell in cells {
        let id = format!("{}-{}-{}", cell["view"].as_str().unwrap(), cell["row"], cell["step"]);
        assert_eq!(cell["id"], id);
        for number in ["paper_mean", "paper_std", "mean", "std"] {
            assert!(cell[number].is_f64(), "{number} of {id}: {}", cell[number]);
        }
        assert_eq!((&cell["n"], &cell["verdict"]), (&2.into(), &"NOT_COMPARABLE".into()), "{id}");
    }
}

#[test]
fn a_number_is_traced_to_its_runs_and_one_of_them_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    study(&state, "").is_done();
    let explained = run_in(&state, "cell explain SUR-8-2 --json").json();
    let runs = explained["runs"].as_array().unwrap();
    assert_eq!(runs.len() as u64, explained["cell"]["n"].as_u64().unwrap());
    let run = &runs[0];
    assert_eq!(run["accuracy"], explained["cell"]["runs"][0]);
    let read: Vec<_> = run["inputs"].as_array().unwrap().iter().map(|input| input["name"].as_str().unwrap()).collect();
    assert_eq!(read, ["init", "patches.C"]);
    assert!(run["inputs"][1]["label"].as_str().unwrap().starts_with("patches C/SUR"), "{run}");
    let task = run["task"].as_str().unwrap();
    let told = run_in(&state, "cell explain SUR-8-2");
    assert!(told.out.contains(&format!("lithogen task rerun {} --state", &task[..8])), "{told}");

    let out = folder.path().join("again");
    let again = run_in(&state, &format!("task rerun {task} --out {}", out.display()));
    again.is_done();
    assert!(again.out.contains(&format!("the same bytes: {}", run["artifact"].as_str().unwrap())), "{again}");
    run_in(&state, &format!("task rerun {task} --out {}", out.display())).says(2, &["is there already"]);
    run_in(&state, "cell explain SUR-9-9").says(2, &["no cell SUR-9-9"]);

    for (form, begins) in
        [("csv", "id,view,row"), ("markdown", "# Table I"), ("latex", "\\begin{table}"), ("json", "{")]
    {
        let printed = run_in(&state, &format!("results --format {form}"));
        printed.is_done();
        assert!(printed.out.starts_with(begins) && printed.out.contains("SUR-8-2"), "{printed}");
        assert!(printed.out.contains("stand-in data"), "{printed}");
    }
}

#[test]
fn the_schema_refuses_what_lacks_a_field_or_has_another_type() {
    let schema = run(["config", "schema", "--of", "results"]).json();
    for spoilt in [serde_json::json!({}), serde_json::json!([])] {
        assert!(std::panic::catch_unwind(|| fits(&schema, &schema, &spoilt, "results")).is_err());
    }
}

/// Fails unless a document fits a JSON Schema; knows the words that ours uses.
fn fits(root: &Value, schema: &Value, document: &Value, place: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let target = root.pointer(name.strip_prefix('#').unwrap()).unwrap_or_else(|| panic!("{name}"));
        return fits(root, target, document, place);
    }
    if let Some(any) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
        let fitting = |schema| std::panic::catch_unwind(|| fits(root, schema, document, place)).is_ok();
        assert!(any.iter().any(fitting), "{place}: {document} fits none of {any:?}");
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => vec![],
    };
    let is = |name: &&str| match *name {
        "object" => document.is_object(),
        "array" => document.is_array(),
        "string" => document.is_string(),
        "integer" => document.is_u64() || document.is_i64(),
        "number" => document.is_number(),
        "boolean" => document.is_boolean(),
        "null" => document.is_null(),
        other => panic!("{place}: type {other}"),
    };
    assert!(types.is_empty() || types.iter().any(is), "{place}: {document} is not of type {types:?}");
    if let Some(values) = schema["enum"].as_array() {
        assert!(values.contains(document), "{place}: {document} is none of {values:?}");
    }
    if let Some(value) = schema.get("const") {
        assert_eq!(document, value, "{place}");
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        assert!(document.get(name).is_some(), "{place}: {name} is missing");
    }
    for (name, value) in document.as_object().into_iter().flatten() {
        if let Some(schema) = schema["properties"].get(name) {
            fits(root, schema, value, &format!("{place}.{name}"));
        }
    }
    for (index, value) in document.as_array().into_iter().flatten().enumerate() {
        if let Some(schema) = schema.get("items") {
            fits(root, schema, value, &format!("{place}[{index}]"));
        }
    }
}

/// The study in small is one that learns: at least the three first steps whose
/// data are one set tell stones apart. Chance is 16.7 %; over two folds the
/// means lie between 40 and 80 %.
#[test]
fn the_tiny_study_learns_to_tell_stones_apart() {
    let results: Value = serde_json::from_str(&undisturbed().results).unwrap();
    let baselines = |cell: &&Value| cell["row"].as_u64().unwrap() <= 3 && cell["step"] == 1;
    let cells: Vec<&Value> = results["cells"].as_array().unwrap().iter().filter(baselines).collect();
    assert_eq!(cells.len(), 6);
    for cell in cells {
        let (id, mean, n) = (&cell["id"], cell["mean"].as_f64().unwrap(), &cell["n"]);
        println!("{id}: {mean:.1} % over n = {n}");
        assert!(mean > 25.0, "{id}: {mean:.1} % over n = {n} is hardly above chance");
    }
}

#[test]
#[cfg_attr(not(photos), ignore = "needs LITHOGEN_PHOTOS: a folder with photographs")]
fn photographs_go_through_the_whole_study() {
    let folder = tempfile::tempdir().unwrap();
    let photos = std::env::var("LITHOGEN_PHOTOS").unwrap();
    let ended = study(folder.path(), &format!("--set patch.size=32 --data {photos}"));
    ended.says(0, &["26 NOT COMPARABLE"]);
    assert!(ended.out.contains("NOT COMPARABLE"), "{ended}");
}
