//! One attempt: fetch, run, store, commit.

use std::path::Path;
use std::time::Duration;

use domain::artifact::Manifest;
use domain::resources::{GpuPart, Offer, Resources, Unfit, WHOLE_GPU};
use domain::stage::{Cadence, Failure, FailureCode, Folder, Stage};
use domain::task::Grant;
use proto::status::{FENCED, MISSING_BLOB, is_final, reason};
use proto::transfer::{self, Transfer};
use proto::v1;
use proto::v1::attempt_end::End;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::child::{self, LOG, Line, ORDER, Order, STOP_PATIENCE};
use crate::session::{BACKOFF, BACKOFF_MAX};
use crate::{Shared, checkpoint, command, devices, logs, reports, store};

/// Least time between two messages that only tell progress.
const NEWS_PAUSE: Duration = Duration::from_millis(200);

/// How an attempt ended.
enum Outcome {
    Done(Manifest),
    Failed(Failure),
    /// Handed back, or nobody wants it any more.
    Stopped,
}

/// Runs one attempt and tells the coordinator how it ended. It never fails: all
/// that can go wrong is told.
pub(crate) async fn run(shared: &Shared, grant: Grant) {
    let listed = shared.begin(grant.task, grant.token);
    if let Err(failure) = check(&shared.config.offer(), &grant) {
        tracing::warn!(task = grant.label, message = failure.message, "a lease is not run");
        return conclude(shared, &listed.revoked, &grant, &Outcome::Failed(failure), Path::new("")).await;
    }
    if let Some(run) = shared.config.in_process {
        let outcome = match run(&grant) {
            Ok(()) => Outcome::Done(Manifest::default()),
            Err(failure) => Outcome::Failed(failure),
        };
        return conclude(shared, &listed.revoked, &grant, &outcome, Path::new("")).await;
    }
    let (revoked, preempted) = (listed.revoked.clone(), listed.preempted.clone());
    let folder = shared.store.attempt(&format!("{}-{}", grant.task.short(), grant.token));
    tracing::debug!(task = grant.label, attempt = %grant.attempt, token = %grant.token, "attempt");
    let ended = CancellationToken::new();
    let log = folder.join(LOG);
    let attempt = async {
        let outcome = work(shared, &grant, &folder, &revoked, &preempted).await;
        conclude(shared, &revoked, &grant, &outcome, &Folder::new(&folder).outputs()).await;
        ended.cancel();
    };
    tokio::join!(attempt, logs::follow(shared, &grant, &log, &ended));
    drop(listed);
    // What cannot be removed now is removed at the next start.
    let _ = tokio::fs::remove_dir_all(&folder).await;
}

/// Whether a lease asks for nothing that was not offered. A coordinator looks at that as
/// well; this is for what is none, or has gone wrong.
fn check(offer: &Offer, grant: &Grant) -> Result<(), Failure> {
    let wanted = Resources { slots: grant.slots, memory_mib: grant.memory_mib, ..Resources::default() };
    let there = |part: &GpuPart| (part.index as usize) < offer.gpus.len() && part.milli <= WHOLE_GPU;
    let gpus = || match grant.gpus.iter().all(there) {
        true => Ok(()),
        false => Err(Unfit::Gpus { wanted_milli: grant.gpus.iter().map(|part| part.milli).sum(), wanted_mib: 0 }),
    };
    offer.could_run(grant.stage.kind().name(), grant.version, &wanted).and_then(|()| gpus()).map_err(|unfit| {
        let hint = match grant.stage {
            Stage::Command(_) => "; commands are for workers that are started with --allow-exec",
            _ => "",
        };
        let problem = format!("not run: the worker was handed what it did not offer: it {unfit}{hint}");
        Failure::new(FailureCode::Internal, problem)
    })
}

/// Gives a lease back whose attempt has not begun.
pub(crate) async fn hand_back(shared: &Shared, grant: &Grant) {
    let revoked = CancellationToken::new();
    conclude(shared, &revoked, grant, &Outcome::Stopped, Path::new("")).await;
}

/// Tells how an attempt ended, if anybody still wants to know.
async fn conclude(shared: &Shared, revoked: &CancellationToken, grant: &Grant, outcome: &Outcome, outputs: &Path) {
    if let Outcome::Failed(failure) = outcome {
        tracing::debug!(task = grant.label, code = failure.code.name(), message = failure.message, "attempt failed");
    }
    if revoked.is_cancelled() {
        return;
    }
    let mut refused = tell(shared, revoked, grant, outcome).await;
    let Outcome::Done(manifest) = outcome else { return };
    if refused.as_ref().is_some_and(|status| reason(status).as_deref() == Some(MISSING_BLOB)) {
        // Found damaged since it was pushed, cleared away, or never seen by this coordinator.
        let transfer = Transfer::new(shared.channel.clone());
        match retrying(shared, revoked, || transfer.push_files(outputs, manifest)).await {
            Some(Ok(())) => refused = tell(shared, revoked, grant, outcome).await,
            Some(Err(error)) => tracing::warn!(task = grant.label, %error, "what is missing cannot be stored again"),
            None => return,
        }
    }
    if let Some(status) = refused {
        let problem = format!("the coordinator refuses the result: {}", status.message());
        tell(shared, revoked, grant, &Outcome::Failed(Failure::new(FailureCode::Internal, problem))).await;
    }
}

/// Tells the coordinator until it has heard or refuses, and returns why it
/// refused a current lease's outcome. While it is away the attempt's result is
/// kept and offered again.
async fn tell(shared: &Shared, revoked: &CancellationToken, grant: &Grant, outcome: &Outcome) -> Option<Status> {
    let mut pause = BACKOFF;
    loop {
        match send(shared, grant, outcome).await {
            Ok(()) => return None,
            Err(status) if reason(&status).as_deref() == Some(FENCED) => return None,
            Err(status) if is_final(&status) => {
                tracing::warn!(task = grant.label, message = status.message(), "the coordinator refuses the outcome");
                return Some(status);
            }
            Err(status) => tracing::debug!(message = status.message(), "the coordinator is away"),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(BACKOFF_MAX),
            () = revoked.cancelled() => return None,
            // A worker that ends does not wait for a coordinator that is away.
            () = shared.out_of_time.cancelled() => return None,
        }
    }
}

async fn send(shared: &Shared, grant: &Grant, outcome: &Outcome) -> Result<(), Status> {
    let end = match outcome {
        Outcome::Done(manifest) => {
            End::Succeeded(v1::Succeeded { artifact: manifest.digest().to_string(), manifest: manifest.to_bytes() })
        }
        Outcome::Failed(failure) => {
            End::Failed(v1::Failed { code: failure.code.name().to_owned(), message: failure.message.clone() })
        }
        Outcome::Stopped => End::Released(v1::Released {}),
    };
    let end = v1::AttemptEnd { task_key: grant.task.to_string(), token: grant.token.0, end: Some(end) };
    reports::tell(shared, end).await
}

async fn work(
    shared: &Shared,
    grant: &Grant,
    folder: &Path,
    revoked: &CancellationToken,
    preempted: &CancellationToken,
) -> Outcome {
    let transfer = Transfer::new(shared.channel.clone());
    let fetched =
        retrying(shared, revoked, || prepare(&shared.store, &transfer, &shared.config.cadence, grant, folder)).await;
    match fetched {
        Some(Ok(())) => {}
        Some(Err(error)) => return Outcome::Failed(of_transfer(&error)),
        None => return Outcome::Stopped,
    }
    let layout = Folder::new(folder);
    let (announce, announced) = watch::channel(0);
    let mut last_news = std::time::Instant::now();
    let ran = async {
        let tell = |line: Line| match line {
            Line::Checkpoint { checkpoint } => {
                announce.send_replace(checkpoint);
            }
            Line::Progress(progress) => {
                shared.note(grant.token, progress);
                if last_news.elapsed() >= NEWS_PAUSE {
                    last_news = std::time::Instant::now();
                    shared.news.notify_one();
                }
            }
        };
        let environment = devices::environment(&shared.config.gpus, &grant.gpus);
        let stop = stop(shared, grant, revoked, preempted);
        let ran = match &grant.stage {
            Stage::Command(command) => {
                command::run(command, grant, &layout, &shared.guard, &shared.config.pass_env, &environment, stop).await
            }
            _ => child::run(&shared.config, folder, &environment, stop, tell).await,
        };
        // The last checkpoint is on its way; none comes after it.
        drop(announce);
        ran
    };
    let (ran, ()) = tokio::join!(ran, checkpoint::keep(shared, grant, &layout, revoked, announced));
    match ran {
        Ok(()) => {}
        Err(failure) if failure.code == FailureCode::Preempted => return Outcome::Stopped,
        Err(failure) => return Outcome::Failed(failure),
    }
    let outputs = layout.outputs();
    match retrying(shared, revoked, || store_outputs(&shared.store, &transfer, &outputs)).await {
        Some(Ok(manifest)) => Outcome::Done(manifest),
        Some(Err(error)) => Outcome::Failed(of_transfer(&error)),
        None => Outcome::Stopped,
    }
}

/// Waits until an attempt has to end; returns how long it may take to.
async fn stop(shared: &Shared, grant: &Grant, revoked: &CancellationToken, preempted: &CancellationToken) -> Duration {
    // Time to finish a step and write a checkpoint.
    let patience = shared.config.grace.max(STOP_PATIENCE);
    tokio::select! {
        () = revoked.cancelled() => STOP_PATIENCE,
        () = shared.out_of_time.cancelled() => STOP_PATIENCE,
        () = preempted.cancelled() => patience,
        // What leaves no checkpoints had better end; there is the grace period for it.
        () = shared.in_a_hurry.cancelled(), if grant.stage.kind().leaves_checkpoints() => patience,
    }
}

/// Fetches the inputs and writes the order, which no program of others reads, in a
/// folder made anew.
async fn prepare(
    store: &store::Store,
    transfer: &Transfer,
    cadence: &Cadence,
    grant: &Grant,
    root: &Path,
) -> Result<(), transfer::Error> {
    let folder = Folder::new(root);
    let io = |what, path: &Path| {
        let path = path.to_owned();
        move |source| transfer::Error::Io { what, path, source }
    };
    if root.exists() {
        tokio::fs::remove_dir_all(root).await.map_err(io("empty", root))?;
    }
    tokio::fs::create_dir_all(folder.outputs()).await.map_err(io("create", root))?;
    for input in &grant.inputs {
        store.materialise(transfer, input.artifact, &input.only, &folder.inputs().join(&input.name)).await?;
    }
    if let Some(checkpoint) = grant.checkpoint
        && let Err(error) = store.materialise(transfer, checkpoint, &[], &folder.checkpoint()).await
    {
        match &error {
            transfer::Error::Rpc(status) if !is_final(status) => return Err(error),
            // With none the result is the same, only later.
            _ => tracing::warn!(task = grant.label, %error, "starts anew: the checkpoint cannot be fetched"),
        }
        tokio::fs::remove_dir_all(folder.checkpoint()).await.ok();
    }
    if let Stage::Command(_) = grant.stage {
        return Ok(());
    }
    let order = Order { stage: grant.stage.clone(), seed: grant.seed, checkpoint: *cadence };
    let bytes = serde_json::to_vec_pretty(&order).map_err(|error| io("write", root)(error.into()))?;
    let path = root.join(ORDER);
    tokio::fs::write(&path, bytes).await.map_err(io("write", &path))
}

/// Stores the files that may be missing; their manifest goes along with the report.
async fn store_outputs(store: &store::Store, transfer: &Transfer, outputs: &Path) -> Result<Manifest, transfer::Error> {
    let root = outputs.to_owned();
    let manifest = tokio::task::spawn_blocking(move || transfer::scan(&root)).await??;
    // Should it have them no more, it says so when it is told of the end.
    if !store.has_all(&manifest) {
        transfer.push_files(outputs, &manifest).await?;
    }
    store.keep(outputs, &manifest);
    Ok(manifest)
}

/// Repeats a transfer while the coordinator is away; `None` if meanwhile nobody
/// wants it any more.
pub(crate) async fn retrying<T, F: Future<Output = Result<T, transfer::Error>>>(
    shared: &Shared,
    revoked: &CancellationToken,
    transfer: impl Fn() -> F,
) -> Option<Result<T, transfer::Error>> {
    let mut pause = BACKOFF;
    loop {
        match transfer().await {
            Err(transfer::Error::Rpc(status)) if !is_final(&status) => {
                tracing::debug!(message = status.message(), "the coordinator is away");
            }
            ended => return Some(ended),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(BACKOFF_MAX),
            () = revoked.cancelled() => return None,
            () = shared.out_of_time.cancelled() => return None,
        }
    }
}

fn of_transfer(error: &transfer::Error) -> Failure {
    let code = match error {
        transfer::Error::Rpc(status) if status.code() == tonic::Code::ResourceExhausted => FailureCode::Storage,
        transfer::Error::Io { .. } => FailureCode::Storage,
        _ => FailureCode::Internal,
    };
    Failure::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use domain::digest::Digest;
    use domain::resources::Gpu;
    use domain::seed::Seed;
    use domain::stage::StageKind;
    use domain::task::{Attempt, FencingToken};

    use super::*;

    fn grant() -> Grant {
        Grant {
            task: Digest::of(b"task"),
            token: FencingToken(1),
            attempt: Attempt(1),
            label: "report".to_owned(),
            stage: Stage::Report,
            version: StageKind::Report.version(),
            slots: 2,
            memory_mib: 64,
            seed: Seed(0),
            inputs: vec![],
            gpus: vec![GpuPart { index: 0, milli: 1000 }],
            checkpoint: None,
        }
    }

    #[test]
    fn nothing_is_run_that_was_not_offered() {
        let offer = Offer {
            stages: [StageKind::Report.offered()].into(),
            slots: 2,
            gpus: vec![Gpu { name: "G".to_owned(), memory_mib: 0 }],
            memory_mib: 64,
            ..Offer::default()
        };
        assert_eq!(check(&offer, &grant()), Ok(()));
        let refused = |spoil: fn(&mut Grant)| {
            let mut grant = grant();
            spoil(&mut grant);
            let failure = check(&offer, &grant).unwrap_err();
            assert_eq!(failure.code, FailureCode::Internal);
            failure
                .message
                .strip_prefix("not run: the worker was handed what it did not offer: it ")
                .unwrap()
                .to_owned()
        };
        assert_eq!(refused(|grant| grant.version = 99), "does not run report version 99");
        assert_eq!(refused(|grant| grant.slots = 3), "has 2 of 3 slots");
        assert_eq!(refused(|grant| grant.memory_mib = 65), "has 64 of 65 MiB of memory");
        let other_gpu = "lacks GPUs: needs 0.5";
        assert_eq!(refused(|grant| grant.gpus = vec![GpuPart { index: 1, milli: 500 }]), other_gpu);
        let more = "lacks GPUs: needs 1.001";
        assert_eq!(refused(|grant| grant.gpus[0].milli = 1001), more);
    }
}
