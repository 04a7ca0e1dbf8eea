//! What is known of a server: whether it fails, and whether its answers take long. It decides which
//! server is asked first.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// 10 s: a server whose answer took too long while others could be asked is asked after them for so
/// long; twice as long each time, until its answers are in time again. That it says that it is well
/// does not help: the part of it that says so may be well.
const SLOW: Duration = Duration::from_secs(10);
/// The same, at most.
const SLOW_AT_MOST: Duration = Duration::from_secs(300);

/// The standing of one server.
#[derive(Debug)]
pub(crate) struct Standing {
    failing: Mutex<Option<Failing>>,
    slow: Mutex<Option<Slow>>,
    /// Notified by each failure.
    failed: Arc<Notify>,
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
    /// Begins well. `failed` is notified by each failure.
    pub(crate) fn new(failed: Arc<Notify>) -> Self {
        Standing { failing: Mutex::default(), slow: Mutex::default(), failed }
    }

    /// It has begun an answer.
    pub(crate) fn works(&self) {
        *self.failing.lock() = None;
    }

    /// It gave no answer, or a bad one.
    pub(crate) fn fails(&self, is_silent: bool) {
        let mut failing = self.failing.lock();
        let times = failing.map_or(0, |before| before.times).saturating_add(1);
        let rest = Duration::from_secs(1 << (times - 1).min(5)).min(Duration::from_secs(30));
        *failing = Some(Failing { times, until: Instant::now() + rest, is_silent });
        drop(failing);
        self.failed.notify_one();
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

    /// The place in the order in which servers are asked: working ones first, then those that take
    /// long, then those that fail, the one that failed first at the front.
    pub(crate) fn order(&self) -> (Option<Instant>, bool) {
        let is_slow = self.slow.lock().is_some_and(|slow| Instant::now() < slow.until);
        (self.failing_until(), is_slow)
    }

    /// Tells whether it took the last question and gave no answer.
    pub(crate) fn is_silent(&self) -> bool {
        self.failing.lock().is_some_and(|failing| failing.is_silent)
    }

    /// The time at which to ask a server that failed whether it is back.
    pub(crate) fn failing_until(&self) -> Option<Instant> {
        self.failing.lock().map(|failing| failing.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_was_late_comes_after_those_that_work_and_before_those_that_fail() {
        let [well, late, failing] = [(); 3].map(|()| Standing::new(Arc::default()));
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
        assert_eq!(late.order(), (None, false));
    }
}
