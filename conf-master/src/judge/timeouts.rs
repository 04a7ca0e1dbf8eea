//! Remembers for a while what exceeded its time: what many datacenters run is not tried again for
//! each of them.

use std::time::{Duration, Instant};

use conf_core::http::Who;
use parking_lot::Mutex;

/// How long an entry is remembered.
const REMEMBERED: Duration = Duration::from_secs(60);

/// The most entries of all peers together are so many times those of one.
const PEERS: usize = 32;

/// The keys that exceeded their time, with what to say about each. Each peer has its own: what one
/// tried keeps nobody else from trying.
#[derive(Debug)]
pub(crate) struct TimeoutCache<K, T> {
    entries: Mutex<Vec<Entry<K, T>>>,
    /// With this many entries of a peer nothing else of it is tried: others wait for the processor.
    most: usize,
}

#[derive(Debug)]
struct Entry<K, T> {
    key: K,
    who: Who,
    since: Instant,
    found: T,
}

/// What is known of a key before it is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TimeoutState<T> {
    /// It may be tried.
    Untried,
    /// It exceeded its time.
    TimedOut(T),
    /// Other keys of this peer used up the time.
    TooMany,
}

impl<K: PartialEq, T: Clone> TimeoutCache<K, T> {
    /// Makes an empty cache that stops a peer's trials after `most` entries of it.
    pub(crate) fn new(most: usize) -> Self {
        TimeoutCache { entries: Mutex::default(), most }
    }

    /// Returns what is known of a key that a peer brings.
    pub(crate) fn state(&self, key: &K, who: Who) -> TimeoutState<T> {
        let mut entries = self.entries.lock();
        entries.retain(|entry| entry.since.elapsed() < REMEMBERED);
        let mut own = entries.iter().filter(|entry| entry.who == who);
        match own.clone().find(|entry| entry.key == *key) {
            Some(entry) => TimeoutState::TimedOut(entry.found.clone()),
            None if own.by_ref().count() >= self.most => TimeoutState::TooMany,
            None => TimeoutState::Untried,
        }
    }

    /// Remembers a key that exceeded its time.
    pub(crate) fn remember(&self, key: K, who: Who, found: T) {
        let mut entries = self.entries.lock();
        if entries.len() >= self.most * PEERS {
            entries.remove(0);
        }
        entries.push(Entry { key, who, since: Instant::now(), found });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_not_tried_again_and_after_some_nothing_else_of_the_peer_is() {
        let cache = TimeoutCache::new(6);
        let (peer, other) = (Who::User(1), Who::User(2));
        assert_eq!(cache.state(&1, peer), TimeoutState::Untried);
        for number in 1..=6 {
            assert_eq!(cache.state(&number, peer), TimeoutState::Untried);
            cache.remember(number, peer, number);
        }
        assert_eq!(cache.state(&2, peer), TimeoutState::TimedOut(2));
        assert_eq!(cache.state(&7, peer), TimeoutState::TooMany);
        assert_eq!(cache.state(&2, other), TimeoutState::Untried);
        for number in 0..1000 {
            cache.remember(number, Who::User(3), number);
        }
        assert!(cache.entries.lock().len() <= 6 * PEERS);
    }
}
