//! One attempt: fetch, run, store, commit.
//!
//! | module | what it holds |
//! |---|---|
//! | `fetch` | the inputs and the order, before the program starts |
//! | `checkpoint` | what the program leaves to go on from, on its way to the coordinator |
//! | `logs` | what the program says, on its way |
//! | `outcome` | how the attempt ended, told to the coordinator |

mod checkpoint;
mod fetch;
mod logs;
mod outcome;

use std::time::{Duration, Instant};

use domain::artifact::Manifest;
use domain::resources::{GpuPart, Offer, Resources, Unfit, WHOLE_GPU};
use domain::runner::task::Grant;
use domain::study::stage::{Failure, FailureCode, Folder, Stage};
use proto::backoff::Backoff;
use proto::status::is_final;
use proto::transfer::{self, Transfer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span};

use self::outcome::Outcome;
use crate::child::parent;
use crate::child::protocol::Line;
use crate::session::BACKOFF;
use crate::shared::Shared;
use crate::supervise::STOP_PATIENCE;
use crate::{command, devices, environment, telemetry};

/// Least time between two messages that only tell progress.
const NEWS_PAUSE: Duration = Duration::from_millis(200);

/// One leased execution of a task.
struct Attempt<'a> {
    shared: &'a Shared,
    grant: &'a Grant,
    folder: Folder,
    /// When its lease arrived.
    began: Instant,
    fetching: Transfer,
    storing: Transfer,
    /// The lease is over: nobody wants the result.
    revoked: CancellationToken,
    /// The lease is wanted back.
    preempted: CancellationToken,
}

/// Runs one attempt and tells the coordinator how it ended. It never fails: all
/// that can go wrong is told.
pub(crate) async fn run(shared: &Shared, grant: Grant) {
    let listed = shared.begin(&grant);
    let attempt = Attempt::new(shared, &grant, listed.revoked.clone(), listed.preempted.clone());
    if let Err(failure) = check(&shared.config.offer(), &grant) {
        tracing::warn!(task = grant.label(), reason = failure.message, "a lease is not run");
        return attempt.conclude(&Outcome::Failed(failure)).await;
    }
    if let Some(run) = shared.config.in_process {
        let outcome = match run(&grant) {
            Ok(()) => Outcome::Done(Manifest::default()),
            Err(failure) => Outcome::Failed(failure),
        };
        return attempt.conclude(&outcome).await;
    }
    tracing::debug!(task = grant.label(), attempt = %grant.attempt, token = %grant.token, "attempt");
    let ended = CancellationToken::new();
    let working = async {
        let outcome = attempt.work().await;
        attempt.conclude(&outcome).await;
        ended.cancel();
    };
    tokio::join!(working, attempt.follow_log(&ended));
    drop(listed);
    // What cannot be removed now is removed at the next start.
    let _ = tokio::fs::remove_dir_all(attempt.folder.root()).await;
}

/// Gives a lease back whose attempt has not begun.
pub(crate) async fn hand_back(shared: &Shared, grant: &Grant) {
    let (revoked, preempted) = (CancellationToken::new(), CancellationToken::new());
    Attempt::new(shared, grant, revoked, preempted).conclude(&Outcome::Stopped).await;
}

/// Whether a lease asks for nothing that was not offered. A coordinator looks at that as
/// well; this is for what is none, or has gone wrong.
fn check(offer: &Offer, grant: &Grant) -> Result<(), Failure> {
    let wanted = Resources { slots: grant.slots, memory_mib: grant.memory_mib, ..Resources::default() };
    let there = |part: &GpuPart| (part.index as usize) < offer.gpus.len() && part.milli <= WHOLE_GPU;
    let gpus = || {
        if grant.gpus.iter().all(there) {
            Ok(())
        } else {
            Err(Unfit::Gpus { wanted_milli: grant.gpus.iter().map(|part| part.milli).sum(), wanted_mib: 0 })
        }
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

impl<'a> Attempt<'a> {
    fn new(shared: &'a Shared, grant: &'a Grant, revoked: CancellationToken, preempted: CancellationToken) -> Self {
        let folder = shared.store.attempt(&format!("{}-{}", grant.task.short(), grant.token));
        let transfer = Transfer::new(shared.channel.clone());
        Self {
            shared,
            grant,
            folder: Folder::new(folder),
            began: Instant::now(),
            fetching: transfer.clone().on_progress(telemetry::came_in),
            storing: transfer.on_progress(telemetry::went_out),
            revoked,
            preempted,
        }
    }

    /// Fetches, runs and stores.
    async fn work(&self) -> Outcome {
        match self.retrying(|| self.prepare()).instrument(info_span!("fetch")).await {
            Some(Ok(())) => {}
            Some(Err(error)) => return Outcome::Failed(of_transfer(&error)),
            None => return Outcome::Stopped,
        }
        let (announce, announced) = watch::channel(0);
        let running = self.run_program(announce).instrument(info_span!("run"));
        let (ran, ()) = tokio::join!(running, self.keep_checkpoints(announced));
        match ran {
            Ok(()) => {}
            Err(failure) if failure.code == FailureCode::Preempted => return Outcome::Stopped,
            Err(failure) => return Outcome::Failed(failure),
        }
        match self.retrying(|| self.store_outputs()).instrument(info_span!("store")).await {
            Some(Ok(manifest)) => Outcome::Done(manifest),
            Some(Err(error)) => Outcome::Failed(of_transfer(&error)),
            None => Outcome::Stopped,
        }
    }

    /// Runs the attempt's program to its end. `announce` is told of each checkpoint; the
    /// last one is on its way when this returns, and none comes after it.
    async fn run_program(&self, announce: watch::Sender<u64>) -> Result<(), Failure> {
        let (shared, grant) = (self.shared, self.grant);
        let mut last_news = Instant::now();
        let tell = |line: Line| match line {
            Line::Checkpoint { checkpoint } => {
                announce.send_replace(checkpoint);
            }
            Line::Progress(progress) => {
                shared.note(grant.token, progress);
                if last_news.elapsed() >= NEWS_PAUSE {
                    last_news = Instant::now();
                    shared.news.notify_one();
                }
            }
        };
        let mut environment = devices::environment(&shared.config.gpus, &grant.gpus);
        environment.extend(environment::of_attempt(grant));
        match &grant.stage {
            Stage::Command(command) => {
                let pass_env = &shared.config.pass_env;
                command::run(command, &self.folder, &shared.reaper, pass_env, &environment, self.stop()).await
            }
            _ => {
                environment.extend(environment::of_stage(&shared.id, grant));
                parent::run(&shared.config, self.folder.root(), &environment, self.stop(), tell).await
            }
        }
    }

    /// Waits until the attempt has to end; returns how long it may take to.
    async fn stop(&self) -> Duration {
        let shared = self.shared;
        // Time to finish a step and write a checkpoint.
        let patience = shared.config.grace.max(STOP_PATIENCE);
        tokio::select! {
            () = self.revoked.cancelled() => STOP_PATIENCE,
            () = shared.out_of_time.cancelled() => STOP_PATIENCE,
            () = self.preempted.cancelled() => patience,
            // What leaves no checkpoints had better end; there is the grace period for it.
            () = shared.in_a_hurry.cancelled(), if self.grant.stage.kind().leaves_checkpoints() => patience,
        }
    }

    /// Stores the files that may be missing; their manifest goes along with the report.
    async fn store_outputs(&self) -> Result<Manifest, transfer::Error> {
        let outputs = self.folder.outputs();
        let root = outputs.clone();
        let manifest = tokio::task::spawn_blocking(move || transfer::scan(&root)).await??;
        // A coordinator that has the files no more says so when it is told of the end.
        if !self.shared.store.has_all(&manifest) {
            self.storing.push_files(&outputs, &manifest).await?;
        }
        self.shared.store.keep(&outputs, &manifest);
        Ok(manifest)
    }

    /// Repeats a transfer while the coordinator is away; `None` if meanwhile nobody
    /// wants it any more.
    async fn retrying<T, F: Future<Output = Result<T, transfer::Error>>>(
        &self,
        transfer: impl Fn() -> F,
    ) -> Option<Result<T, transfer::Error>> {
        let mut backoff = BACKOFF;
        loop {
            match transfer().await {
                Err(transfer::Error::Rpc(status)) if !is_final(&status) => {
                    tracing::debug!(reason = status.message(), "the coordinator is away");
                }
                ended => return Some(ended),
            }
            self.wait(&mut backoff).await?;
        }
    }

    /// Waits before another try; `None` if meanwhile nobody wants the result any more, or
    /// the worker ends, which does not wait for a coordinator that is away.
    async fn wait(&self, backoff: &mut Backoff) -> Option<()> {
        tokio::select! {
            () = tokio::time::sleep(backoff.pause()) => Some(()),
            () = self.revoked.cancelled() => None,
            () = self.shared.out_of_time.cancelled() => None,
        }
    }
}

fn of_transfer(error: &transfer::Error) -> Failure {
    let code = match error {
        transfer::Error::Rpc(status) if status.code() == tonic::Code::ResourceExhausted => FailureCode::Storage,
        transfer::Error::Io(_) => FailureCode::Storage,
        _ => FailureCode::Internal,
    };
    Failure::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use domain::digest::Digest;
    use domain::id::TaskKey;
    use domain::resources::Gpu;
    use domain::runner::task::{Attempt, FencingToken};
    use domain::seed::Seed;
    use domain::study::stage::StageKind;

    use super::*;

    fn grant() -> Grant {
        Grant {
            task: TaskKey(Digest::of(b"task")),
            token: FencingToken(1),
            attempt: Attempt(1),
            subject: String::new(),
            stage: Stage::Report,
            version: StageKind::Report.version(),
            slots: 2,
            memory_mib: 64,
            seed: Seed(0),
            inputs: vec![],
            gpus: vec![GpuPart { index: 0, milli: 1000 }],
            checkpoint: None,
            run: None,
            traceparent: String::new(),
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
