//! What is known of a server: whether it fails, and whether its answers take long. It decides which
//! server is asked first.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::retry::with_jitter;

/// 10 s: a server whose answer took too long while others could be asked is asked after them for so
/// long; twice as long each time, until its answers are in time again. That it says that it is well
/// does not help: the part of it that says so may be well.
const SLOW: Duration = Duration::from_secs(10);
/// The same, at most.
const SLOW_AT_MOST: Duration = Duration::from_secs(300);
/// 60 s: of many clients that are spread over servers, each goes back to one that failed at its own
/// random time within this.
pub(crate) const RETURN: Duration = Duration::from_secs(60);
/// 300 s: the longest that a server can ask to be left alone.
const BUSY_AT_MOST: Duration = Duration::from_secs(300);

/// The standing of one server.
#[derive(Debug)]
pub(crate) struct Standing {
    failing: Mutex<Option<Failing>>,
    slow: Mutex<Option<Slow>>,
    /// Until then others are asked first, though it works: it has come back, and this client goes
    /// back to it later.
    returning: Mutex<Option<Instant>>,
    /// The same, since it said that it has too much to do.
    busy: Mutex<Option<Instant>>,
    /// It said so, and has not worked since: from then on it may be asked whether it does.
    unheard: Mutex<Option<Instant>>,
    /// One of many clients that are spread over servers asks.
    is_spread: bool,
    signs: Signs,
}

/// Tells others of changes. Clones tell the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signs {
    /// Notified by each failure.
    pub(crate) failed: Arc<Notify>,
    /// Notified whenever a server that failed works again.
    pub(crate) back: Arc<Notify>,
}

/// The place of a server in the order in which servers are asked.
pub(crate) type Order = (Option<Instant>, bool, bool);

/// When a server is as good as any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Well {
    Now,
    /// Not before.
    At(Instant),
    /// It fails.
    No,
}

#[derive(Clone, Copy, Debug)]
struct Failing {
    times: u32,
    /// When it is to be asked whether it is back.
    until: Instant,
    /// It took the question and gave no answer.
    is_silent: bool,
}

#[derive(Clone, Copy, Debug)]
struct Slow {
    times: u32,
    until: Instant,
}

impl Standing {
    /// Begins well.
    pub(crate) fn new(is_spread: bool, signs: Signs) -> Self {
        Standing {
            failing: Mutex::default(),
            slow: Mutex::default(),
            returning: Mutex::default(),
            busy: Mutex::default(),
            unheard: Mutex::default(),
            is_spread,
            signs,
        }
    }

    /// It has begun an answer.
    pub(crate) fn works(&self) {
        *self.unheard.lock() = None;
        if self.failing.lock().take().is_some() {
            self.returns_after(Duration::ZERO);
            self.signs.back.notify_waiters();
        }
    }

    /// It has too much to do, and asks to be left alone for so long.
    pub(crate) fn is_busy(&self, asked: Duration) {
        let asked = asked.min(BUSY_AT_MOST);
        // Jitter on top, so that all clients that got the same answer do not come back together.
        let until = Instant::now() + asked + asked.max(Duration::from_secs(1)).mul_f64(rand::random());
        later(&mut self.busy.lock(), until);
        later(&mut self.unheard.lock(), until);
        self.failing.lock().take();
        self.signs.failed.notify_one();
    }

    /// Where clients are spread, has this one come back at a random time, and not before `least`
    /// has passed.
    pub(crate) fn returns_after(&self, least: Duration) {
        if self.is_spread {
            let until = Instant::now() + least.min(BUSY_AT_MOST) + RETURN.mul_f64(rand::random());
            later(&mut self.returning.lock(), until);
        }
    }

    /// It is as good as the others at once, if it works.
    pub(crate) fn has_returned(&self) {
        *self.returning.lock() = None;
    }

    /// It gave no answer, or a bad one.
    pub(crate) fn fails(&self, is_silent: bool) {
        let mut failing = self.failing.lock();
        let times = failing.map_or(0, |before| before.times).saturating_add(1);
        let rest = Duration::from_secs(1 << (times - 1).min(5)).min(Duration::from_secs(30));
        // Many clients notice the failure at one moment, and must not ask at one moment.
        *failing = Some(Failing { times, until: Instant::now() + with_jitter(rest), is_silent });
        drop(failing);
        self.signs.failed.notify_one();
    }

    /// Its answer was not whole in time.
    pub(crate) fn is_late(&self) {
        let mut slow = self.slow.lock();
        let times = slow.map_or(0, |before| before.times).saturating_add(1);
        let rest = SLOW.saturating_mul(1 << (times - 1).min(10)).min(SLOW_AT_MOST);
        *slow = Some(Slow { times, until: Instant::now() + rest });
    }

    /// A whole answer came in time.
    pub(crate) fn is_in_time(&self) {
        *self.slow.lock() = None;
    }

    /// The place in the order in which servers are asked: working ones first, then those that are
    /// to be spared, then those that take long, then those that fail, the one that failed first at
    /// the front.
    pub(crate) fn order(&self) -> Order {
        let now = Instant::now();
        let is_slow = self.slow.lock().is_some_and(|slow| now < slow.until);
        let is_spared = [&self.returning, &self.busy].iter().any(|one| one.lock().is_some_and(|until| now < until));
        (self.failing_until(), is_slow, is_spared)
    }

    /// When it is as good as any other, if nothing else happens.
    pub(crate) fn well(&self) -> Well {
        if self.failing.lock().is_some() {
            return Well::No;
        }
        let slow = self.slow.lock().map(|slow| slow.until);
        let until = [slow, *self.returning.lock(), *self.busy.lock()].into_iter().flatten().max();
        until.filter(|until| Instant::now() < *until).map_or(Well::Now, Well::At)
    }

    /// Tells whether it took the last question and gave no answer.
    pub(crate) fn is_silent(&self) -> bool {
        self.failing.lock().is_some_and(|failing| failing.is_silent)
    }

    /// The time at which to ask a server whether it is back, that failed, or had too much to do.
    pub(crate) fn asked_again_at(&self) -> Option<Instant> {
        self.failing_until().or(*self.unheard.lock())
    }

    /// The time at which to ask a server that failed whether it is back.
    pub(crate) fn failing_until(&self) -> Option<Instant> {
        self.failing.lock().map(|failing| failing.until)
    }
}

/// Moves a time on, and never back.
fn later(time: &mut Option<Instant>, until: Instant) {
    *time = Some(time.map_or(until, |before| before.max(until)));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The time until this server is as good as others; zero if it is so now.
    fn rest(one: &Standing) -> Duration {
        match one.well() {
            Well::Now => Duration::ZERO,
            Well::At(until) => until - Instant::now(),
            Well::No => panic!("it fails"),
        }
    }

    #[test]
    fn a_server_that_is_back_is_spared_for_a_random_time_where_clients_are_spread() {
        let rests: Vec<_> = (0..300)
            .map(|_| {
                let one = Standing::new(true, Signs::default());
                one.fails(false);
                assert_eq!(one.well(), Well::No);
                one.works();
                assert!(one.order() > Standing::new(true, Signs::default()).order(), "others are asked first");
                rest(&one)
            })
            .collect();
        let within = |from: u64, to: u64| rests.iter().filter(|rest| (from..to).contains(&rest.as_secs())).count();
        assert_eq!(within(0, 60), 300);
        for tenth in 0..10 {
            assert!((8..=60).contains(&within(tenth * 6, tenth * 6 + 6)), "{tenth}");
        }
        let one = Standing::new(false, Signs::default());
        one.fails(false);
        one.works();
        assert_eq!(rest(&one), Duration::ZERO, "its clients are few");
        let one = Standing::new(true, Signs::default());
        one.fails(false);
        one.works();
        one.has_returned();
        assert_eq!(rest(&one), Duration::ZERO);
    }

    #[test]
    fn a_busy_server_is_no_failing_one_and_is_asked_later() {
        let one = Standing::new(true, Signs::default());
        one.fails(false);
        one.is_busy(Duration::from_secs(10));
        let until = rest(&one);
        assert!((9..20).contains(&until.as_secs()), "{until:?}");
        assert_eq!(one.order(), (None, false, true));
        assert!(one.asked_again_at().is_some_and(|at| at > Instant::now() + Duration::from_secs(8)));
        one.is_busy(Duration::ZERO);
        assert!(rest(&one) > Duration::from_secs(8), "a later word does not shorten it");
        let one = Standing::new(true, Signs::default());
        one.is_busy(Duration::MAX);
        assert!(one.asked_again_at().is_some());
        assert!(rest(&one) <= BUSY_AT_MOST * 2, "whatever it asks for");
    }

    #[test]
    fn a_server_that_was_late_comes_after_those_that_work_and_before_those_that_fail() {
        let [well, late, failing] = [(); 3].map(|()| Standing::new(false, Signs::default()));
        late.is_late();
        failing.fails(false);
        late.works();
        let mut order = [&failing, &late, &well];
        order.sort_by_key(|one| one.order());
        assert!(std::ptr::eq(order[0], &raw const well) && std::ptr::eq(order[1], &raw const late));
        late.is_late();
        let rest = late.slow.lock().unwrap().until - Instant::now();
        assert!(rest > SLOW && rest <= SLOW * 2, "longer the second time: {rest:?}");
        late.is_in_time();
        assert_eq!(late.order(), (None, false, false));
    }
}
