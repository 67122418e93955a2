//! The signals that end a worker.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::SignalName;

/// Signals that are listened for from when this value is made.
pub(super) struct Signals {
    preempting: Vec<Signal>,
    interrupt: Signal,
}

impl Signals {
    /// Listens for an interrupt and for the signals of these names.
    pub(super) fn listen(names: &[SignalName]) -> io::Result<Self> {
        // An interrupt heard twice would count as the second one.
        let preempting = names.iter().filter(|name| **name != SignalName::Int);
        let preempting = preempting.map(|name| signal(kind(*name))).collect::<Result<_, _>>()?;
        Ok(Self { preempting, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for any of the signals. A signal that comes again later says nothing new: batch
    /// systems send theirs to a script and to what it starts.
    pub(super) async fn any(&mut self) {
        let Self { preempting, interrupt } = self;
        std::future::poll_fn(|context| {
            let heard = preempting.iter_mut().chain([&mut *interrupt]).any(|one| one.poll_recv(context).is_ready());
            if heard { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }

    /// Waits for an interrupt.
    pub(super) async fn interrupt(&mut self) {
        self.interrupt.recv().await;
    }
}

fn kind(name: SignalName) -> SignalKind {
    match name {
        SignalName::Term => SignalKind::terminate(),
        SignalName::Int => SignalKind::interrupt(),
        SignalName::Hup => SignalKind::hangup(),
        SignalName::Quit => SignalKind::quit(),
        SignalName::Usr1 => SignalKind::user_defined1(),
        SignalName::Usr2 => SignalKind::user_defined2(),
    }
}
