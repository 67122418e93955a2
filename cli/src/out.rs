//! Standard output, which may be a pipe that nobody reads any more.

use std::fmt::Display;
use std::io::{self, Write};

/// Prints a line. A reader that has gone away (`lithogen … | head`) wants no
/// more: the program ends as if it had been read to the end.
pub fn line(text: impl Display) {
    let written = writeln!(io::stdout().lock(), "{text}");
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            eprintln!("error: cannot write to standard output: {error}");
            std::process::exit(i32::from(crate::exit::ERROR));
        }
        Ok(()) => {}
    }
}
