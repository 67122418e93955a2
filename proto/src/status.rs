//! Refusals as gRPC statuses, in one place, and what a caller may do about them.

use std::collections::HashMap;
use std::error::Error as _;
use std::io;
use std::time::Duration;

use domain::runner::registry;
use domain::runner::scheduler::Reject;
use domain::text::cut;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::convert::InvalidField;
use crate::v1;

/// `domain` of every `google.rpc.ErrorInfo` sent.
pub const DOMAIN: &str = "lithogen";

/// Why a call is refused: `reason` of `google.rpc.ErrorInfo`, in capitals, for instance
/// `MISSING_BLOB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    /// The lease is over.
    Fenced,
    /// The run was cancelled while it was being submitted.
    Cancelled,
    /// A worker asks for work without a session.
    NoSession,
    /// The two programs do not understand each other.
    Incompatible,
    /// The caller shows no certificate, or one that counts no more.
    Who,
    /// The caller's role does not allow the call.
    Role,
    /// The caller, or everybody together, has as much under way as may be.
    Busy,
    /// The coordinator ends before it has answered.
    Ending,
    /// A message is larger than the method takes.
    TooLarge,
    /// A request or the reader of an answer keeps the coordinator waiting.
    TooSlow,
    /// A field of a message is missing or out of range; the details name it.
    InvalidField,
    /// A submission is no plan.
    InvalidPlan,
    /// The submitter has as many unfinished runs as may be.
    OpenRuns,
    /// As much is kept for the submitter as may be.
    KeptForOne,
    UnknownRun,
    UnknownTask,
    UnknownAttempt,
    UnknownWorker,
    /// The task has no result that could be computed again.
    NoResult,
    /// No blob of that digest is stored.
    UnknownBlob,
    /// A file of an artifact is not stored.
    MissingBlob,
    /// The bytes that came are not those that the digest names.
    DigestMismatch,
    /// The bytes that are stored are not those that the digest names.
    DamagedBlob,
    /// The bytes that are stored are no manifest.
    NotAManifest,
    /// There is no room until somebody makes some.
    DiskFull,
    /// The coordinator's files cannot be read or written.
    Storage,
    /// The journal cannot be read.
    Journal,
    /// The certificate authority cannot be used.
    Pki,
    /// The coordinator serves its own machine only, so that nobody can join.
    LoopbackOnly,
    /// The caller has no certificate that could be renewed.
    NotJoined,
    /// A join token would be good for nothing.
    NoUses,
    /// There is no join token or identity of that name, or more than one.
    Unknown,
    UnknownToken,
    TokenExpired,
    TokenUsedUp,
    TokenRevoked,
    UnknownIdentity,
    IdentityRevoked,
    /// The certificate to be renewed is of another key.
    OtherKey,
}

impl Reason {
    /// The status code of calls that are refused for this reason.
    pub fn code(self) -> Code {
        match self {
            Self::Fenced | Self::Cancelled => Code::Aborted,
            Self::NoSession
            | Self::Incompatible
            | Self::NoResult
            | Self::MissingBlob
            | Self::LoopbackOnly
            | Self::NotJoined => Code::FailedPrecondition,
            Self::Who
            | Self::UnknownToken
            | Self::TokenExpired
            | Self::TokenUsedUp
            | Self::TokenRevoked
            | Self::IdentityRevoked => Code::Unauthenticated,
            Self::Role | Self::OtherKey => Code::PermissionDenied,
            Self::Busy | Self::OpenRuns | Self::KeptForOne | Self::DiskFull => Code::ResourceExhausted,
            Self::Ending => Code::Unavailable,
            Self::TooLarge => Code::OutOfRange,
            Self::TooSlow => Code::DeadlineExceeded,
            Self::InvalidField | Self::InvalidPlan | Self::NoUses => Code::InvalidArgument,
            Self::UnknownRun
            | Self::UnknownTask
            | Self::UnknownAttempt
            | Self::UnknownWorker
            | Self::UnknownBlob
            | Self::Unknown
            | Self::UnknownIdentity => Code::NotFound,
            Self::DigestMismatch | Self::DamagedBlob | Self::NotAManifest => Code::DataLoss,
            Self::Storage | Self::Journal | Self::Pki => Code::Internal,
        }
    }

    /// The reason's name on the wire.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Most bytes of a message: it travels in a header, in its details again, and may quote what
/// others sent.
const MESSAGE_MAX: usize = 2048;

/// The refusal of a call, with `google.rpc.ErrorInfo`.
pub fn status(reason: Reason, message: impl Into<String>) -> Status {
    detailed(reason.code(), reason.name(), &message.into())
}

fn detailed(code: Code, reason: &str, message: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::<String, String>::new());
    Status::with_error_details(code, cut(message, MESSAGE_MAX), details)
}

/// A refusal of what may be tried again after some time, which it names as
/// `google.rpc.RetryInfo` does.
pub fn again_in(wait: Duration, message: impl Into<String>) -> Status {
    let mut details = ErrorDetails::with_retry_info(Some(wait));
    details.set_error_info(Reason::Busy.name(), DOMAIN, HashMap::<String, String>::new());
    Status::with_error_details(Reason::Busy.code(), message.into(), details)
}

/// The reason that a status carries, if it is one that this program knows.
pub fn reason(status: &Status) -> Option<Reason> {
    reason_name(status)?.parse().ok()
}

fn reason_name(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    (info.domain == DOMAIN).then_some(info.reason)
}

/// The status of a refusal by the scheduler.
pub fn of_reject(reject: Reject) -> Status {
    let reason = match reject {
        Reject::UnknownTask(_) => Reason::UnknownTask,
        Reject::UnknownRun(_) => Reason::UnknownRun,
        Reject::Cancelled(_) => Reason::Cancelled,
        Reject::UnknownWorker(_) => Reason::NoSession,
        Reject::Fenced { .. } => Reason::Fenced,
        Reject::InvalidPlan { .. } => Reason::InvalidPlan,
    };
    status(reason, reject.to_string())
}

/// What becomes of one of several things reported in one call.
pub fn verdict(result: Result<(), Status>) -> v1::Verdict {
    match result {
        Ok(()) => v1::Verdict::default(),
        Err(refused) => v1::Verdict {
            code: refused.code() as i32,
            reason: reason_name(&refused).unwrap_or_default(),
            message: refused.message().to_owned(),
        },
    }
}

/// The refusal in a verdict, as if it had been the answer to a call of its own.
pub fn of_verdict(verdict: &v1::Verdict) -> Result<(), Status> {
    match Code::from_i32(verdict.code) {
        Code::Ok => Ok(()),
        code => Err(detailed(code, &verdict.reason, &verdict.message)),
    }
}

/// The status of a refusal to somebody who wants to join or to let others join.
pub fn of_registry(reject: registry::Reject) -> Status {
    use registry::Reject;
    let reason = match reject {
        Reject::NoUses => Reason::NoUses,
        Reject::UnknownToken => Reason::UnknownToken,
        Reject::TokenExpired(_) => Reason::TokenExpired,
        Reject::TokenUsedUp(_) => Reason::TokenUsedUp,
        Reject::TokenRevoked(_) => Reason::TokenRevoked,
        Reject::UnknownIdentity(_) => Reason::UnknownIdentity,
        Reject::IdentityRevoked(_) => Reason::IdentityRevoked,
        Reject::OtherKey(_) => Reason::OtherKey,
    };
    status(reason, reject.to_string())
}

/// The status of a message that does not decode; its details name the field.
impl From<InvalidField> for Status {
    fn from(invalid: InvalidField) -> Self {
        let mut details =
            ErrorDetails::with_error_info(Reason::InvalidField.name(), DOMAIN, HashMap::<String, String>::new());
        details.add_bad_request_violation(invalid.field, cut(&invalid.problem, MESSAGE_MAX));
        Status::with_error_details(Reason::InvalidField.code(), cut(&invalid.to_string(), MESSAGE_MAX), details)
    }
}

/// A coordinator that was reached and with which no connection can come about.
#[derive(Debug, thiserror::Error)]
#[error("no connection to the coordinator at {address}: {problem}")]
pub struct Refused {
    pub(crate) address: String,
    pub(crate) problem: String,
    /// Whether the obstacle may be gone when the coordinator is back.
    pub(crate) passes: bool,
}

impl Refused {
    /// Whether no later connection can come about either.
    pub fn is_final(&self) -> bool {
        !self.passes
    }
}

/// Why no connection came about, if it is not that nobody answers.
pub fn refused(status: &Status) -> Option<&Refused> {
    let mut source = status.source();
    while let Some(error) = source {
        // An I/O error does not count what it holds as its source.
        let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(refused) = held.and_then(|held| held.downcast_ref::<Refused>()) {
            return Some(refused);
        }
        source = error.source();
    }
    None
}

/// Whether the same call can never succeed. All else may be tried again.
pub fn is_final(status: &Status) -> bool {
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => true,
        // Unless it says when there will be room.
        Code::ResourceExhausted => status.get_details_retry_info().is_none(),
        // Nor can a connection with a certificate that is not believed.
        Code::Ok | Code::Cancelled | Code::Unknown | Code::DeadlineExceeded | Code::Internal | Code::Unavailable => {
            refused(status).is_some_and(Refused::is_final)
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::digest::Digest;
    use domain::id::TaskKey;
    use domain::runner::task::FencingToken;

    use super::*;

    #[test]
    fn a_fenced_call_says_so_and_is_final() {
        let reject = Reject::Fenced { task: TaskKey(Digest::of(b"")), token: FencingToken(7) };
        let status = of_reject(reject);
        assert_eq!(status.code(), Code::Aborted);
        assert_eq!(reason(&status), Some(Reason::Fenced));
        assert!(is_final(&status));
    }

    #[test]
    fn a_reason_of_another_version_is_none_and_travels_on() {
        assert_eq!((Reason::MissingBlob.name(), "MISSING_BLOB".parse()), ("MISSING_BLOB", Ok(Reason::MissingBlob)));
        let newer = v1::Verdict { code: 10, reason: "FROM_THE_FUTURE".to_owned(), message: "no".to_owned() };
        let refused = of_verdict(&newer).unwrap_err();
        assert_eq!((refused.code(), reason(&refused)), (Code::Aborted, None));
        assert_eq!(verdict(Err(refused)), newer);
    }

    #[test]
    fn a_verdict_is_a_status() {
        assert!(of_verdict(&verdict(Ok(()))).is_ok());
        let fenced = of_reject(Reject::Fenced { task: TaskKey(Digest::of(b"")), token: FencingToken(7) });
        let back = of_verdict(&verdict(Err(fenced.clone()))).unwrap_err();
        assert_eq!((back.code(), reason(&back), back.message()), (fenced.code(), reason(&fenced), fenced.message()));
    }

    #[test]
    fn what_may_be_tried_later_says_when_and_is_not_final() {
        let later = again_in(Duration::from_secs(7), "too many");
        assert_eq!(later.get_details_retry_info().unwrap().retry_delay, Some(Duration::from_secs(7)));
        assert_eq!((later.code(), reason(&later)), (Code::ResourceExhausted, Some(Reason::Busy)));
        assert!(!is_final(&later) && is_final(&status(Reason::DiskFull, "full")));
    }

    #[test]
    fn an_invalid_field_is_named_in_the_details() {
        let status = Status::from(InvalidField { field: "task_key", problem: "is empty".to_owned() });
        let request = status.get_details_bad_request().unwrap();
        assert_eq!(request.field_violations[0].field, "task_key");
    }
}
