//! (to come)

use domain::stage::Aggregate;
use domain::stage::{Failure, FailureCode};

use super::Attempt;

/// (to come)
pub fn run(_aggregate: &Aggregate, _attempt: Attempt<'_>) -> Result<(), Failure> {
    Err(Failure::new(FailureCode::Internal, "not built yet"))
}
