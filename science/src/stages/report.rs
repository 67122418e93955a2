//! Writes what people read: one page, tables and the numbers themselves.

mod pictures;

use domain::study::records::Record;
use domain::study::results::Results;
use domain::study::stage::{Failure, FailureCode, InputName};

use super::Attempt;
use crate::files;

/// Writes `index.html`, `table.md`, `table.csv`, `table.tex`, `scores.csv`, `claims.csv`,
/// `results.json` and `pictures/`.
///
/// # Errors
/// If the results cannot be read or the files cannot be written.
pub fn run(attempt: Attempt<'_>) -> Result<(), Failure> {
    let folder = attempt.folder;
    let source = folder.input(InputName::Results).join(Results::FILE);
    let results: Results = files::read(&source)?;
    pictures::copy(&source, &folder.output(Results::FILE))?;
    let pictures = pictures::copy_all(folder)?;
    let texts = report::files(&results, &pictures)
        .map_err(|error| Failure::new(FailureCode::Internal, format!("index.html: {error}")))?;
    for (name, text) in texts {
        files::write_bytes(&folder.output(name), text.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
