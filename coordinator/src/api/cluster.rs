//! The gRPC service for what people say about workers.

use std::time::Instant;

use domain::id::RunId;
use domain::runner::scheduler;
use domain::runner::task::WorkerId;
use proto::status::of_reject;
use proto::v1;
use proto::v1::cluster_service_server::ClusterService;
use tonic::{Request, Response, Status};

use crate::api::{find, internal};
use crate::driver::Handle;
use crate::history::Attempt;
use crate::journal::Tables;
use crate::measured::{Question, TASKS};
use crate::seats::Seat;
use crate::views::WorkerView;

#[derive(Debug)]
pub struct Cluster {
    driver: Handle,
}

impl Cluster {
    /// A service that uses this driver.
    pub fn new(driver: Handle) -> Self {
        Self { driver }
    }

    /// Has the driver decide a request about the worker that is meant by a text.
    async fn decide(&self, text: String, request: impl FnOnce(WorkerId) -> scheduler::Request) -> Result<(), Status> {
        let worker = self.driver.read(move |knowledge| find::worker(knowledge, &text)).await??;
        self.driver.request(request(worker)).await?.map_err(of_reject)
    }
}

#[tonic::async_trait]
impl ClusterService for Cluster {
    async fn list_workers(
        &self,
        _: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let workers = self.driver.read(|knowledge| WorkerView::all(knowledge, Instant::now())).await?;
        Ok(Response::new(v1::ListWorkersResponse { workers: workers.into_iter().map(v1::Worker::from).collect() }))
    }

    async fn list_measurements(
        &self,
        request: Request<v1::ListMeasurementsRequest>,
    ) -> Result<Response<v1::ListMeasurementsResponse>, Status> {
        let seat = Seat::of(&request);
        let question = self.driver.read(Question::of).await?;
        let slots = question.slots;
        let runs: Vec<RunId> = question.runs().collect();
        let finished = move |tables: &mut dyn Tables| runs.into_iter().map(|run| tables.finished(run, TASKS)).collect();
        let finished: Vec<Vec<Attempt>> = self.driver.ask(finished).await??;
        // What is given up by its caller is planned to its end, and counts until then.
        let planning = tokio::task::spawn_blocking(move || (question.answer(&finished), seat));
        let (measured, _) = planning.await.map_err(internal)?;
        let measurements = measured.into_iter().map(v1::Measurement::from).collect();
        Ok(Response::new(v1::ListMeasurementsResponse { measurements, slots }))
    }

    async fn drain_worker(
        &self,
        request: Request<v1::DrainWorkerRequest>,
    ) -> Result<Response<v1::DrainWorkerResponse>, Status> {
        self.decide(request.into_inner().worker, |worker| scheduler::Request::Drain { worker }).await?;
        Ok(Response::new(v1::DrainWorkerResponse {}))
    }

    async fn readmit_worker(
        &self,
        request: Request<v1::ReadmitWorkerRequest>,
    ) -> Result<Response<v1::ReadmitWorkerResponse>, Status> {
        self.decide(request.into_inner().worker, |worker| scheduler::Request::Readmit { worker }).await?;
        Ok(Response::new(v1::ReadmitWorkerResponse {}))
    }
}
