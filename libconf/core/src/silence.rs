//! Noticing that a peer fell silent: connections that are dead, and answers that do not go on.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use reqwest::ClientBuilder;
use tokio::time::{Instant, sleep, sleep_until};

/// 1 s between two probes of an idle connection.
const PROBE: Duration = Duration::from_secs(1);
/// Lost probes that end a connection.
const PROBES: u32 = 3;
/// 4 s: sent bytes that stay unacknowledged so long end a connection. Below 3 s one lost probe ends
/// good connections.
const UNACKNOWLEDGED: Duration = Duration::from_secs(4);

/// Has the kernel end connections whose packets are dropped, idle ones and busy ones, within 5 s. A
/// stopped process on a live machine is not noticed by this: its kernel still acknowledges.
pub(crate) fn notice_dead_peers(client: ClientBuilder) -> ClientBuilder {
    client
        .tcp_keepalive(PROBE)
        .tcp_keepalive_interval(PROBE)
        .tcp_keepalive_retries(PROBES)
        .tcp_user_timeout(UNACKNOWLEDGED)
}

/// Signs of life of a peer that is to answer one question. Clones are about the same question.
#[derive(Clone, Debug)]
pub(crate) struct Pulse(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Since when nothing was heard; `None` while this side has work of its own.
    waiting: Option<Instant>,
    /// True once a part of the answer was heard.
    heard: bool,
}

impl Pulse {
    /// Begins to wait.
    pub(crate) fn new() -> Self {
        Pulse(Arc::new(Mutex::new(State { waiting: Some(Instant::now()), heard: false })))
    }

    /// Begins to wait for the peer.
    pub(crate) fn wait(&self) {
        self.0.lock().waiting = Some(Instant::now());
    }

    /// A part of the answer was heard. This side works on it until it waits again.
    pub(crate) fn heard(&self) {
        *self.0.lock() = State { waiting: None, heard: true };
    }

    /// This side has work of its own before it asks.
    pub(crate) fn busy(&self) {
        self.0.lock().waiting = None;
    }

    /// Stops the clock while this side has work of its own in the middle of an answer. Returns how
    /// long the peer has been silent.
    pub(crate) fn pause(&self) -> Duration {
        self.0.lock().waiting.take().map(|since| since.elapsed()).unwrap_or_default()
    }

    /// Waits for the peer again, which was silent for so long before the pause.
    pub(crate) fn go_on(&self, silent: Duration) {
        self.0.lock().waiting = Some(Instant::now() - silent);
    }

    /// Tells whether both are about the same question.
    pub(crate) fn is(&self, other: &Pulse) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The silence that counts now.
    pub(crate) fn limit(&self, at_first: Duration, patience: Duration) -> Duration {
        if self.0.lock().heard { patience } else { at_first }
    }

    /// Waits until nothing was heard for `patience`, or, before the first part of the answer, for
    /// `at_first`.
    pub(crate) async fn silence(&self, at_first: Duration, patience: Duration) {
        loop {
            let waiting = self.0.lock().waiting;
            let limit = self.limit(at_first, patience);
            match waiting.map(|since| since + limit) {
                Some(due) if due <= Instant::now() => return,
                Some(due) => sleep_until(due).await,
                None => sleep(patience).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn silence_begins_with_the_last_sign_of_life() {
        const SHORT: Duration = Duration::from_millis(30);
        const LONG: Duration = Duration::from_secs(60);
        let pulse = Pulse::new();
        assert!(timeout(SHORT, pulse.silence(LONG, SHORT)).await.is_err(), "the first part may take longer");
        pulse.heard();
        assert!(timeout(SHORT * 3, pulse.silence(LONG, SHORT)).await.is_err(), "this side works on what it heard");
        let start = Instant::now();
        pulse.wait();
        pulse.silence(LONG, SHORT).await;
        assert!(start.elapsed() >= SHORT);
        pulse.busy();
        assert!(timeout(SHORT * 3, pulse.silence(SHORT, SHORT)).await.is_err());
        // A pause does not begin the silence anew.
        pulse.go_on(SHORT);
        let silent = pulse.pause();
        assert!(silent >= SHORT);
        assert!(timeout(SHORT * 3, pulse.silence(SHORT, SHORT)).await.is_err());
        pulse.go_on(silent);
        assert!(pulse.silence(SHORT, SHORT).now_or_never().is_some());
    }
}
