//! Remembers for a while what exceeded its time: what many datacenters run is not tried again for
//! each of them.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long an entry is remembered.
const REMEMBERED: Duration = Duration::from_secs(60);

/// The keys that exceeded their time, with what to say about each.
#[derive(Debug)]
pub(crate) struct TimeoutCache<K, T> {
    entries: Mutex<Vec<(K, Instant, T)>>,
    /// With this many entries nothing else is tried, because landings wait for each trial.
    most: usize,
}

/// What is known of a key before it is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TimeoutState<T> {
    /// It may be tried.
    Untried,
    /// It exceeded its time.
    TimedOut(T),
    /// Other keys used up the time.
    TooMany,
}

impl<K: PartialEq, T: Clone> TimeoutCache<K, T> {
    /// Makes an empty cache that stops trials after `most` entries.
    pub(crate) fn new(most: usize) -> Self {
        TimeoutCache { entries: Mutex::default(), most }
    }

    /// Returns what is known of a key.
    pub(crate) fn state(&self, key: &K) -> TimeoutState<T> {
        let mut entries = self.entries.lock();
        entries.retain(|(_, since, _)| since.elapsed() < REMEMBERED);
        match entries.iter().find(|(one, ..)| one == key) {
            Some((.., found)) => TimeoutState::TimedOut(found.clone()),
            None if entries.len() >= self.most => TimeoutState::TooMany,
            None => TimeoutState::Untried,
        }
    }

    /// Remembers a key that exceeded its time.
    pub(crate) fn remember(&self, key: K, found: T) {
        self.entries.lock().push((key, Instant::now(), found));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_not_tried_again_and_after_some_nothing_else_is() {
        let cache = TimeoutCache::new(6);
        assert_eq!(cache.state(&1), TimeoutState::Untried);
        for number in 1..=6 {
            assert_eq!(cache.state(&number), TimeoutState::Untried);
            cache.remember(number, number);
        }
        assert_eq!(cache.state(&2), TimeoutState::TimedOut(2));
        assert_eq!(cache.state(&7), TimeoutState::TooMany);
    }
}
