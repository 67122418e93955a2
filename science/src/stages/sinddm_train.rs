//! (to come)

use domain::experiment::Sinddm;
use domain::stage::{Failure, FailureCode};

use super::Attempt;

/// (to come)
pub fn run(_sinddm: &Sinddm, _attempt: Attempt<'_>) -> Result<(), Failure> {
    Err(Failure::new(FailureCode::Internal, "not built yet"))
}
