//! (to come)

use domain::stage::ClassifyTrain;
use domain::stage::{Failure, FailureCode};

use super::Attempt;

/// (to come)
pub fn run(_classify: &ClassifyTrain, _attempt: Attempt<'_>) -> Result<(), Failure> {
    Err(Failure::new(FailureCode::Internal, "not built yet"))
}
