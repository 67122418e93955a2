//! `lithogen worker list` and `lithogen worker revoke`: who has joined.

use std::collections::{BTreeMap, HashMap};

use proto::channel::call;
use proto::v1;
use serde_json::{Value, json};

use crate::args::{Remote as Asked, State, Status, WorkerOf};
use crate::commands::token::{labels, left};
use crate::local;
use crate::out;
use crate::remote::Remote;

/// Lists workers that are connected, and all who have joined, people too.
///
/// # Errors
/// If there is no coordinator.
pub async fn list(args: &Status) -> anyhow::Result<()> {
    let (workers, identities) = local::ask(args.remote.coordinator.as_deref(), &args.state.state, fetch).await?;
    let rows = rows(workers, identities);
    if args.json {
        let workers: Vec<Value> = rows.iter().map(describe).collect();
        out::line(serde_json::to_string_pretty(&json!({ "schema_version": 1, "workers": workers }))?);
        return Ok(());
    }
    out::line(format_args!(
        "{:<20} {:<10} {:<10} {:>7}  {:<20} {:<30} {:<12} {:<16} running",
        "name", "role", "state", "slots", "GPUs", "identity", "certificate", "labels"
    ));
    for row in &rows {
        let running = running(row);
        let slots = row.worker.as_ref().map_or(String::new(), |worker| format!("{}/{}", running.len(), worker.slots));
        let gpus = in_words(row.gpus().iter().map(|gpu| gpu.name.as_str()));
        let identity = row.identity.clone().unwrap_or_default();
        let ends = if identity.id.is_empty() { String::new() } else { left(identity.not_after_ms) };
        let line = format!(
            "{:<20} {:<10} {:<10} {slots:>7}  {gpus:<20} {:<30} {ends:<12} {:<16} {}",
            row.name(),
            row.role(),
            row.state(),
            identity.id,
            row.labels().map_or_else(String::new, labels),
            running.join(", ")
        );
        out::line(line.trim_end());
    }
    Ok(())
}

/// Ends an identity for good.
///
/// # Errors
/// If there is no such identity.
pub async fn revoke(name: &str, remote: &Asked, state: &State) -> anyhow::Result<()> {
    let revoke = |remote: Remote| {
        let request = v1::RevokeIdentityRequest { identity: name.to_owned() };
        async move {
            let revoked = remote.registration().revoke_identity(call(request)).await;
            Ok(revoked.map_err(|status| remote.explain(&status))?.into_inner().identity.unwrap_or_default())
        }
    };
    let identity = local::ask(remote.coordinator.as_deref(), &state.state, revoke).await?;
    out::line(format_args!("{} is revoked and cut off; its tasks run elsewhere", identity.id));
    Ok(())
}

/// Tells a worker to leave once it has ended what it runs.
///
/// # Errors
/// If there is no such worker.
pub async fn drain(worker: &WorkerOf) -> anyhow::Result<()> {
    let ask = |remote: Remote| async move {
        let request = v1::DrainWorkerRequest { worker: worker.name.clone() };
        remote.cluster().drain_worker(call(request)).await.map_err(|status| remote.explain(&status))?;
        Ok(())
    };
    local::ask(worker.remote.coordinator.as_deref(), &worker.state.state, ask).await?;
    out::line(format_args!("{} takes no more work; it ends what it runs and leaves", worker.name));
    Ok(())
}

/// Gives a worker work again.
///
/// # Errors
/// If there is no such worker.
pub async fn readmit(worker: &WorkerOf) -> anyhow::Result<()> {
    let ask = |remote: Remote| async move {
        let request = v1::ReadmitWorkerRequest { worker: worker.name.clone() };
        remote.cluster().readmit_worker(call(request)).await.map_err(|status| remote.explain(&status))?;
        Ok(())
    };
    local::ask(worker.remote.coordinator.as_deref(), &worker.state.state, ask).await?;
    out::line(format_args!("{} gets work again", worker.name));
    Ok(())
}

/// A worker as it is connected, as it has joined, or both.
struct Row {
    worker: Option<v1::Worker>,
    identity: Option<v1::Identity>,
}

impl Row {
    fn name(&self) -> &str {
        let worker = self.worker.as_ref().map(|worker| worker.name.as_str());
        worker.or(self.identity.as_ref().map(|identity| identity.name.as_str())).unwrap_or_default()
    }

    fn state(&self) -> &'static str {
        match (&self.worker, &self.identity) {
            (_, Some(identity)) if identity.revoked => "revoked",
            (Some(worker), _) if !worker.quarantined.is_empty() => "quarantined",
            (Some(worker), _) if worker.draining => "draining",
            (Some(worker), _) if worker.connected => "connected",
            (None, Some(identity)) if identity.connections > 0 => "connected",
            _ => "away",
        }
    }

    fn gpus(&self) -> &[v1::Gpu] {
        self.worker.as_ref().map_or(&[], |worker| &worker.gpus)
    }

    /// The labels of a row; a worker's include those of its identity.
    fn labels(&self) -> Option<&HashMap<String, String>> {
        let worker = self.worker.as_ref().map(|worker| &worker.labels);
        worker.or(self.identity.as_ref().map(|identity| &identity.labels))
    }

    /// The role of a row; workers of this machine work without having joined.
    fn role(&self) -> &str {
        self.identity.as_ref().map_or("worker", |identity| identity.role.as_str())
    }
}

async fn fetch(remote: Remote) -> anyhow::Result<(Vec<v1::Worker>, Vec<v1::Identity>)> {
    let workers = remote.cluster().list_workers(call(v1::ListWorkersRequest {})).await;
    let workers = workers.map_err(|status| remote.explain(&status))?.into_inner().workers;
    let identities = remote.registration().list_identities(call(v1::ListIdentitiesRequest {})).await;
    let identities = identities.map_err(|status| remote.explain(&status))?.into_inner().identities;
    Ok((workers, identities))
}

/// Workers with their identities, then identities without a worker.
fn rows(workers: Vec<v1::Worker>, identities: Vec<v1::Identity>) -> Vec<Row> {
    let owns = |identity: &v1::Identity, worker: &v1::Worker| {
        domain::runner::registry::IdentityId(identity.id.clone()).owns(&worker.id)
    };
    let alone: Vec<v1::Identity> =
        identities.iter().filter(|identity| !workers.iter().any(|worker| owns(identity, worker))).cloned().collect();
    let together = workers.into_iter().map(|worker| {
        let identity = identities.iter().find(|identity| owns(identity, &worker)).cloned();
        Row { worker: Some(worker), identity }
    });
    together.chain(alone.into_iter().map(|identity| Row { worker: None, identity: Some(identity) })).collect()
}

/// GPUs of one name together, for instance `2 × NVIDIA H200`.
pub fn in_words<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    names.for_each(|name| *counts.entry(name).or_default() += 1);
    let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{count} × {name}")).collect();
    counts.join(", ")
}

fn running(row: &Row) -> Vec<&str> {
    let attempts = row.worker.iter().flat_map(|worker| &worker.running);
    attempts.map(|attempt| attempt.label.as_str()).collect()
}

fn gpu(gpu: &v1::Gpu) -> Value {
    json!({ "name": gpu.name, "memory_mib": gpu.memory_mib })
}

fn describe(row: &Row) -> Value {
    let identity = row.identity.as_ref();
    json!({
        "name": row.name(), "role": row.role(), "state": row.state(), "running": running(row),
        "id": row.worker.as_ref().map(|worker| &worker.id),
        "slots": row.worker.as_ref().map(|worker| worker.slots),
        "gpus": row.gpus().iter().map(gpu).collect::<Vec<_>>(),
        "memory_mib": row.worker.as_ref().map(|worker| worker.memory_mib),
        "identity": identity.map(|identity| &identity.id),
        "labels": row.labels(),
        "certificate_ends_ms": identity.map(|identity| identity.not_after_ms),
    })
}
