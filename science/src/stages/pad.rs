//! (to come)

use domain::experiment::Pad;
use domain::stage::{Failure, FailureCode};
use domain::stone::Class;

use super::Attempt;

/// (to come)
pub fn run(_class: Class, _pad: &Pad, _attempt: Attempt<'_>) -> Result<(), Failure> {
    Err(Failure::new(FailureCode::Internal, "not built yet"))
}
