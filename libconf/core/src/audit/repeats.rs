//! How much records say of one who comes again and again: each has room for some records a day,
//! and what is more is counted.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a record is remembered that may come again.
const LIKE: Duration = Duration::from_secs(3600);
/// The most records of one that are remembered.
const MOST_LIKE: usize = 32;
/// The most that are remembered. Then the half of them is forgotten that was silent longest: that
/// costs each newcomer little, however many come.
const MOST_PUSHERS: usize = 4096;

/// How many bytes of records are written. Room that is taken is free again after a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rooms {
    /// Of one.
    pub each: u64,
    /// Of all together.
    pub all: u64,
}

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

/// Something that was recorded, and how many came after it that are only counted.
#[derive(Debug)]
struct Like {
    /// What tells it from others of the same one; `None` for what had no room.
    kind: Option<u64>,
    request: String,
    again: u64,
    last: Instant,
}

/// One who is recorded.
#[derive(Debug)]
struct Pusher {
    room: Room,
    last: Instant,
    likes: VecDeque<Like>,
}

/// A record that shall be written.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// Who is recorded.
    pub pusher: String,
    /// The id of the request.
    pub request: &'a str,
    /// What it has in common with those that are like it.
    pub kind: u64,
}

/// What happens with a record.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is written.
    Write,
    /// It is counted: so many came after the record of the request `like`. The count is written
    /// when it has doubled.
    Count {
        /// The request with the record.
        like: String,
        /// How many came after it.
        again: u64,
    },
    /// There is no record that it could be counted with, and no room.
    Drop,
}

/// Everybody who was recorded of late.
#[derive(Debug)]
pub struct Repeats {
    rooms: Rooms,
    all: Room,
    pushers: BTreeMap<String, Pusher>,
}

impl Repeats {
    /// Knows nobody yet.
    pub fn new(rooms: Rooms, now: Instant) -> Self {
        Repeats { rooms, all: Room::new(rooms.all, now), pushers: BTreeMap::new() }
    }

    /// Decides on a record that would take so many bytes.
    pub fn decide(&mut self, asked: Asked<'_>, bytes: u64, now: Instant) -> Fate {
        let Asked { pusher: name, request, kind } = asked;
        if !self.pushers.contains_key(&name) && self.pushers.len() >= MOST_PUSHERS {
            self.forget_half();
        }
        let each = self.rooms.each;
        let new = || Pusher { room: Room::new(each, now), last: now, likes: VecDeque::new() };
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

    fn forget_half(&mut self) {
        let mut times: Vec<Instant> = self.pushers.values().map(|one| one.last).collect();
        let middle = times.len() / 2;
        let (_, middle, _) = times.select_nth_unstable(middle);
        let middle = *middle;
        self.pushers.retain(|_, one| one.last > middle);
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

    const ROOMS: Rooms = Rooms { each: 128 << 10, all: 4 << 20 };

    fn asked<'a>(pusher: &str, request: &'a str, kind: u64) -> Asked<'a> {
        Asked { pusher: pusher.to_owned(), request, kind }
    }

    #[test]
    fn what_is_like_it_is_counted_for_an_hour() {
        let now = Instant::now();
        let mut repeats = Repeats::new(ROOMS, now);
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
        let mut repeats = Repeats::new(ROOMS, now);
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

    #[test]
    fn whoever_was_silent_longest_is_forgotten() {
        let now = Instant::now();
        let mut repeats = Repeats::new(ROOMS, now);
        let mut come = |number: usize, after: u64| {
            let name = format!("http 10.0.{}.{}", number / 256, number % 256);
            repeats.decide(asked(&name, "1", 7), 1, now + Duration::from_secs(after));
            (repeats.pushers.len(), repeats.pushers.contains_key("http 10.0.0.0"))
        };
        let first = (0..MOST_PUSHERS).map(|number| come(number, number as u64 / 100)).last();
        assert_eq!(first, Some((MOST_PUSHERS, true)));
        // The first one comes again, and then one more.
        come(0, 100);
        let (known, knows_first) = come(MOST_PUSHERS, 100);
        assert!((MOST_PUSHERS / 4..=MOST_PUSHERS / 2 + 1).contains(&known) && knows_first, "{known}");
    }
}
