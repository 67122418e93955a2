//! Tells the coordinator how attempts ended. What ends while a call is under way
//! goes along with the next one.

use proto::channel::call;
use proto::status::of_verdict;
use proto::v1;
use proto::v1::attempt_end::End;
use proto::v1::worker_service_client::WorkerServiceClient;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;
use tonic::transport::Channel;
use tracing::Span;

/// Ends that one call tells.
const BATCH: usize = 64;

/// Bytes of lists of files from which on no other end goes along: with the largest
/// list, a call is within what coordinators take.
const BATCH_BYTES: usize = 512 * 1024;

/// The end of an attempt, on its way to the coordinator.
#[derive(Debug)]
pub(crate) struct Report {
    end: v1::AttemptEnd,
    /// The way back for what the coordinator says to it.
    verdict: oneshot::Sender<Result<(), Status>>,
    /// What waits for it.
    span: Span,
}

/// Tells how an attempt ended, once; the coordinator may be away. `Err` is its refusal, or why it
/// could not be asked.
pub(crate) async fn tell(reports: &mpsc::Sender<Report>, end: v1::AttemptEnd) -> Result<(), Status> {
    let (verdict, answer) = oneshot::channel();
    let gone = || Status::cancelled("the worker ends");
    reports.send(Report { end, verdict, span: Span::current() }).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

/// Bytes of the list of files that an end brings.
fn bytes(end: &v1::AttemptEnd) -> usize {
    match &end.end {
        Some(End::Succeeded(succeeded)) => succeeded.manifest.len(),
        _ => 0,
    }
}

/// Sends reports until nobody is left to make any.
pub(crate) async fn run(channel: Channel, mut reports: mpsc::Receiver<Report>) {
    let mut batch = Vec::with_capacity(BATCH);
    while let Some(first) = reports.recv().await {
        // What ends together is told together, in the trace of the first.
        let span = first.span.clone();
        // Attempts that end at the same moment are about to report as well.
        tokio::task::yield_now().await;
        batch.push(first);
        while batch.len() < BATCH
            && batch.iter().map(|report| bytes(&report.end)).sum::<usize>() < BATCH_BYTES
            && let Ok(next) = reports.try_recv()
        {
            batch.push(next);
        }
        let (attempts, waiting): (Vec<_>, Vec<_>) = batch.drain(..).map(|report| (report.end, report.verdict)).unzip();
        let request = span.in_scope(|| call(v1::EndAttemptsRequest { attempts }));
        drop(span);
        let mut client = WorkerServiceClient::new(channel.clone());
        let answer = client.end_attempts(request).await;
        let verdicts = answer.map(|answer| answer.into_inner().verdicts);
        for (place, waiting) in waiting.into_iter().enumerate() {
            let verdict = match &verdicts {
                Ok(verdicts) => verdicts.get(place).map_or_else(
                    || Err(Status::internal("the coordinator answered less than it was asked")),
                    of_verdict,
                ),
                Err(status) => Err(status.clone()),
            };
            // An attempt whose lease is over waits no more.
            let _ = waiting.send(verdict);
        }
    }
}
