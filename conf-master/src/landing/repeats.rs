//! How much the records say of one who is refused again and again: each pusher has room for some
//! records a day, and what is more is counted.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// The room of one pusher, in bytes, which is free again after a day.
const EACH: u64 = 128 << 10;
/// The room of all pushers together, in bytes, which is free again after a day: all files of
/// records hold a week of it.
const ALL: u64 = 4 << 20;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a refusal is remembered that may come again.
const LIKE: Duration = Duration::from_secs(3600);
/// The most refusals of one pusher that are remembered.
const MOST_LIKE: usize = 32;
/// The most pushers that are remembered. The one that was silent longest is forgotten first.
const MOST_PUSHERS: usize = 4096;

/// Room that is taken and grows back.
#[derive(Debug)]
struct Room {
    most: u64,
    left: u64,
    since: Instant,
}

impl Room {
    fn new(most: u64, now: Instant) -> Self {
        Room { most, left: most, since: now }
    }

    fn grow(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since).min(DAY);
        let grown = u128::from(self.most) * passed.as_millis() / DAY.as_millis();
        if grown > 0 {
            self.left = self.left.saturating_add(u64::try_from(grown).unwrap_or(u64::MAX)).min(self.most);
            self.since = now;
        }
    }
}

/// A refusal that was recorded, and how many came after it that are only counted.
#[derive(Debug)]
struct Like {
    /// What tells it from others of the same pusher; `None` for what had no room.
    kind: Option<u64>,
    request: String,
    again: u64,
    last: Instant,
}

/// One pusher.
#[derive(Debug)]
struct Pusher {
    room: Room,
    last: Instant,
    likes: VecDeque<Like>,
}

/// A record that shall be written.
#[derive(Clone, Debug)]
pub(crate) struct Asked<'a> {
    /// Who is refused.
    pub(crate) pusher: String,
    /// The id of the request.
    pub(crate) request: &'a str,
    /// What it has in common with those that are like it.
    pub(crate) kind: u64,
}

/// What happens with a record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is written.
    Write,
    /// It is counted: so many came after the record of the request `like`. The count is written
    /// when it has doubled.
    Count { like: String, again: u64 },
    /// There is no record that it could be counted with, and no room.
    Drop,
}

/// Everybody who was refused of late.
#[derive(Debug)]
pub(crate) struct Repeats {
    all: Room,
    pushers: BTreeMap<String, Pusher>,
}

impl Repeats {
    /// Knows nobody yet.
    pub(crate) fn new(now: Instant) -> Self {
        Repeats { all: Room::new(ALL, now), pushers: BTreeMap::new() }
    }

    /// Decides on a record that would take so many bytes.
    pub(crate) fn decide(&mut self, asked: Asked<'_>, bytes: u64, now: Instant) -> Fate {
        let Asked { pusher: name, request, kind } = asked;
        if !self.pushers.contains_key(&name) && self.pushers.len() >= MOST_PUSHERS {
            let silent = self.pushers.iter().min_by_key(|(_, one)| one.last).map(|(name, _)| name.clone());
            silent.map(|silent| self.pushers.remove(&silent));
        }
        let new = || Pusher { room: Room::new(EACH, now), last: now, likes: VecDeque::new() };
        let pusher = self.pushers.entry(name).or_insert_with(new);
        pusher.last = now;
        pusher.likes.retain(|one| now.saturating_duration_since(one.last) < LIKE);
        if let Some(like) = pusher.likes.iter_mut().find(|one| one.kind == Some(kind)) {
            return like.count(now);
        }
        self.all.grow(now);
        pusher.room.grow(now);
        if pusher.room.left >= bytes && self.all.left >= bytes {
            pusher.room.left -= bytes;
            self.all.left -= bytes;
            // What had no room before is counted with what came before it.
            pusher.likes.retain(|one| one.kind.is_some());
            if pusher.likes.len() >= MOST_LIKE {
                pusher.likes.pop_front();
            }
            pusher.likes.push_back(Like { kind: Some(kind), request: request.to_owned(), again: 0, last: now });
            return Fate::Write;
        }
        if let Some(other) = pusher.likes.iter_mut().find(|one| one.kind.is_none()) {
            return other.count(now);
        }
        let Some(newest) = pusher.likes.back() else { return Fate::Drop };
        let mut other = Like { kind: None, request: newest.request.clone(), again: newest.again, last: now };
        let fate = other.count(now);
        pusher.likes.push_back(other);
        fate
    }
}

impl Like {
    fn count(&mut self, now: Instant) -> Fate {
        (self.again, self.last) = (self.again + 1, now);
        Fate::Count { like: self.request.clone(), again: self.again }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    fn asked<'a>(pusher: &str, request: &'a str, kind: u64) -> Asked<'a> {
        Asked { pusher: pusher.to_owned(), request, kind }
    }

    #[test]
    fn what_is_like_it_is_counted_for_an_hour() {
        let now = Instant::now();
        let mut repeats = Repeats::new(now);
        let mut decide =
            |request, kind, after| repeats.decide(asked("path", request, kind), 500, now + Duration::from_secs(after));
        assert_eq!(decide("1", 7, 0), Fate::Write);
        assert_eq!(decide("2", 7, 1), Fate::Count { like: "1".to_owned(), again: 1 });
        assert_eq!(decide("3", 8, 1), Fate::Write);
        assert_eq!(decide("4", 7, 3000), Fate::Count { like: "1".to_owned(), again: 2 });
        assert_eq!(decide("5", 7, 7000), Fate::Write);
    }

    #[test]
    fn each_has_room_of_its_own_which_grows_back() {
        let now = Instant::now();
        let mut repeats = Repeats::new(now);
        let written = |repeats: &mut Repeats, through: &str, after| {
            let one = |number: u64| repeats.decide(asked(through, &number.to_string(), number), 1 << 10, after);
            (0..1000).map(one).filter(|fate| *fate == Fate::Write).count()
        };
        assert_eq!(written(&mut repeats, "http 10.0.0.1", now), 128);
        assert_eq!(written(&mut repeats, "http 10.0.0.2", now), 128);
        let last = repeats.decide(asked("http 10.0.0.2", "1", 5000), 1 << 10, now);
        assert_eq!(last, Fate::Count { like: "127".to_owned(), again: 873 });
        let later = now + DAY / 2;
        assert_eq!(written(&mut repeats, "http 10.0.0.1", later), 64);
        let many = (0..100).map(|number| written(&mut repeats, &format!("http 10.1.0.{number}"), later)).sum::<usize>();
        assert_eq!(many, 4096 - 64, "all have room together");
    }
}
