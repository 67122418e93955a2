//! Refusals as gRPC statuses, in one place, and what a caller may do about them.

use std::collections::HashMap;
use std::error::Error as _;
use std::io;
use std::time::Duration;

use domain::registry;
use domain::scheduler::Reject;
use domain::text::cut;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::convert::InvalidField;
use crate::v1;

/// `domain` of every `google.rpc.ErrorInfo` sent.
pub const DOMAIN: &str = "lithogen";

/// `reason` of a refusal under a lease that is over.
pub const FENCED: &str = "FENCED";

/// `reason` where a file of an artifact is not stored.
pub const MISSING_BLOB: &str = "MISSING_BLOB";

/// `reason` where a worker asks for work without a session.
pub const NO_SESSION: &str = "NO_SESSION";

/// `reason` where the two programs do not understand each other.
pub const INCOMPATIBLE: &str = "INCOMPATIBLE";

/// `reason` where the caller shows no certificate, or one that counts no more.
pub const WHO: &str = "WHO";

/// `reason` where the caller's role does not allow the call.
pub const ROLE: &str = "ROLE";

/// `reason` where the caller, or everybody together, has as much under way as may be.
pub const BUSY: &str = "BUSY";

/// `reason` where the coordinator ends before it has answered.
pub const ENDING: &str = "ENDING";

/// `reason` where a message is larger than the method takes.
pub const TOO_LARGE: &str = "TOO_LARGE";

/// `reason` where a request or the reader of an answer keeps the coordinator waiting.
pub const TOO_SLOW: &str = "TOO_SLOW";

/// Most bytes of a message: it travels in a header, in its details again, and may quote what
/// others sent.
const MESSAGE_MAX: usize = 2048;

/// A status with `google.rpc.ErrorInfo`.
pub fn status(code: Code, reason: &str, message: impl Into<String>) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::<String, String>::new());
    Status::with_error_details(code, cut(&message.into(), MESSAGE_MAX), details)
}

/// A refusal of what may be tried again after some time, which it names as
/// `google.rpc.RetryInfo` does.
pub fn again_in(wait: Duration, message: impl Into<String>) -> Status {
    let mut details = ErrorDetails::with_retry_info(Some(wait));
    details.set_error_info(BUSY, DOMAIN, HashMap::<String, String>::new());
    Status::with_error_details(Code::ResourceExhausted, message.into(), details)
}

/// The `reason` that a status carries, if it is one of ours.
pub fn reason(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    (info.domain == DOMAIN).then_some(info.reason)
}

/// The status of a refusal by the scheduler.
pub fn of_reject(reject: &Reject) -> Status {
    let message = reject.to_string();
    match reject {
        Reject::UnknownTask(_) => status(Code::NotFound, "UNKNOWN_TASK", message),
        Reject::UnknownRun(_) => status(Code::NotFound, "UNKNOWN_RUN", message),
        Reject::Cancelled(_) => status(Code::Aborted, "CALLED_OFF", message),
        Reject::UnknownWorker(_) => status(Code::FailedPrecondition, NO_SESSION, message),
        Reject::Fenced { .. } => status(Code::Aborted, FENCED, message),
        Reject::InvalidPlan { .. } => status(Code::InvalidArgument, "INVALID_PLAN", message),
    }
}

/// What becomes of one of several things reported in one call.
pub fn verdict(result: Result<(), Status>) -> v1::Verdict {
    match result {
        Ok(()) => v1::Verdict::default(),
        Err(refused) => v1::Verdict {
            code: refused.code() as i32,
            reason: reason(&refused).unwrap_or_default(),
            message: refused.message().to_owned(),
        },
    }
}

/// The refusal in a verdict, as if it had been the answer to a call of its own.
pub fn of_verdict(verdict: &v1::Verdict) -> Result<(), Status> {
    match Code::from_i32(verdict.code) {
        Code::Ok => Ok(()),
        code => Err(status(code, &verdict.reason, verdict.message.clone())),
    }
}

/// The status of a refusal to somebody who wants to join or to let others join.
pub fn of_registry(reject: &registry::Reject) -> Status {
    use registry::Reject;
    let message = reject.to_string();
    match reject {
        Reject::NoUses => status(Code::InvalidArgument, "NO_USES", message),
        Reject::UnknownToken => status(Code::Unauthenticated, "UNKNOWN_TOKEN", message),
        Reject::TokenExpired(_) => status(Code::Unauthenticated, "TOKEN_EXPIRED", message),
        Reject::TokenUsedUp(_) => status(Code::Unauthenticated, "TOKEN_USED_UP", message),
        Reject::TokenRevoked(_) => status(Code::Unauthenticated, "TOKEN_REVOKED", message),
        Reject::UnknownIdentity(_) => status(Code::NotFound, "UNKNOWN_IDENTITY", message),
        Reject::IdentityRevoked(_) => status(Code::Unauthenticated, "IDENTITY_REVOKED", message),
        Reject::OtherKey(_) => status(Code::PermissionDenied, "OTHER_KEY", message),
    }
}

/// The status of a message that does not decode; its details name the field.
impl From<InvalidField> for Status {
    fn from(invalid: InvalidField) -> Self {
        let mut details = ErrorDetails::with_error_info("INVALID_FIELD", DOMAIN, HashMap::<String, String>::new());
        details.add_bad_request_violation(invalid.field, cut(&invalid.problem, MESSAGE_MAX));
        Status::with_error_details(Code::InvalidArgument, cut(&invalid.to_string(), MESSAGE_MAX), details)
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
    use domain::task::FencingToken;

    use super::*;

    #[test]
    fn a_fenced_call_says_so_and_is_final() {
        let reject = Reject::Fenced { task: Digest::of(b""), token: FencingToken(7) };
        let status = of_reject(&reject);
        assert_eq!(status.code(), Code::Aborted);
        assert_eq!(reason(&status).as_deref(), Some(FENCED));
        assert!(is_final(&status));
    }

    #[test]
    fn a_verdict_is_a_status() {
        assert!(of_verdict(&verdict(Ok(()))).is_ok());
        let fenced = of_reject(&Reject::Fenced { task: Digest::of(b""), token: FencingToken(7) });
        let back = of_verdict(&verdict(Err(fenced.clone()))).unwrap_err();
        assert_eq!((back.code(), reason(&back), back.message()), (fenced.code(), reason(&fenced), fenced.message()));
    }

    #[test]
    fn what_may_be_tried_later_says_when_and_is_not_final() {
        let later = again_in(Duration::from_secs(7), "too many");
        assert_eq!(later.get_details_retry_info().unwrap().retry_delay, Some(Duration::from_secs(7)));
        assert_eq!((later.code(), reason(&later).as_deref()), (Code::ResourceExhausted, Some(BUSY)));
        assert!(!is_final(&later) && is_final(&status(Code::ResourceExhausted, "DISK_FULL", "full")));
    }

    #[test]
    fn an_invalid_field_is_named_in_the_details() {
        let status = Status::from(InvalidField { field: "task_key", problem: "is empty".to_owned() });
        let request = status.get_details_bad_request().unwrap();
        assert_eq!(request.field_violations[0].field, "task_key");
    }
}
