//! How many bytes each peer may send or get in a second, so that one that moves much leaves the
//! processors and the disk to others.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::http::who::Who;

/// A rate for each peer. Who is over it waits; what it would send meanwhile waits in the network,
/// and what it would get is not made yet.
#[derive(Debug)]
pub(crate) struct Rates {
    bytes_a_second: u64,
    /// When each peer's bytes so far are paid for. Those of the past are forgotten now and then.
    paid: Mutex<BTreeMap<Who, Instant>>,
}

/// A quarter of a second's bytes come without a wait: most senders pause in between.
const BURST: Duration = Duration::from_millis(250);

/// So many peers are remembered before those that sent nothing lately are forgotten.
const MOST_IDLE: usize = 1024;

impl Rates {
    /// Makes a rate of so many bytes a second.
    pub(crate) fn new(bytes_a_second: u64) -> Self {
        Rates { bytes_a_second, paid: Mutex::default() }
    }

    /// Counts bytes of a peer, and returns how long it waits before its next ones.
    pub(crate) fn count(&self, who: Who, bytes: usize, now: Instant) -> Duration {
        let cost = Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / self.bytes_a_second);
        let mut paid = self.paid.lock();
        if paid.len() > MOST_IDLE {
            paid.retain(|_, until| *until > now);
        }
        let until = paid.entry(who).or_insert(now);
        *until = (*until).max(now) + cost;
        until.saturating_duration_since(now).saturating_sub(BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sends_too_fast_waits_and_nobody_else() {
        let rates = Rates::new(1000);
        let (fast, other, start) = (Who::User(1), Who::User(2), Instant::now());
        assert_eq!(rates.count(fast, 250, start), Duration::ZERO);
        assert_eq!(rates.count(fast, 500, start), Duration::from_millis(500));
        assert_eq!(rates.count(other, 250, start), Duration::ZERO);
        // What was waited for is paid for.
        let later = start + Duration::from_millis(500);
        assert_eq!(rates.count(fast, 1000, later), Duration::from_secs(1));
        assert_eq!(rates.count(fast, 0, later + Duration::from_secs(9)), Duration::ZERO);
    }

    #[test]
    fn peers_of_the_past_are_forgotten() {
        let (rates, start) = (Rates::new(1), Instant::now());
        for user in 0..5000 {
            rates.count(Who::User(user), 1, start + Duration::from_secs(2 * u64::from(user)));
        }
        assert!(rates.paid.lock().len() <= MOST_IDLE + 1);
    }
}
