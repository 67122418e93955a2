//! The gRPC service for tasks: lists, explanations, logs of attempts, and results to be made
//! again.

use std::pin::pin;
use std::time::Duration;

use proto::status::{Reason, of_reject, status};
use proto::v1;
use proto::v1::task_service_server::TaskService;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::api::{convert, find, internal, recompute};
use crate::background::Background;
use crate::blobs::Blobs;
use crate::driver::Handle;
use crate::history::Attempt;
use crate::logs::Logs;
use crate::reactor::Knowledge;
use crate::seats::Seat;
use crate::views::{Explanation, TaskPage};

/// How often a followed log is checked for new lines.
const LOG_LOOK: Duration = Duration::from_millis(250);

/// Number of checks of a log after its attempt has ended: the worker may still send lines.
const LAST_LOOKS: u32 = 4;

/// Most bytes of a log in one answer.
const LOG_PIECE: u64 = 256 * 1024;

/// The pieces of a log.
type Pieces = mpsc::Sender<Result<v1::ReadLogResponse, Status>>;

#[derive(Clone, Debug)]
pub struct Tasks {
    driver: Handle,
    blobs: Blobs,
    logs: Logs,
    background: Background,
}

impl Tasks {
    /// A service that uses this driver and these stores.
    pub fn new(driver: Handle, blobs: Blobs, logs: Logs, background: Background) -> Self {
        Self { driver, blobs, logs, background }
    }

    /// The attempt of that number at a task; for 0, the newest.
    async fn attempt(&self, task_key: String, number: u32) -> Result<Attempt, Status> {
        let find = move |knowledge: &Knowledge| Ok::<_, Status>(find::task(knowledge, &task_key)?.spec.key);
        let key = self.driver.read(find).await??;
        let attempts = self.driver.ask(move |tables| tables.attempts(key)).await??;
        let chosen = attempts.into_iter().rev().find(|known| number == 0 || known.attempt == number);
        chosen.ok_or_else(|| {
            let problem = match number {
                0 => "the task has not been tried yet; `lithogen task why` says why".to_owned(),
                number => format!("the task has no attempt {number}"),
            };
            status(Reason::UnknownAttempt, problem)
        })
    }

    /// Sends the log of an attempt from an offset on, piece by piece; with `follow`, until the
    /// attempt has ended.
    async fn send_log(self, of: Attempt, mut offset: u64, follow: bool, pieces: Pieces) {
        let mut closed = pin!(self.background.closed());
        // The last lines come after the end.
        let mut looks_after_end = if follow { LAST_LOOKS } else { 0 };
        loop {
            let (logs, task, token) = (self.logs.clone(), of.task, of.token);
            let piece = tokio::task::spawn_blocking(move || logs.read(task, token, offset, LOG_PIECE)).await;
            let piece = match piece {
                Ok(Ok(bytes)) => Ok(bytes),
                Ok(Err(error)) => Err(Status::from(error)),
                Err(error) => Err(internal(error)),
            };
            let is_error = piece.is_err();
            let is_empty = piece.as_ref().is_ok_and(Vec::is_empty);
            if !is_empty {
                let answer = piece.map(|bytes| {
                    offset += bytes.len() as u64;
                    v1::ReadLogResponse { bytes, next_offset: offset, attempt: of.attempt }
                });
                if pieces.send(answer).await.is_err() || is_error {
                    return;
                }
                continue;
            }
            let is_current = self.driver.read(move |knowledge| knowledge.scheduler.lease(token).is_some()).await;
            if !follow || !is_current.unwrap_or(false) {
                if looks_after_end == 0 {
                    return;
                }
                looks_after_end -= 1;
            }
            tokio::select! {
                () = tokio::time::sleep(LOG_LOOK) => {}
                () = pieces.closed() => return,
                () = &mut closed => {
                    // A client that has gone away needs no goodbye.
                    let _ = pieces.send(Err(Status::unavailable("the coordinator is shutting down"))).await;
                    return;
                }
            }
        }
    }
}

#[tonic::async_trait]
impl TaskService for Tasks {
    async fn list_tasks(
        &self,
        request: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        let v1::ListTasksRequest { run_id, state, from } = request.into_inner();
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let read = move |knowledge: &Knowledge| {
            let run = knowledge.scheduler.run(find::run(knowledge, &run_id)?);
            let run = run.map_err(of_reject)?;
            Ok::<_, Status>(TaskPage::of(knowledge, run, &state, from))
        };
        Ok(Response::new(self.driver.read(read).await??.into()))
    }

    async fn explain_task(
        &self,
        request: Request<v1::ExplainTaskRequest>,
    ) -> Result<Response<v1::ExplainTaskResponse>, Status> {
        let v1::ExplainTaskRequest { task_key } = request.into_inner();
        let read = move |knowledge: &Knowledge| {
            let explanation = Explanation::of(knowledge, find::task(knowledge, &task_key)?);
            explanation.map_err(of_reject)
        };
        let explanation = self.driver.read(read).await??;
        let key = explanation.task.spec.key;
        let attempts = self.driver.ask(move |tables| tables.attempts(key)).await??;
        let explained = tokio::task::spawn_blocking(move || convert::explained(&explanation, &attempts)).await;
        Ok(Response::new(explained.map_err(internal)?))
    }

    async fn recompute_tasks(
        &self,
        request: Request<v1::RecomputeTasksRequest>,
    ) -> Result<Response<v1::RecomputeTasksResponse>, Status> {
        Ok(Response::new(recompute::recompute(&self.driver, &self.blobs, request.into_inner()).await?))
    }

    type ReadLogStream = ReceiverStream<Result<v1::ReadLogResponse, Status>>;

    async fn read_log(&self, request: Request<v1::ReadLogRequest>) -> Result<Response<Self::ReadLogStream>, Status> {
        let seat = Seat::of(&request);
        let v1::ReadLogRequest { task_key, attempt, offset, follow } = request.into_inner();
        let attempt = self.attempt(task_key, attempt).await?;
        let (pieces, receiver) = mpsc::channel(1);
        let service = self.clone();
        self.background.spawn(async move {
            let _seat = seat;
            service.send_log(attempt, offset, follow, pieces).await;
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
