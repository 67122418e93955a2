//! (to come)

use domain::stage::Patches;
use domain::stage::{Failure, FailureCode};

use super::Attempt;

/// (to come)
pub fn run(_patches: &Patches, _attempt: Attempt<'_>) -> Result<(), Failure> {
    Err(Failure::new(FailureCode::Internal, "not built yet"))
}
