//! The signals that `exec` takes in place of its command.

use std::io;

use nix::sys::signal::Signal;
use tokio::signal::unix::{self, SignalKind};

use crate::cli::exec::ClientError;

/// One stream per signal; each was installed before the process is known to anybody.
pub(crate) struct Signals {
    change: unix::Signal,
    terminate: unix::Signal,
    interrupt: unix::Signal,
    quit: unix::Signal,
    user1: unix::Signal,
    user2: unix::Signal,
}

impl Signals {
    pub(crate) fn new() -> Result<Self, ClientError> {
        let all = || -> io::Result<Self> {
            Ok(Signals {
                change: unix::signal(SignalKind::hangup())?,
                terminate: unix::signal(SignalKind::terminate())?,
                interrupt: unix::signal(SignalKind::interrupt())?,
                quit: unix::signal(SignalKind::quit())?,
                user1: unix::signal(SignalKind::user_defined1())?,
                user2: unix::signal(SignalKind::user_defined2())?,
            })
        };
        all().map_err(|source| ClientError::System { what: "cannot handle signals".to_owned(), source })
    }

    /// The next signal; several of one kind may come as one.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Signal::SIGTERM,
            _ = self.interrupt.recv() => Signal::SIGINT,
            _ = self.quit.recv() => Signal::SIGQUIT,
            _ = self.change.recv() => Signal::SIGHUP,
            _ = self.user1.recv() => Signal::SIGUSR1,
            _ = self.user2.recv() => Signal::SIGUSR2,
        }
    }

    /// The next signal that asks for the end; others wait.
    pub(crate) async fn ends(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::SIGTERM,
            _ = self.interrupt.recv() => Signal::SIGINT,
            _ = self.quit.recv() => Signal::SIGQUIT,
        }
    }

    /// Drops the changes that were signalled up to now: what is read after this holds them.
    pub(crate) fn forget_changes(&mut self) {
        use futures_util::FutureExt;
        while self.change.recv().now_or_never().is_some() {}
    }
}
