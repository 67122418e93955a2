//! Somebody's own programs, handed in.

use domain::id::ArtifactId;
use domain::runner::command::{CommandSpec, Commands};
use proto::channel::call;
use proto::transfer::Transfer;
use proto::v1;

use super::cluster::Cluster;

/// A command that is a script.
pub(crate) fn shell(name: &str, script: &str) -> CommandSpec {
    let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
    CommandSpec { name: name.to_owned(), argv, ..CommandSpec::default() }
}

/// Hands commands in that nobody has handed in before.
pub(crate) async fn submit(cluster: &Cluster, command: Vec<CommandSpec>) -> v1::RunStatus {
    let commands_json = serde_json::to_string(&Commands { id: "test".to_owned(), command }).unwrap();
    let request = v1::SubmitRequest { commands_json, ..Default::default() };
    cluster.runs().submit(call(request)).await.unwrap().into_inner().status.unwrap()
}

/// A file of the result of the task of that label.
pub(crate) async fn result(cluster: &Cluster, label: &str, path: &str) -> String {
    let change = cluster.changes().await.into_iter().find(|change| change.label == label).unwrap();
    let request = call(v1::ExplainTaskRequest { task_key: change.task_key });
    let told = cluster.tasks().explain_task(request).await.unwrap().into_inner();
    let digest: ArtifactId = told.reasons[0].rsplit(' ').next().unwrap().parse().unwrap();
    let transfer = Transfer::new(cluster.channel());
    let manifest = transfer.manifest(digest).await.unwrap();
    let entry = manifest.entries().iter().find(|entry| entry.path == path).unwrap();
    String::from_utf8(transfer.bytes(entry.digest).await.unwrap()).unwrap()
}

/// What the newest attempt of the task of that label has said, or says until it ends.
pub(crate) async fn log(cluster: &Cluster, label: &str, follow: bool) -> String {
    let change = cluster.changes().await.into_iter().find(|change| change.label == label).unwrap();
    let request = v1::ReadLogRequest { task_key: change.task_key, follow, ..Default::default() };
    let mut pieces = cluster.tasks().read_log(call(request)).await.unwrap().into_inner();
    let mut bytes = vec![];
    while let Some(piece) = pieces.message().await.unwrap() {
        bytes.extend(piece.bytes);
    }
    String::from_utf8(bytes).unwrap()
}
