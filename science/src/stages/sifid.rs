//! (to come)

use domain::experiment::Sifid;
use domain::stage::{Failure, FailureCode};

use super::Attempt;

/// (to come)
pub fn run(_sifid: &Sifid, _attempt: Attempt<'_>) -> Result<(), Failure> {
    Err(Failure::new(FailureCode::Internal, "not built yet"))
}
