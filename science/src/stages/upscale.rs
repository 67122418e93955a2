//! (to come)

use domain::experiment::Upscale;
use domain::stage::{Failure, FailureCode};

use super::Attempt;

/// (to come)
pub fn run(_upscale: &Upscale, _attempt: Attempt<'_>) -> Result<(), Failure> {
    Err(Failure::new(FailureCode::Internal, "not built yet"))
}
