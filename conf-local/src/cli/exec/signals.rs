//! The signals that `exec` takes in place of its command.

use std::{
    io,
    task::{Context, Poll},
};

use anyhow::Context as _;
use nix::sys::signal::Signal;
use tokio::signal::unix::{self, SignalKind};

/// One stream per signal, the most urgent first. Each is installed before any other process can
/// know this one.
pub(crate) struct Signals(Vec<(Signal, unix::Signal)>);

/// Signals that ask for the end.
const ENDS: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];
const OTHERS: [Signal; 3] = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2];

impl Signals {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let stream = |signal| Ok((signal, unix::signal(SignalKind::from_raw(signal as i32))?));
        let all: io::Result<_> = ENDS.into_iter().chain(OTHERS).map(stream).collect();
        all.map(Signals).context("cannot handle signals")
    }

    /// Waits for the next signal. Several of one kind may come as one.
    pub(crate) async fn next(&mut self) -> Signal {
        std::future::poll_fn(|context| self.poll(context, |_| true)).await
    }

    /// Waits for the next signal that asks for the end. Others wait.
    pub(crate) async fn ends(&mut self) -> Signal {
        std::future::poll_fn(|context| self.poll(context, |signal| ENDS.contains(&signal))).await
    }

    /// Drops the changes that were signalled up to now: files that are read after this include
    /// them.
    pub(crate) fn forget_changes(&mut self) {
        let mut context = Context::from_waker(std::task::Waker::noop());
        while self.poll(&mut context, |signal| signal == Signal::SIGHUP).is_ready() {}
    }

    fn poll(&mut self, context: &mut Context<'_>, wanted: impl Fn(Signal) -> bool) -> Poll<Signal> {
        for (signal, stream) in self.0.iter_mut().filter(|(signal, _)| wanted(*signal)) {
            if stream.poll_recv(context).is_ready() {
                return Poll::Ready(*signal);
            }
        }
        Poll::Pending
    }
}
