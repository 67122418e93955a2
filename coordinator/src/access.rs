//! Authorisation: who calls, and what the caller may do, in one table for all methods.

use std::fmt;
use std::time::Duration;

use domain::runner::registry::{IdentityId, Role};
use domain::runner::task::WorkerId;
use proto::status::{Reason, status};
use tonic::Status;

use crate::config::Limits;
use crate::crowd::Network;
use Load::{Download, Large, Medium, Question, Small, Stream, Submission, Upload, Waiting, Watch};

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) caller: Caller,
    /// The caller's network; none on this machine.
    pub(crate) network: Option<Network>,
    /// Whether the connection came by the Unix socket, which only its owner and root can open.
    pub(crate) by_socket: bool,
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A caller on this machine, on loopback or the Unix socket: an administrator.
    Local,
    /// The identity that the certificate names.
    Joined { identity: IdentityId, role: Role },
    /// An identity that was revoked, by its certificate.
    Revoked(IdentityId),
    /// A certificate of this CA that the journal does not know.
    Unknown(IdentityId),
    /// An encrypted connection without a certificate.
    Nameless,
    /// A plaintext connection where encryption is required.
    Plaintext,
    /// An identity that already has as many connections as allowed.
    Crowded(IdentityId),
}

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Allowed {
    /// Everybody, including callers that have not joined.
    Anybody,
    /// These roles, and administrators.
    Roles(&'static [Role]),
}

/// What a call costs the coordinator besides its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// A request of at most 64 KiB.
    Small,
    /// A request of at most 2 MiB.
    Medium,
    /// A query or decision about runs, tasks or workers, of at most 2 MiB, which takes the
    /// driver's time.
    Question,
    /// A spec with its data, or commands, of at most 8 MiB, to be planned.
    Submission,
    /// A request of at most 16 MiB, such as a list of files.
    Large,
    /// A small request whose answer is a stream of changes.
    Watch,
    /// A small request whose answer may take any time.
    Waiting,
    /// A file from the caller, in messages of at most 2 MiB.
    Upload,
    /// A file to the caller.
    Download,
    /// Messages in both directions, for as long as the caller likes.
    Stream,
}

impl Load {
    /// Size limit of one message, in bytes.
    pub(crate) fn message_max(self) -> usize {
        match self {
            Self::Small | Self::Watch | Self::Waiting | Self::Download => 64 * 1024,
            // A heartbeat names all attempts of its worker, who drops tasks names them all.
            Self::Medium | Self::Question | Self::Upload | Self::Stream => 2 * 1024 * 1024,
            Self::Submission => 8 * 1024 * 1024,
            Self::Large => 16 * 1024 * 1024,
        }
    }

    /// Most messages of a request.
    pub(crate) fn messages(self) -> usize {
        if matches!(self, Self::Upload | Self::Stream) { usize::MAX } else { 1 }
    }

    /// Whether the request has to arrive in full before it gets its turn among the requests of
    /// all callers: a slow one then keeps nobody waiting.
    pub(crate) fn comes_whole(self) -> bool {
        matches!(self, Self::Question | Self::Submission)
    }

    /// How long the caller may be silent before the request has arrived in full.
    pub(crate) fn pause(self, limits: &Limits) -> Option<Duration> {
        match self {
            Self::Stream => None,
            Self::Upload => Some(limits.upload_pause),
            Self::Small
            | Self::Medium
            | Self::Question
            | Self::Submission
            | Self::Large
            | Self::Watch
            | Self::Waiting
            | Self::Download => Some(limits.request_pause),
        }
    }
}

const WORKERS: Allowed = Allowed::Roles(&[Role::Worker]);
const SUBMITTERS: Allowed = Allowed::Roles(&[Role::Submitter]);
const READERS: Allowed = Allowed::Roles(&[Role::Submitter, Role::Viewer]);
const WRITERS: Allowed = Allowed::Roles(&[Role::Worker, Role::Submitter]);
const JOINED: Allowed = Allowed::Roles(&Role::ALL);
const ADMINS: Allowed = Allowed::Roles(&[]);

/// Every served method, with who may call it and what the call costs. A method that is not
/// listed is for administrators.
const METHODS: &[(&str, Allowed, Load)] = &[
    ("/grpc.health.v1.Health/Check", Allowed::Anybody, Small),
    ("/grpc.health.v1.Health/Watch", JOINED, Waiting),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", JOINED, Stream),
    ("/lithogen.v1.ArtifactService/CollectGarbage", ADMINS, Waiting),
    ("/lithogen.v1.ArtifactService/FindMissing", WRITERS, Medium),
    ("/lithogen.v1.ArtifactService/GetBlob", JOINED, Download),
    ("/lithogen.v1.ArtifactService/GetUploadOffset", WRITERS, Small),
    ("/lithogen.v1.ArtifactService/PutBlob", WRITERS, Upload),
    ("/lithogen.v1.ArtifactService/VerifyArtifacts", ADMINS, Waiting),
    ("/lithogen.v1.ClusterService/DrainWorker", ADMINS, Question),
    ("/lithogen.v1.ClusterService/ListMeasurements", READERS, Question),
    ("/lithogen.v1.ClusterService/ListWorkers", READERS, Question),
    ("/lithogen.v1.ClusterService/ReadmitWorker", ADMINS, Question),
    ("/lithogen.v1.RegistrationService/CreateToken", ADMINS, Small),
    ("/lithogen.v1.RegistrationService/Enrol", Allowed::Anybody, Small),
    ("/lithogen.v1.RegistrationService/GetServerInfo", Allowed::Anybody, Small),
    ("/lithogen.v1.RegistrationService/ListIdentities", READERS, Small),
    ("/lithogen.v1.RegistrationService/ListTokens", ADMINS, Small),
    ("/lithogen.v1.RegistrationService/Renew", JOINED, Small),
    ("/lithogen.v1.RegistrationService/RevokeIdentity", ADMINS, Small),
    ("/lithogen.v1.RegistrationService/RevokeToken", ADMINS, Small),
    ("/lithogen.v1.RunService/CancelRun", SUBMITTERS, Question),
    ("/lithogen.v1.RunService/GetRun", READERS, Question),
    ("/lithogen.v1.RunService/ListRuns", READERS, Question),
    ("/lithogen.v1.RunService/PauseRun", SUBMITTERS, Question),
    ("/lithogen.v1.RunService/ResumeRun", SUBMITTERS, Question),
    ("/lithogen.v1.RunService/Submit", SUBMITTERS, Submission),
    ("/lithogen.v1.RunService/WatchRun", READERS, Watch),
    ("/lithogen.v1.TaskService/ExplainTask", READERS, Question),
    ("/lithogen.v1.TaskService/ListTasks", READERS, Question),
    ("/lithogen.v1.TaskService/ReadLog", READERS, Watch),
    ("/lithogen.v1.TaskService/RecomputeTasks", ADMINS, Waiting),
    ("/lithogen.v1.WorkerService/AcquireLeases", WORKERS, Waiting),
    ("/lithogen.v1.WorkerService/AppendLog", WORKERS, Medium),
    ("/lithogen.v1.WorkerService/EndAttempts", WORKERS, Large),
    ("/lithogen.v1.WorkerService/SaveCheckpoint", WORKERS, Large),
    ("/lithogen.v1.WorkerService/Session", WORKERS, Stream),
];

/// The row of a method in the table.
fn listed(method: &str) -> Option<(&'static str, Allowed, Load)> {
    METHODS.iter().find(|(listed, ..)| *listed == method).copied()
}

/// The name of a method for metrics: callers cannot make up more names than there are methods.
pub(crate) fn metric_name(method: &str) -> &'static str {
    listed(method).map_or("other", |(name, ..)| name)
}

/// Every page of the window, with who may see it. A page that is not listed is for
/// administrators.
const PAGES: &[(&str, Allowed)] =
    &[("/healthz", Allowed::Anybody), ("/readyz", Allowed::Anybody), ("/metrics", READERS)];

impl Caller {
    /// The caller who sent a request.
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        // Requests come over connections, each of which says who it is.
        request.extensions().get().map_or(Self::Nameless, |peer: &Peer| peer.caller.clone())
    }

    /// The caller's identity; none for callers on this machine.
    pub(crate) fn identity(&self) -> Option<IdentityId> {
        match self {
            Self::Joined { identity, .. } => Some(identity.clone()),
            _ => None,
        }
    }

    /// The network that a request came from.
    pub(crate) fn network_of<T>(request: &tonic::Request<T>) -> Option<Network> {
        request.extensions().get::<Peer>()?.network
    }

    /// Checks that the caller may act for a worker process.
    ///
    /// # Errors
    /// If the process belongs to another identity.
    pub fn speaks_for(&self, worker: &WorkerId) -> Result<(), Status> {
        match self {
            Self::Joined { identity, role: Role::Worker } if !identity.owns(&worker.0) => {
                let problem = format!("identity {identity} cannot speak for worker {worker}");
                Err(status(Reason::Role, problem))
            }
            _ => Ok(()),
        }
    }

    /// The cost of a call, if the caller may make it.
    ///
    /// # Errors
    /// If the caller may not make it; the message says which role may.
    pub(crate) fn check(&self, method: &str) -> Result<Load, Status> {
        let Some((_, allowed, load)) = listed(method) else {
            return self.check_role(ADMINS, method).map(|()| Load::Small).map_err(|refused| match self {
                // Another role would not help a program of another version.
                Self::Joined { .. } => {
                    let problem = format!("this coordinator has no call {method}; use a program of its version");
                    status(Reason::Incompatible, problem)
                }
                _ => refused,
            });
        };
        self.check_role(allowed, method).map(|()| load)
    }

    /// Checks that the caller may see a page of the window.
    ///
    /// # Errors
    /// If the caller may not see the page; the message says which role may.
    pub(crate) fn may_see(&self, page: &str) -> Result<(), Status> {
        let listed = PAGES.iter().find(|(listed, _)| *listed == page);
        self.check_role(listed.map_or(ADMINS, |(_, allowed)| *allowed), page)
    }

    fn check_role(&self, allowed: Allowed, method: &str) -> Result<(), Status> {
        let unknown = |problem: String| Err(status(Reason::Who, problem));
        match self {
            Self::Local | Self::Joined { role: Role::Admin, .. } => Ok(()),
            Self::Crowded(identity) => {
                let problem =
                    format!("{identity} has as many connections open as it may; end some of its commands first");
                Err(status(Reason::Busy, problem))
            }
            Self::Plaintext => unknown("this port speaks TLS only; use https:// and join with a token".to_owned()),
            _ if allowed == Allowed::Anybody => Ok(()),
            Self::Joined { identity, role } => match allowed {
                Allowed::Roles(roles) if !roles.contains(role) => {
                    let (role, method) = (role.name(), method.rsplit('/').next().unwrap_or(method));
                    let problem = format!("{identity} is a {role} and may not call {method}; {}", needed(roles));
                    Err(status(Reason::Role, problem))
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

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("this machine"),
            Self::Nameless | Self::Plaintext => f.write_str("somebody"),
            Self::Joined { identity, .. }
            | Self::Revoked(identity)
            | Self::Unknown(identity)
            | Self::Crowded(identity) => identity.fmt(f),
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
            ("RunService/Submit", [false, true, false, true]),
            ("RunService/GetRun", [false, true, true, true]),
            ("ArtifactService/PutBlob", [true, true, false, true]),
            ("RegistrationService/CreateToken", [false, false, false, true]),
            ("RegistrationService/Renew", [true, true, true, true]),
            ("FutureService/Anything", [false, false, false, true]),
        ] {
            assert_eq!([&worker, &submitter, &viewer, &admin].map(|caller| may(caller, method)), who, "{method}");
        }
    }

    #[test]
    fn a_call_of_another_version_is_no_question_of_roles() {
        let refused = joined(Role::Viewer).check("/lithogen.v1.ExperimentService/GetRun").unwrap_err();
        assert_eq!(reason(&refused), Some(Reason::Incompatible));
        let refused = Caller::Nameless.check("/lithogen.v1.ExperimentService/GetRun").unwrap_err();
        assert_eq!(reason(&refused), Some(Reason::Who));
    }

    #[test]
    fn metrics_are_for_those_who_may_read_and_other_pages_for_administrators() {
        for (page, who) in [
            ("/healthz", [true, true, true, true]),
            ("/metrics", [false, true, true, true]),
            ("/future", [false, false, false, true]),
        ] {
            assert_eq!(Role::ALL.map(|role| joined(role).may_see(page).is_ok()), who, "{page}");
        }
        assert!(Caller::Local.may_see("/metrics").is_ok());
    }

    #[test]
    fn who_has_not_joined_may_only_ask_to() {
        let id = IdentityId("someone-0123456789ab".to_owned());
        for caller in [Caller::Nameless, Caller::Revoked(id.clone()), Caller::Unknown(id)] {
            assert!(may(&caller, "RegistrationService/Enrol") && may(&caller, "RegistrationService/GetServerInfo"));
            assert!(!may(&caller, "RunService/GetRun") && !may(&caller, "RegistrationService/Renew"));
        }
        assert!(Caller::Nameless.may_see("/readyz").is_ok() && Caller::Nameless.may_see("/metrics").is_err());
        assert!(!may(&Caller::Plaintext, "RegistrationService/Enrol"));
        assert!(may(&Caller::Local, "RegistrationService/CreateToken"));
    }

    #[test]
    fn a_refusal_names_the_role_that_it_takes() {
        let status = joined(Role::Viewer).check("/lithogen.v1.RunService/Submit").unwrap_err();
        assert_eq!(reason(&status), Some(Reason::Role));
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
        let mut listed: Vec<&str> = METHODS.iter().map(|(method, ..)| *method).collect();
        listed.retain(|method| method.starts_with("/lithogen."));
        listed.sort_unstable();
        assert_eq!(listed, served);
    }
}
