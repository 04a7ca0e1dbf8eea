//! How many wrong tokens each peer has shown of late.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::http::who::Who;

/// How long tries are counted together.
const WINDOW: Duration = Duration::from_secs(60);
/// From so many peers on, those whose window is over are looked for and forgotten.
const FEW_PEERS: usize = 1024;
/// The most peers that are counted one by one; all others are one. A good token is not counted.
const MOST_PEERS: usize = 1 << 16;
/// The pause between two looks: one at all peers takes a few milliseconds, and during a flood every
/// request would need one.
const BETWEEN: Duration = Duration::from_secs(1);

/// The wrong tokens of all peers.
#[derive(Debug)]
pub(crate) struct Tries {
    by: BTreeMap<Who, Counted>,
    /// Those for whom there was no room.
    others: Counted,
    looked: Instant,
}

/// The wrong tokens of one peer.
#[derive(Clone, Copy, Debug)]
struct Counted {
    since: Instant,
    count: u32,
}

impl Default for Tries {
    fn default() -> Self {
        Tries::new(Instant::now())
    }
}

impl Counted {
    fn count(&mut self, now: Instant) -> u32 {
        if now.saturating_duration_since(self.since) >= WINDOW {
            *self = Counted { since: now, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count
    }
}

impl Tries {
    fn new(now: Instant) -> Self {
        Tries { by: BTreeMap::new(), others: Counted { since: now, count: 0 }, looked: now }
    }

    /// Counts one more, and returns how many there are of this peer.
    pub(crate) fn count(&mut self, who: Who) -> u32 {
        self.count_at(who, Instant::now())
    }

    /// How many there are of this peer, less those of before the window.
    pub(crate) fn recent(&self, who: Who) -> u32 {
        let own = self.by.get(&who).filter(|one| one.since.elapsed() < WINDOW);
        own.map_or(0, |one| one.count)
    }

    fn count_at(&mut self, who: Who, now: Instant) -> u32 {
        if self.by.len() >= FEW_PEERS && now.saturating_duration_since(self.looked) >= BETWEEN {
            self.looked = now;
            self.by.retain(|_, one| now.saturating_duration_since(one.since) < WINDOW);
        }
        if self.by.len() >= MOST_PEERS && !self.by.contains_key(&who) {
            return self.others.count(now);
        }
        self.by.entry(who).or_insert(Counted { since: now, count: 0 }).count(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_ends_and_who_is_silent_is_forgotten() {
        let now = Instant::now();
        let mut tries = Tries::new(now);
        assert_eq!([1, 2].map(|_| tries.count_at(Who::User(0), now)), [1, 2]);
        assert_eq!(tries.count_at(Who::User(0), now + WINDOW), 1);
        for user in 1..2000 {
            tries.count_at(Who::User(user), now);
        }
        assert_eq!(tries.by.len(), 2000, "nobody is looked for so soon");
        tries.count_at(Who::User(5), now + WINDOW);
        assert_eq!(tries.by.len(), 2, "only two came of late");
    }

    #[test]
    fn too_many_peers_are_counted_as_one_and_looked_at_now_and_then() {
        let now = Instant::now();
        let mut tries = Tries::new(now);
        let last = u32::try_from(MOST_PEERS).unwrap();
        for user in 0..last {
            tries.count_at(Who::User(user), now);
        }
        assert_eq!([last, last + 1, last + 2].map(|user| tries.count_at(Who::User(user), now)), [1, 2, 3]);
        assert_eq!(tries.count_at(Who::User(7), now), 2, "who is known is counted alone");
        // Each look would take milliseconds: 100,000 of them more than a minute.
        let began = Instant::now();
        for user in 0..100_000 {
            tries.count_at(Who::User(user), now);
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}
