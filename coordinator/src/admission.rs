//! The role check in front of all services: who may not call is refused, and who may is given a
//! seat while the request arrives.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Request, Response};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::Instrument;

use crate::access::{Caller, Load, Peer, metric_name};
use crate::config::Limits;
use crate::intake::{Answer, Intake};
use crate::seats::{Hall, Seat};
use crate::{telemetry, traces};

/// Checks roles and takes seats in front of all services.
#[derive(Clone, Debug)]
pub(crate) struct RoleCheck {
    pub(crate) hall: Hall,
    pub(crate) limits: Limits,
}

impl RoleCheck {
    /// Waits for the seat of a call and attaches it to the request.
    async fn admit(
        &self,
        peer: &Peer,
        load: Result<Load, Status>,
        request: Request<Body>,
    ) -> Result<(Request<Body>, Option<Arc<Seat>>), Status> {
        let load = load?;
        let seat = self.hall.take(peer, load).await?;
        let (mut parts, body) = request.into_parts();
        let intake = Intake::new(body, load.messages(), load.message_max(), load.pause(&self.limits));
        let body = if load.comes_whole() { intake.gathered().await? } else { Body::new(intake) };
        if let Some(seat) = &seat {
            self.hall.turn(seat, peer, load).await?;
            parts.extensions.insert(seat.clone());
        }
        Ok((Request::from_parts(parts, body), seat))
    }
}

impl<S> Layer<S> for RoleCheck {
    type Service = RoleChecked<S>;

    fn layer(&self, inner: S) -> RoleChecked<S> {
        RoleChecked { inner, guard: self.clone() }
    }
}

/// A service behind the role check.
#[derive(Clone, Debug)]
pub(crate) struct RoleChecked<S> {
    inner: S,
    guard: RoleCheck,
}

impl<S> Service<Request<Body>> for RoleChecked<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let later = self.inner.clone();
        // The one that is ready.
        let mut inner = std::mem::replace(&mut self.inner, later);
        let guard = self.guard.clone();
        let stranger = || Peer { caller: Caller::Nameless, network: None, by_socket: false };
        let peer = request.extensions().get().cloned().unwrap_or_else(stranger);
        let method = request.uri().path();
        let (name, checked) = (metric_name(method), peer.caller.check(method));
        let began = Instant::now();
        Box::pin(async move {
            let response = match guard.admit(&peer, checked, request).await {
                Ok((request, seat)) => {
                    let span = traces::of_call(&request);
                    let response = inner.call(request).instrument(span).await?;
                    response.map(|body| Body::new(Answer { body, _seat: seat }))
                }
                Err(refused) => refused.into_http(),
            };
            let code = Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code());
            telemetry::answered(name, code_name(code), began.elapsed());
            Ok(response)
        })
    }
}

/// The name of a status code in gRPC's specification.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
