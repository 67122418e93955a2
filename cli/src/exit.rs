//! Exit codes. Documented in `lithogen --help` and in docs/cli.md.

use std::fmt;

use domain::study::stage::Failure;

/// Something went wrong.
pub const ERROR: u8 = 1;
/// The command line or the spec is wrong.
pub const USAGE: u8 = 2;
/// The data cannot be used.
pub const DATA: u8 = 4;
/// The study ended with failed tasks.
pub const FAILED_TASKS: u8 = 5;
/// The coordinator cannot be reached.
pub const UNREACHABLE: u8 = 6;
/// The two programs do not understand each other.
pub const INCOMPATIBLE: u8 = 7;
/// The command was interrupted; the same command goes on.
pub const INTERRUPTED: u8 = 130;

/// An error with an exit code of its own.
#[derive(Debug)]
pub struct Problem {
    code: u8,
    message: String,
}

impl Problem {
    /// An error that ends the program with `code`.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

/// Gives a failure of reading the exit code of unusable data.
///
/// # Errors
/// Exit code 4 if there was a failure.
pub fn usable<T>(result: Result<T, Failure>) -> anyhow::Result<T> {
    result.map_err(|failure| Problem::new(DATA, failure.to_string()).into())
}

/// The code that an error ends the program with.
pub fn code_of(error: &anyhow::Error) -> u8 {
    error.chain().find_map(|cause| cause.downcast_ref::<Problem>()).map_or(ERROR, |problem| problem.code)
}
