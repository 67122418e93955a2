//! Programs of different versions.

use std::pin::Pin;

use proto::status::{Reason, status};
use proto::v1;
use proto::v1::worker_service_server::{WorkerService, WorkerServiceServer};
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::harness::program::Running;

/// A coordinator of another version.
struct Newer;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl WorkerService for Newer {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<v1::SessionResponse, Status>> + Send>>;

    async fn session(&self, _: Request<Streaming<v1::SessionRequest>>) -> Answer<Self::SessionStream> {
        Err(status(Reason::Incompatible, "it speaks protocol 99; upgrade the worker"))
    }

    async fn acquire_leases(&self, _: Request<v1::AcquireLeasesRequest>) -> Answer<v1::AcquireLeasesResponse> {
        Err(Status::unavailable("no session"))
    }

    async fn end_attempts(&self, _: Request<v1::EndAttemptsRequest>) -> Answer<v1::EndAttemptsResponse> {
        Err(Status::unavailable("no session"))
    }

    async fn save_checkpoint(&self, _: Request<v1::SaveCheckpointRequest>) -> Answer<v1::SaveCheckpointResponse> {
        Err(Status::unavailable("no session"))
    }

    async fn append_log(&self, _: Request<v1::AppendLogRequest>) -> Answer<v1::AppendLogResponse> {
        Err(Status::unavailable("no session"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_refused_for_its_version_ends_and_says_what_to_upgrade() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = Server::builder().add_service(WorkerServiceServer::new(Newer));
    let serving = tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
    let folder = tempfile::tempdir().unwrap();
    let ended = Running::start_in(folder.path(), &format!("worker --slots 1 --coordinator {url}")).end();
    ended.says(7, &["the coordinator refuses this worker", "upgrade the worker"]);
    serving.abort();
}
