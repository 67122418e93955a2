//! Standard output, which may be a pipe that nobody reads any more, and standard error.
//!
//! Whatever is printed goes through here, since names and messages come from workers,
//! submitters and files: nothing that steers a terminal is let through. It is written
//! as JSON writes it, `\u001b`, so JSON says the same as before.
//!
//! Where logs are JSON, so is all else on standard error: one object a line.

use std::backtrace::Backtrace;
use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use tracing_subscriber::EnvFilter;

/// Prints a line on standard error. Takes what `eprintln!` takes.
macro_rules! note {
    ($($text:tt)*) => { $crate::out::error_line(format_args!($($text)*)) };
}

/// The target of notes among JSON logs.
const NOTE: &str = "lithogen::note";

/// Whether notes are JSON.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// Bytes of a log after which a line that does not end is shown.
const LINE_MAX: usize = 64 * 1024;

/// Prints a line. A reader that has gone away (`lithogen … | head`) wants no
/// more: the program ends as if it had been read to the end.
pub fn line(text: impl Display) {
    let text = text.to_string();
    finish(writeln!(io::stdout().lock(), "{}", shown(&text)));
}

/// Prints a line on standard error; called by `note!`.
pub(crate) fn error_line(text: impl Display) {
    if IS_JSON.load(Ordering::Relaxed) {
        tracing::info!(target: NOTE, "{text}");
        return;
    }
    let text = text.to_string();
    // Whoever does not listen is not told.
    let _ = writeln!(io::stderr().lock(), "{}", shown(&text));
}

/// Prints on standard error why the program ends.
pub(crate) fn problem(text: impl Display) {
    if IS_JSON.load(Ordering::Relaxed) {
        tracing::error!(target: NOTE, "{text}");
    } else {
        note!("error: {text}");
    }
}

/// From now on notes, and what a panic says, go among the logs, which are JSON.
pub(crate) fn write_json() {
    IS_JSON.store(true, Ordering::Relaxed);
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(target: NOTE, backtrace = %Backtrace::capture(), "{panic}");
    }));
}

/// Lets notes through a filter, whatever else it lets through.
pub(crate) fn with_notes(filter: EnvFilter) -> EnvFilter {
    match format!("{NOTE}=info").parse() {
        Ok(notes) => filter.add_directive(notes),
        Err(_) => filter,
    }
}

/// Takes lines of JSON to standard error. What would steer a terminal is written out.
pub(crate) struct Lines;

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stderr().lock().write_all(shown(&String::from_utf8_lossy(bytes)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Prints what programs have said, as they said it.
pub fn raw(bytes: &[u8]) {
    let mut output = io::stdout().lock();
    finish(output.write_all(bytes).and_then(|()| output.flush()));
}

fn finish(written: io::Result<()>) {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            note!("error: cannot write to standard output: {error}");
            std::process::exit(i32::from(crate::exit::ERROR));
        }
        Ok(()) => {}
    }
}

/// The text with everything written out that would steer a terminal: control
/// characters other than the ends of lines and tabs, and what changes the direction of
/// writing.
pub fn shown(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if steers(c) {
            // A string takes whatever is written to it.
            let _ = write!(shown, "\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

fn steers(c: char) -> bool {
    let is_plain = matches!(c, '\n' | '\t');
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || (c.is_control() && !is_plain)
}

/// What programs have said, for a terminal: line by line, since a piece may end in the
/// midst of a character. A carriage return ends a line, as progress bars use it.
#[derive(Debug, Default)]
pub struct Log {
    rest: Vec<u8>,
}

impl Log {
    /// The lines that are whole with these bytes.
    pub fn add(&mut self, bytes: &[u8]) -> String {
        self.rest.extend_from_slice(bytes);
        let length = self.rest.len();
        // One at the very end may be the half of a longer end.
        let ends = |at: &usize| matches!((self.rest[*at], at + 1 < length), (b'\n', _) | (b'\r', true));
        let end = if length > LINE_MAX { length } else { (0..length).rev().find(ends).map_or(0, |last| last + 1) };
        of_log(self.rest.drain(..end).as_slice())
    }

    /// What is left without an end of its line.
    pub fn end(self) -> String {
        of_log(&self.rest)
    }
}

fn of_log(bytes: &[u8]) -> String {
    shown(&String::from_utf8_lossy(bytes).replace("\r\n", "\n").replace('\r', "\n")).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_written_out_as_json_writes_it() {
        assert_eq!(shown("stone 7\tα\n"), "stone 7\tα\n");
        assert_eq!(shown("a\u{1b}[2Jb\rc\u{7f}\u{9b}\0"), r"a\u001b[2Jb\u000dc\u007f\u009b\u0000");
        assert_eq!(shown("a\u{202e}b\u{2066}"), r"a\u202eb\u2066");
        let text = "\u{1b}]0;title\u{7}\u{9b}31m\u{7f}\u{202e}";
        let json = serde_json::to_string(text).unwrap();
        let printed = shown(&json);
        assert!(!printed.contains(steers));
        assert_eq!(serde_json::from_str::<String>(&printed).unwrap(), text);
    }

    #[test]
    fn a_log_is_shown_line_by_line() {
        let mut log = Log::default();
        assert_eq!(log.add("epoch 1\n\u{1b}[31mlo".as_bytes()), "epoch 1\n");
        assert_eq!(log.add("ss ü".as_bytes().split_last().unwrap().1), "");
        assert_eq!(log.add(&[0xbc, b'\r', b'\n']), "\\u001b[31mloss ü\n");
        assert_eq!(log.add(b"10%\r20%\r"), "10%\n");
        assert_eq!(log.add(b"\n\xff"), "20%\n");
        assert_eq!(log.add(&[b'x'; LINE_MAX]).len(), LINE_MAX + 3);
        log.add(b"end");
        assert_eq!(log.end(), "end");
    }
}
