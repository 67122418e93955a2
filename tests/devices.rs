//! What workers offer, and what attempts get of it.

use std::collections::BTreeMap;
use std::path::Path;

use domain::id::TaskKey;
use domain::resources::{Gpu, Resources};
use domain::runner::command::{self, CommandSpec, Commands};
use proto::channel::call;
use proto::v1;
use serde_json::json;
use worker::devices::Choice;

use crate::harness::cluster::Cluster;
use crate::harness::program::{Running, run, run_in, turn};
use crate::harness::soon;

/// A worker as people start it; `visible` are the GPUs that its environment names.
/// Parts of GPUs, which no driver knows by these names: so that nothing depends on
/// this machine's.
fn worker(cluster: &Cluster, name: &str, options: &str, visible: &str) -> Running {
    let state = cluster.path(name);
    let words = format!("worker --name {name} --coordinator {} {options} --state", cluster.url());
    let words = words.split_whitespace().map(Into::into).chain([state.into_os_string()]);
    Running::start_with(words, &[("CUDA_VISIBLE_DEVICES", visible)])
}

async fn workers(cluster: &Cluster) -> Vec<v1::Worker> {
    cluster.cluster().list_workers(call(v1::ListWorkersRequest {})).await.unwrap().into_inner().workers
}

/// A command that says which GPUs it sees and waits until another has said so too.
const SEES: &str = r#"echo $CUDA_VISIBLE_DEVICES $HIP_VISIBLE_DEVICES > "$0/$LITHOGEN_INDEX"
    until [ -e "$0/$((3 - LITHOGEN_INDEX))" ]; do sleep 0.01; done"#;

#[tokio::test(flavor = "multi_thread")]
async fn each_of_two_commands_at_once_has_a_gpu_of_its_own() {
    let cluster = Cluster::start().await;
    let seen = cluster.path("seen");
    std::fs::create_dir(&seen).unwrap();
    let options = "--gpus 2 --memory 2G --label site=lab --allow-exec";
    let _worker = worker(&cluster, "one", options, "MIG-a,MIG-b,MIG-c");
    soon("it is there", || async { (!workers(&cluster).await.is_empty()).then_some(()) }).await;
    let listed = run(["worker", "list", "--json", "--coordinator", cluster.url()]).json();
    let one = &listed["workers"][0];
    let gpu = json!({ "name": "GPU", "memory_mib": 0 });
    assert_eq!((&one["slots"], &one["gpus"]), (&2.into(), &json!([gpu, gpu])));
    assert_eq!((&one["memory_mib"], &one["labels"]), (&2048.into(), &json!({ "site": "lab" })));
    run(["worker", "list", "--coordinator", cluster.url()]).says(0, &[]);
    let seen_path = seen.to_str().unwrap();
    let variable = "CUDA_VISIBLE_DEVICES=MIG-c";
    let exec = ["exec", "--coordinator", cluster.url(), "--array", "1-2", "--env", variable, "--wait"];
    run(exec.into_iter().chain(["--", "sh", "-c", SEES, seen_path])).is_done();
    let mut told = ["1", "2"].map(|index| std::fs::read_to_string(seen.join(index)).unwrap());
    told.sort();
    assert_eq!(told, ["MIG-a MIG-a\n", "MIG-b MIG-b\n"]);
}

#[test]
fn gpus_that_are_not_there_are_not_offered() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let words = ["worker", "--coordinator", "http://127.0.0.1:1", "--gpus", "0,1", "--state", state];
    let refused = Running::start_with(words, &[("CUDA_VISIBLE_DEVICES", "MIG-a")]).end();
    refused.says(2, &["GPU 1 is asked for, but this machine has 1"]);
}

/// Hands commands in that say in a file of their name which GPUs they see; returns
/// their tasks' keys.
async fn submit(cluster: &Cluster, commands: &[(&str, Resources)]) -> Vec<TaskKey> {
    let command = commands.iter().map(|(name, resources)| CommandSpec {
        name: (*name).to_owned(),
        argv: ["sh", "-c", "echo $CUDA_VISIBLE_DEVICES > $0", cluster.path(name).to_str().unwrap()]
            .map(str::to_owned)
            .to_vec(),
        resources: resources.clone(),
        ..CommandSpec::default()
    });
    let commands = Commands { id: "test".to_owned(), command: command.collect() };
    let commands_json = serde_json::to_string(&commands).unwrap();
    let request = v1::SubmitRequest { commands_json, ..Default::default() };
    cluster.runs().submit(call(request)).await.unwrap();
    command::plan(&commands).unwrap().tasks.iter().map(|task| task.key).collect()
}

async fn why(cluster: &Cluster, task: &str) -> String {
    let request = call(v1::ExplainTaskRequest { task_key: task.to_owned() });
    cluster.tasks().explain_task(request).await.unwrap().into_inner().reasons.join("; ")
}

fn sees(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_go_where_what_they_ask_for_is_offered() {
    let cluster = Cluster::start().await;
    let _plain = cluster.worker("plain", &[]);
    let _fitted = cluster.worker_with("fitted", &[], |config| {
        config.gpus = Choice::First(1).of(&[], None).unwrap();
        config.gpus[0].gpu = Gpu { name: "small".to_owned(), memory_mib: 1000 };
        config.memory_mib = 512;
        config.labels = BTreeMap::from([("site".to_owned(), "lab".to_owned())]);
    });
    soon("both are there", || async { (workers(&cluster).await.len() == 2).then_some(()) }).await;
    let gpu = Resources { gpu_milli: Some(500), gpu_memory_mib: 600, ..Resources::default() };
    let site = BTreeMap::from([("site".to_owned(), "lab".to_owned())]);
    let label = Resources { gpu_milli: Some(0), labels: site.clone(), ..Resources::default() };
    let both = Resources { gpu_milli: Some(1000), memory_mib: 512, labels: site, ..Resources::default() };
    submit(&cluster, &[("gpu", gpu), ("label", label), ("both", both)]).await;
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    assert!(cluster.changes().await.iter().all(|change| change.worker == "fitted"));
    assert_eq!(["gpu", "label", "both"].map(|name| sees(&cluster.path(name))), ["0", "-1", "0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_fits_nowhere_waits_and_says_what_is_missing() {
    let cluster = Cluster::start().await;
    let _worker = cluster.worker_with("small", &[], |config| config.memory_mib = 512);
    soon("it is there", || async { (!workers(&cluster).await.is_empty()).then_some(()) }).await;
    let gpu = Resources { gpu_milli: Some(1000), ..Resources::default() };
    let memory = Resources { memory_mib: 513, ..Resources::default() };
    let tasks = submit(&cluster, &[("gpu", gpu), ("memory", memory), ("modest", Resources::default())]).await;
    cluster.until("what fits is done", |status| status.committed == 1).await;
    assert_eq!(cluster.status().await.running, 0);
    for (task, missing) in tasks.iter().zip(["lacks GPUs: needs ", "has 512 of 513 MiB of memory"]) {
        let told = why(&cluster, &task.to_string()).await;
        assert!(told.contains(missing), "{told}");
    }
}

/// The training that runs, once it is under way.
async fn training(cluster: &Cluster) -> Option<v1::RunningAttempt> {
    let running = workers(cluster).await.into_iter().flat_map(|worker| worker.running);
    running.into_iter().find(|attempt| attempt.label.starts_with("sinddm.train") && attempt.done > 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warning_of_the_batch_system_leaves_checkpoints_and_hands_trainings_back() {
    let cluster = Cluster::start().await;
    let _turn = turn();
    let endless = "submit --scale smoke --set sinddm.steps=100000000 --coordinator";
    run_in(&cluster.path("client"), &format!("{endless} {}", cluster.url())).is_done();
    let worker = worker(&cluster, "one", "--slots 1 --preempt-signals TERM,USR1", "");
    let attempt = soon("a training is under way", || training(&cluster)).await;
    // As a batch system does that warns both a script and what it started.
    worker.signal("USR1");
    worker.signal("USR1");
    worker.end().says(0, &["draining"]);
    let told = why(&cluster, &attempt.task_key).await;
    assert!(told.contains("the next attempt goes on from step"), "{told}");
    let changes = cluster.changes().await;
    let ends: Vec<&str> = changes
        .iter()
        .filter(|change| change.task_key == attempt.task_key && change.state != "running")
        .map(|change| change.state.as_str())
        .collect();
    assert_eq!(ends, ["preempted"]);
}
