//! (to come)

use domain::stage::Ingest;
use domain::stage::{Failure, FailureCode};

use super::Attempt;

/// (to come)
pub fn run(_ingest: &Ingest, _attempt: Attempt<'_>) -> Result<(), Failure> {
    Err(Failure::new(FailureCode::Internal, "not built yet"))
}
