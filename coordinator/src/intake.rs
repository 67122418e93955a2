//! Limits on the size and the pace of request bodies, and answers that hold their seat.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use proto::status::{Reason, status};
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;

use crate::seats::Seat;

/// Least average rate of a request, in bytes per second.
const RATE: u32 = 4096;

/// Bytes before each message of gRPC: the compression flag and the length.
const HEADER: usize = 5;

type Bytes = <Body as HttpBody>::Data;

/// A request body whose messages may not exceed a size, and whose sender may not keep the
/// coordinator waiting.
pub(crate) struct Intake {
    body: Body,
    /// Size limit of one message, in bytes.
    most: usize,
    /// Number of messages that may still begin.
    messages: usize,
    header: [u8; HEADER],
    /// Bytes of the current header that have arrived.
    known: usize,
    /// Bytes of the current message that have not arrived.
    left: usize,
    patience: Option<Patience>,
}

/// Time that may still pass without a byte. Arriving bytes restore some of it, so that a slow
/// and steady sender is never cut off.
struct Patience {
    most: Duration,
    left: Duration,
    /// Since when the coordinator waits for bytes, and the timer for the end of the wait; none
    /// while the coordinator itself is busy.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Intake {
    /// Allows at most `messages` messages of at most `most` bytes each. Without `patience`, a
    /// stream whose end may be silent.
    pub(crate) fn new(body: Body, messages: usize, most: usize, patience: Option<Duration>) -> Self {
        let patience = patience.map(|most| Patience { most, left: most, waiting: None });
        Self { body, most, messages, header: [0; HEADER], known: 0, left: 0, patience }
    }

    /// Collects the whole request in one piece of memory, whatever the pieces in which it
    /// arrived.
    ///
    /// # Errors
    /// If the request breaks off, or exceeds a limit.
    pub(crate) async fn gathered(mut self) -> Result<Body, Status> {
        let mut bytes = vec![];
        while let Some(frame) = self.frame().await {
            if let Ok(data) = frame?.into_data() {
                bytes.extend_from_slice(&data);
            }
        }
        Ok(Body::new(Full::new(Bytes::from(bytes)).map_err(|never| match never {})))
    }

    /// Follows where messages begin and how long they are.
    fn follow(&mut self, mut bytes: &[u8]) -> Result<(), Status> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let taken = self.left.min(bytes.len());
                (self.left, bytes) = (self.left - taken, &bytes[taken..]);
                continue;
            }
            if self.known == 0 {
                let problem = "the request has more messages than its method takes";
                let left = self.messages.checked_sub(1);
                self.messages = left.ok_or_else(|| status(Reason::TooLarge, problem))?;
            }
            let taken = (HEADER - self.known).min(bytes.len());
            self.header[self.known..self.known + taken].copy_from_slice(&bytes[..taken]);
            (self.known, bytes) = (self.known + taken, &bytes[taken..]);
            if self.known == HEADER {
                let [_, length @ ..] = self.header;
                let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                if length > self.most {
                    let problem =
                        format!("the message is too large: it has {length} bytes, at most {} are taken", self.most);
                    return Err(status(Reason::TooLarge, problem));
                }
                (self.known, self.left) = (0, length);
            }
        }
        Ok(())
    }
}

impl Patience {
    /// Restores patience for bytes that have arrived.
    fn relax(&mut self, bytes: usize) {
        if let Some((since, _)) = self.waiting.take() {
            let brought = Duration::from_secs(1) * u32::try_from(bytes).unwrap_or(u32::MAX) / RATE;
            self.left = self.left.saturating_sub(since.elapsed()).saturating_add(brought).min(self.most);
        }
    }

    /// Ready when the patience is used up.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Status> {
        let begin = || {
            let now = Instant::now();
            (now, Box::pin(tokio::time::sleep_until(now + self.left)))
        };
        let (_, end) = self.waiting.get_or_insert_with(begin);
        ready!(end.as_mut().poll(context));
        let problem = format!("nothing more of the request came for {} s", self.left.as_secs());
        Poll::Ready(status(Reason::TooSlow, problem))
    }
}

impl HttpBody for Intake {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_pending() {
            let Some(patience) = &mut self.patience else { return Poll::Pending };
            return patience.poll(context).map(|over| Some(Err(over)));
        }
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            if let Some(patience) = &mut self.patience {
                patience.relax(data.len());
            }
            if let Err(refused) = self.follow(data) {
                return Poll::Ready(Some(Err(refused)));
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response body that holds its seat until it has been sent.
pub(crate) struct Answer {
    pub(crate) body: Body,
    pub(crate) _seat: Option<Arc<Seat>>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tonic::Code;

    use super::*;

    /// Number of messages that are allowed.
    const MESSAGES: usize = 6;

    /// A body that yields one piece at a time, and after the last one neither bytes nor an end.
    struct Pieces(Vec<Vec<u8>>);

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            if self.0.is_empty() {
                return Poll::Pending;
            }
            Poll::Ready(Some(Ok(Frame::data(self.0.remove(0).into()))))
        }
    }

    /// The number of pieces taken, and the code of the refusal that followed.
    async fn take(pieces: Vec<Vec<u8>>, most: usize) -> (usize, Code) {
        let patience = Some(Duration::from_millis(10));
        let mut intake = Intake::new(Body::new(Pieces(pieces)), MESSAGES, most, patience);
        let mut taken = 0;
        loop {
            match poll_fn(|context| Pin::new(&mut intake).poll_frame(context)).await {
                Some(Ok(_)) => taken += 1,
                Some(Err(status)) => return (taken, status.code()),
                None => return (taken, Code::Ok),
            }
        }
    }

    fn message(length: u32) -> Vec<u8> {
        [vec![0], length.to_be_bytes().to_vec(), vec![7; length as usize]].concat()
    }

    #[tokio::test]
    async fn a_request_that_says_nothing_more_ends() {
        assert_eq!(take(vec![], 10).await, (0, Code::DeadlineExceeded));
        assert_eq!(take(vec![message(3)[..4].to_vec()], 10).await, (1, Code::DeadlineExceeded));
    }

    #[tokio::test]
    async fn each_message_has_a_size_of_its_own_however_it_is_cut() {
        let bytes = [message(10), message(0), message(10), message(11)].concat();
        let one_by_one: Vec<_> = bytes.iter().map(|byte| vec![*byte]).collect();
        let before = bytes.len() - message(11).len();
        assert_eq!(take(one_by_one, 10).await, (before + HEADER - 1, Code::OutOfRange));
        assert_eq!(take(vec![bytes], 11).await, (1, Code::DeadlineExceeded));
        assert_eq!(take(vec![vec![0, 255, 255, 255, 255]], 11).await, (0, Code::OutOfRange));
    }

    #[tokio::test]
    async fn so_many_messages_are_taken_and_no_more() {
        let mut pieces = vec![message(1); MESSAGES];
        assert_eq!(take(pieces.clone(), 10).await, (MESSAGES, Code::DeadlineExceeded));
        pieces.push(vec![0]);
        assert_eq!(take(pieces, 10).await, (MESSAGES, Code::OutOfRange));
    }

    #[test]
    fn bytes_bring_patience_back_and_never_more_than_there_was() {
        let mut patience = Patience { most: Duration::from_secs(30), left: Duration::from_secs(10), waiting: None };
        let mut wait = |bytes, seconds| {
            let began = Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
            patience.waiting = Some((began, Box::pin(tokio::time::sleep(Duration::ZERO))));
            patience.relax(bytes);
            patience.left.as_secs_f64().round()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _inside = runtime.enter();
        assert_eq!(wait(4096, 5), 6.0);
        assert_eq!(wait(100_000, 6), 24.0);
        assert_eq!(wait(1 << 30, 1), 30.0);
    }
}
