//! (to come)

use domain::experiment::Sampling;
use domain::stage::{Failure, FailureCode};

use super::Attempt;

/// (to come)
pub fn run(_sampling: &Sampling, _attempt: Attempt<'_>) -> Result<(), Failure> {
    Err(Failure::new(FailureCode::Internal, "not built yet"))
}
