//! Results that are lost are computed again, and nothing else is.

use std::collections::BTreeSet;
use std::path::PathBuf;

use domain::digest::Digest;
use domain::id::ArtifactId;
use proto::channel::call;
use proto::status::{Reason, reason};
use proto::transfer::Transfer;
use proto::v1;
use tonic::Status;

use crate::harness::cluster::Cluster;

async fn tasks(cluster: &Cluster) -> Vec<v1::TaskStatus> {
    cluster.tasks().list_tasks(call(v1::ListTasksRequest::default())).await.unwrap().into_inner().tasks
}

/// The task of a stage whose label comes first.
async fn first(cluster: &Cluster, stage: &str) -> v1::TaskStatus {
    let is_of = |task: &v1::TaskStatus| task.label.starts_with(stage);
    tasks(cluster).await.into_iter().filter(is_of).min_by_key(|task| task.label.clone()).unwrap()
}

/// What a task reads, as JSON.
async fn spec(cluster: &Cluster, task: &v1::TaskStatus) -> String {
    let request = call(v1::ExplainTaskRequest { task_key: task.task_key.clone() });
    let told = cluster.tasks().explain_task(request).await.unwrap().into_inner();
    let spec: serde_json::Value = serde_json::from_str(&told.spec_json).unwrap();
    spec["inputs"].to_string()
}

/// Removes a stored file, as a broken disk does.
fn lose(cluster: &Cluster, digest: &str) {
    let folder = cluster.path("state/blobs").join(&digest[..2]);
    let mut files = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let is_it = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(&digest[2..]);
    std::fs::remove_file(files.find(is_it).unwrap()).unwrap();
}

async fn recompute(
    cluster: &Cluster,
    keys: &[&str],
    lost: bool,
    dry_run: bool,
) -> Result<v1::RecomputeTasksResponse, Status> {
    let task_keys = keys.iter().map(|key| (*key).to_owned()).collect();
    let request = v1::RecomputeTasksRequest { task_keys, lost, dry_run };
    Ok(cluster.tasks().recompute_tasks(call(request)).await?.into_inner())
}

fn labels(answer: &v1::RecomputeTasksResponse) -> BTreeSet<&str> {
    answer.tasks.iter().map(|task| task.label.as_str()).collect()
}

/// A study that is done.
async fn done() -> Cluster {
    let cluster = Cluster::start().await;
    cluster.submit().await;
    let worker = cluster.worker("bench", &[]);
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    worker.drain().await;
    // The coordinator hears of it a moment later.
    cluster.until("the worker is gone", |status| status.workers == 0).await;
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_result_is_computed_again_and_what_was_made_from_it_stays() {
    let cluster = done().await;
    let before = cluster.status().await;
    let lost = first(&cluster, "pad ").await;
    lose(&cluster, &lost.artifact);
    let asked = recompute(&cluster, &[], true, true).await.unwrap();
    assert_eq!(labels(&asked), [lost.label.as_str()].into());
    assert!(asked.made_from_count > 1 && asked.made_from.iter().any(|label| label.starts_with("report")), "{asked:?}");
    assert_eq!(cluster.status().await, before, "nothing has changed");

    assert_eq!(recompute(&cluster, &[], true, false).await.unwrap().tasks, asked.tasks);
    let status = cluster.status().await;
    assert_eq!((status.state(), status.committed), (v1::RunState::Running, before.committed - 1));
    let worker = cluster.worker("another", &[]);
    let after = cluster.end().await;
    assert_eq!((after.state(), after.committed), (v1::RunState::Succeeded, before.committed));
    worker.drain().await;
    assert_eq!(first(&cluster, "pad ").await.artifact, lost.artifact, "the same bytes");
    let attempts: u32 = tasks(&cluster).await.iter().map(|task| task.attempts).sum();
    assert_eq!(attempts, before.tasks + 1, "one task ran once more");
    assert!(recompute(&cluster, &[], true, true).await.unwrap().tasks.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_result_was_made_from_is_computed_again_if_it_is_lost_too() {
    let mut cluster = done().await;
    let lost = first(&cluster, "sinddm.train ").await;
    let read = spec(&cluster, &lost).await;
    let input = tasks(&cluster).await.into_iter().find(|task| read.contains(&task.task_key)).unwrap();
    lose(&cluster, &lost.artifact);
    lose(&cluster, &input.artifact);
    let asked = recompute(&cluster, &[&lost.task_key[..12]], false, false).await.unwrap();
    assert_eq!(labels(&asked), [input.label.as_str(), lost.label.as_str()].into());
    cluster.stop().await;
    cluster.start_again().await;
    let worker = cluster.worker("another", &[]);
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    worker.drain().await;
    let transfer = Transfer::new(cluster.channel());
    for again in [&input, &lost] {
        let artifact: ArtifactId = again.artifact.parse().unwrap();
        assert_eq!(transfer.manifest(artifact).await.unwrap().id(), artifact);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_computed_again_is_said() {
    let cluster = done().await;
    let ingest = first(&cluster, "ingest ").await;
    let read = spec(&cluster, &ingest).await;
    let pictures = read.split('"').find(|word| word.parse::<Digest>().is_ok()).unwrap();
    lose(&cluster, pictures);
    let refused = recompute(&cluster, &[&ingest.task_key], false, false).await.unwrap_err();
    assert_eq!(reason(&refused), Some(Reason::MissingBlob));
    assert!(refused.message().contains(&ingest.label) && refused.message().contains(pictures), "{refused}");
    assert_eq!(cluster.status().await.state(), v1::RunState::Succeeded, "nothing has changed");
    assert!(recompute(&cluster, &["zz"], false, true).await.is_err());
}
