//! How an attempt ended, told to the coordinator.

use domain::artifact::Manifest;
use domain::study::stage::{Failure, FailureCode};
use proto::status::{Reason, is_final, reason};
use proto::v1;
use proto::v1::attempt_end::End;
use tonic::Status;

use super::Attempt;
use crate::session::BACKOFF;
use crate::{reports, telemetry};

/// How an attempt ended.
pub(super) enum Outcome {
    Done(Manifest),
    Failed(Failure),
    /// Handed back, or nobody wants it any more.
    Stopped,
}

impl Outcome {
    fn name(&self) -> &'static str {
        match self {
            Self::Done(_) => "succeeded",
            Self::Failed(_) => "failed",
            Self::Stopped => "released",
        }
    }
}

impl Attempt<'_> {
    /// Tells how the attempt ended, if anybody still wants to know.
    pub(super) async fn conclude(&self, outcome: &Outcome) {
        let task = self.grant.label();
        if let Outcome::Failed(failure) = outcome {
            tracing::debug!(task, code = failure.code.name(), reason = failure.message, "attempt failed");
        }
        let is_revoked = self.revoked.is_cancelled();
        telemetry::ended(self.grant, if is_revoked { "revoked" } else { outcome.name() }, self.began.elapsed());
        if is_revoked {
            return;
        }
        let mut refused = self.tell(outcome).await;
        let Outcome::Done(manifest) = outcome else { return };
        if refused.as_ref().is_some_and(|status| reason(status) == Some(Reason::MissingBlob)) {
            // Found damaged since it was pushed, cleared away, or never seen by this coordinator.
            let outputs = self.folder.outputs();
            match self.retrying(|| self.storing.push_files(&outputs, manifest)).await {
                Some(Ok(())) => refused = self.tell(outcome).await,
                Some(Err(error)) => tracing::warn!(task, %error, "what is missing cannot be stored again"),
                None => return,
            }
        }
        if let Some(status) = refused {
            let problem = format!("the coordinator refuses the result: {}", status.message());
            self.tell(&Outcome::Failed(Failure::new(FailureCode::Internal, problem))).await;
        }
    }

    /// Tells the coordinator until it has heard or refuses, and returns why it
    /// refused a current lease's outcome. While it is away the attempt's result is
    /// kept and offered again.
    #[tracing::instrument(name = "commit", skip_all)]
    async fn tell(&self, outcome: &Outcome) -> Option<Status> {
        let mut backoff = BACKOFF;
        loop {
            match self.send(outcome).await {
                Ok(()) => return None,
                Err(status) if reason(&status) == Some(Reason::Fenced) => return None,
                Err(status) if is_final(&status) => {
                    let task = self.grant.label();
                    tracing::warn!(task, reason = status.message(), "the coordinator refuses the outcome");
                    return Some(status);
                }
                Err(status) => tracing::debug!(reason = status.message(), "the coordinator is away"),
            }
            self.wait(&mut backoff).await?;
        }
    }

    async fn send(&self, outcome: &Outcome) -> Result<(), Status> {
        let end = match outcome {
            Outcome::Done(manifest) => {
                End::Succeeded(v1::Succeeded { artifact: manifest.id().to_string(), manifest: manifest.to_bytes() })
            }
            Outcome::Failed(failure) => {
                End::Failed(v1::Failed { code: failure.code.name().to_owned(), message: failure.message.clone() })
            }
            Outcome::Stopped => End::Released(v1::Released {}),
        };
        let end = v1::AttemptEnd { task_key: self.grant.task.to_string(), token: self.grant.token.0, end: Some(end) };
        reports::tell(&self.shared.reports, end).await
    }
}
