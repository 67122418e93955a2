//! Lines of a stream, of bounded length.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// Most bytes of a line. A longer line is passed over.
pub(crate) const LINE_MAX: usize = 64 * 1024;

/// The lines of a stream.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    stream: R,
    line: Vec<u8>,
    /// Whether the line that is being read is longer than is kept.
    is_too_long: bool,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    /// Reads the lines of `stream`.
    pub(crate) fn new(stream: R) -> Self {
        Self { stream, line: vec![], is_too_long: false }
    }

    /// The next line without its end; `None` after the last. A call that is dropped before it is
    /// ready loses nothing.
    ///
    /// # Errors
    /// Those of the stream.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let bytes = self.stream.fill_buf().await?;
            let is_over = bytes.is_empty();
            let newline = bytes.iter().position(|byte| *byte == b'\n');
            let part = &bytes[..newline.unwrap_or(bytes.len())];
            self.is_too_long |= self.line.len() + part.len() > LINE_MAX;
            if !self.is_too_long {
                self.line.extend_from_slice(part);
            }
            let taken = newline.map_or(bytes.len(), |place| place + 1);
            self.stream.consume(taken);
            if is_over || newline.is_some() {
                let line = std::mem::take(&mut self.line);
                let is_none = is_over && line.is_empty();
                if !std::mem::take(&mut self.is_too_long) && !is_none {
                    return Ok(Some(line));
                }
            }
            if is_over {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::io::{AsyncReadExt, BufReader};

    #[tokio::test]
    async fn lines_come_one_by_one_also_the_last_one_without_an_end() {
        let mut lines = Lines::new(b"one\n\ntwo\xff\nthree".as_slice());
        for line in [b"one".as_slice(), b"", b"two\xff", b"three"] {
            assert_eq!(lines.next().await.unwrap().as_deref(), Some(line));
        }
        assert_eq!(lines.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_passed_over_and_takes_no_memory() {
        let long = tokio::io::repeat(b'x').take(10 << 20);
        let fits = [b"\n".as_slice(), &[b'y'; LINE_MAX], b"\n"].concat();
        let mut lines = Lines::new(BufReader::new(long.chain(fits.as_slice())));
        assert_eq!(lines.next().await.unwrap(), Some(vec![b'y'; LINE_MAX]));
        let endless = tokio::io::repeat(b'x').take(10 << 20);
        let mut lines = Lines::new(BufReader::new(endless));
        assert_eq!(lines.next().await.unwrap(), None);
        assert!(lines.line.capacity() <= LINE_MAX, "{}", lines.line.capacity());
    }
}
