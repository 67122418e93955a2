//! Who calls, and what they may: one table for all methods.

use std::future::{Ready, ready};
use std::task::{Context, Poll};

use domain::registry::{IdentityId, Role};
use domain::task::WorkerId;
use http::{Request, Response};
use proto::status::{ROLE, WHO, status};
use tokio_util::either::Either;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Somebody on this machine, on loopback or the Unix socket: an administrator.
    Local,
    /// Whoever the certificate names.
    Joined {
        /// Its name.
        identity: IdentityId,
        /// What it may do.
        role: Role,
    },
    /// A certificate of somebody who may not speak any more.
    Revoked(IdentityId),
    /// A certificate of this CA that the journal knows nothing of.
    Unknown(IdentityId),
    /// Encrypted, without a certificate.
    Nameless,
    /// In plaintext where encryption is spoken.
    Plaintext,
}

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Allowed {
    /// Also those who have not joined.
    Anybody,
    /// These, and administrators.
    Roles(&'static [Role]),
}

const WORKERS: Allowed = Allowed::Roles(&[Role::Worker]);
const SUBMITTERS: Allowed = Allowed::Roles(&[Role::Submitter]);
const READERS: Allowed = Allowed::Roles(&[Role::Submitter, Role::Viewer]);
const WRITERS: Allowed = Allowed::Roles(&[Role::Worker, Role::Submitter]);
const JOINED: Allowed = Allowed::Roles(&Role::ALL);
const ADMINS: Allowed = Allowed::Roles(&[]);

/// Every method that is served. What is not here is for administrators.
const METHODS: &[(&str, Allowed)] = &[
    ("/grpc.health.v1.Health/Check", Allowed::Anybody),
    ("/grpc.health.v1.Health/Watch", JOINED),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", JOINED),
    ("/lithogen.v1.ArtifactService/CollectGarbage", ADMINS),
    ("/lithogen.v1.ArtifactService/FindMissing", WRITERS),
    ("/lithogen.v1.ArtifactService/GetBlob", JOINED),
    ("/lithogen.v1.ArtifactService/GetUploadOffset", WRITERS),
    ("/lithogen.v1.ArtifactService/PutBlob", WRITERS),
    ("/lithogen.v1.ArtifactService/VerifyArtifacts", ADMINS),
    ("/lithogen.v1.ExperimentService/CancelRun", SUBMITTERS),
    ("/lithogen.v1.ExperimentService/DrainWorker", ADMINS),
    ("/lithogen.v1.ExperimentService/ListTasks", READERS),
    ("/lithogen.v1.ExperimentService/ExplainTask", READERS),
    ("/lithogen.v1.ExperimentService/GetRun", READERS),
    ("/lithogen.v1.ExperimentService/ListRuns", READERS),
    ("/lithogen.v1.ExperimentService/ListWorkers", READERS),
    ("/lithogen.v1.ExperimentService/PauseRun", SUBMITTERS),
    ("/lithogen.v1.ExperimentService/ReadLog", READERS),
    ("/lithogen.v1.ExperimentService/ReadmitWorker", ADMINS),
    ("/lithogen.v1.ExperimentService/RecomputeTasks", ADMINS),
    ("/lithogen.v1.ExperimentService/ResumeRun", SUBMITTERS),
    ("/lithogen.v1.ExperimentService/Submit", SUBMITTERS),
    ("/lithogen.v1.ExperimentService/WatchRun", READERS),
    ("/lithogen.v1.RegistrationService/CreateToken", ADMINS),
    ("/lithogen.v1.RegistrationService/Enrol", Allowed::Anybody),
    ("/lithogen.v1.RegistrationService/GetServerInfo", Allowed::Anybody),
    ("/lithogen.v1.RegistrationService/ListIdentities", READERS),
    ("/lithogen.v1.RegistrationService/ListTokens", ADMINS),
    ("/lithogen.v1.RegistrationService/Renew", JOINED),
    ("/lithogen.v1.RegistrationService/RevokeIdentity", ADMINS),
    ("/lithogen.v1.RegistrationService/RevokeToken", ADMINS),
    ("/lithogen.v1.WorkerService/AcquireLeases", WORKERS),
    ("/lithogen.v1.WorkerService/AppendLog", WORKERS),
    ("/lithogen.v1.WorkerService/EndAttempts", WORKERS),
    ("/lithogen.v1.WorkerService/SaveCheckpoint", WORKERS),
    ("/lithogen.v1.WorkerService/Session", WORKERS),
];

impl Caller {
    /// Whoever sent a request.
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        // Requests come over connections, each of which says who it is.
        request.extensions().get().cloned().unwrap_or(Self::Nameless)
    }

    /// Checks that the caller may speak for a worker process.
    ///
    /// # Errors
    /// If the process belongs to another identity.
    pub fn speaks_for(&self, worker: &WorkerId) -> Result<(), Status> {
        match self {
            Self::Joined { identity, role: Role::Worker } if !identity.owns(&worker.0) => {
                let problem = format!("identity {identity} cannot speak for worker {worker}");
                Err(status(Code::PermissionDenied, ROLE, problem))
            }
            _ => Ok(()),
        }
    }

    fn check(&self, method: &str) -> Result<(), Status> {
        let listed = METHODS.iter().find(|(listed, _)| *listed == method);
        let allowed = listed.map_or(ADMINS, |(_, allowed)| *allowed);
        let unknown = |problem: String| Err(status(Code::Unauthenticated, WHO, problem));
        match self {
            Self::Local | Self::Joined { role: Role::Admin, .. } => Ok(()),
            Self::Plaintext => unknown("this port speaks TLS only; use https:// and join with a token".to_owned()),
            _ if allowed == Allowed::Anybody => Ok(()),
            Self::Joined { identity, role } => match allowed {
                Allowed::Roles(roles) if !roles.contains(role) => {
                    let (role, method) = (role.name(), method.rsplit('/').next().unwrap_or(method));
                    let problem = format!("{identity} is a {role} and may not call {method}; {}", needed(roles));
                    Err(status(Code::PermissionDenied, ROLE, problem))
                }
                Allowed::Roles(_) | Allowed::Anybody => Ok(()),
            },
            Self::Revoked(identity) => unknown(format!(
                "identity {identity} was revoked; to join again, remove its identity folder and use a new join token"
            )),
            Self::Unknown(identity) => unknown(format!(
                "this coordinator does not know identity {identity}; was its state folder replaced? Join again with a \
                 new join token"
            )),
            Self::Nameless => unknown("this call needs a certificate; join with a token first".to_owned()),
        }
    }
}

fn needed(roles: &[Role]) -> String {
    let names: Vec<&str> = roles.iter().map(|role| role.name()).chain(["admin"]).collect();
    format!("it takes the role {}", names.join(" or "))
}

/// Puts the table in front of all services.
#[derive(Clone, Copy, Debug)]
pub struct Guard;

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner }
    }
}

/// Services behind the table.
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    inner: S,
}

impl<S: Service<Request<Body>, Response = Response<Body>>> Service<Request<Body>> for Guarded<S> {
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let caller = request.extensions().get::<Caller>().unwrap_or(&Caller::Nameless);
        match caller.check(request.uri().path()) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::status::reason;

    use super::*;

    fn joined(role: Role) -> Caller {
        Caller::Joined { identity: IdentityId("someone-0123456789ab".to_owned()), role }
    }

    fn may(caller: &Caller, method: &str) -> bool {
        caller.check(&format!("/lithogen.v1.{method}")).is_ok()
    }

    #[test]
    fn each_role_may_what_it_is_for() {
        let [worker, submitter, viewer, admin] = Role::ALL.map(joined);
        for (method, who) in [
            ("WorkerService/AcquireLeases", [true, false, false, true]),
            ("ExperimentService/Submit", [false, true, false, true]),
            ("ExperimentService/GetRun", [false, true, true, true]),
            ("ArtifactService/PutBlob", [true, true, false, true]),
            ("RegistrationService/CreateToken", [false, false, false, true]),
            ("RegistrationService/Renew", [true, true, true, true]),
            ("FutureService/Anything", [false, false, false, true]),
        ] {
            assert_eq!([&worker, &submitter, &viewer, &admin].map(|caller| may(caller, method)), who, "{method}");
        }
    }

    #[test]
    fn who_has_not_joined_may_only_ask_to() {
        let id = IdentityId("someone-0123456789ab".to_owned());
        for caller in [Caller::Nameless, Caller::Revoked(id.clone()), Caller::Unknown(id)] {
            assert!(may(&caller, "RegistrationService/Enrol") && may(&caller, "RegistrationService/GetServerInfo"));
            assert!(!may(&caller, "ExperimentService/GetRun") && !may(&caller, "RegistrationService/Renew"));
        }
        assert!(!may(&Caller::Plaintext, "RegistrationService/Enrol"));
        assert!(may(&Caller::Local, "RegistrationService/CreateToken"));
    }

    #[test]
    fn a_refusal_names_the_role_that_it_takes() {
        let status = joined(Role::Viewer).check("/lithogen.v1.ExperimentService/Submit").unwrap_err();
        assert_eq!(reason(&status).as_deref(), Some(ROLE));
        assert!(status.message().contains("viewer") && status.message().contains("submitter or admin"), "{status}");
    }

    #[test]
    fn a_worker_speaks_for_its_own_processes_only() {
        let worker = joined(Role::Worker);
        assert!(worker.speaks_for(&WorkerId("someone-0123456789ab-7-1f".to_owned())).is_ok());
        assert!(worker.speaks_for(&WorkerId("other-0123456789ab-7-1f".to_owned())).is_err());
        assert!(Caller::Local.speaks_for(&WorkerId("other-7-1f".to_owned())).is_ok());
    }

    /// A method that is added has to be thought about.
    #[test]
    fn every_method_that_is_served_is_in_the_table() {
        use prost::Message;
        let set = prost_types::FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
        let mut served = vec![];
        for file in &set.file {
            for service in &file.service {
                let method = |method: &prost_types::MethodDescriptorProto| {
                    format!("/{}.{}/{}", file.package(), service.name(), method.name())
                };
                served.extend(service.method.iter().map(method));
            }
        }
        served.sort();
        assert!(served.len() > 10, "{served:?}");
        let mut listed: Vec<&str> = METHODS.iter().map(|(method, _)| *method).collect();
        listed.retain(|method| method.starts_with("/lithogen."));
        listed.sort_unstable();
        assert_eq!(listed, served);
    }
}
