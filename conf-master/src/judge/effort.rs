//! How much of this machine one push may use while it is judged.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use conf_core::http::Who;
use conf_core::sandbox::Bounds;
use rustix::time::{ClockId, clock_gettime};

/// 30 s of processor time for the schemas and templates of one push, in the processes that work
/// them out. Honest pushes take some milliseconds.
const OF_A_PUSH: Duration = Duration::from_secs(30);
/// The same on the landing thread, for which everybody waits. What was judged beside it is known
/// there and takes nothing.
const WHILE_OTHERS_WAIT: Duration = Duration::from_millis(500);
/// The same of this program's own: the files and the history of each ref are looked at here.
const HERE_WHILE_OTHERS_WAIT: Duration = Duration::from_secs(1);
/// 5 s of processor time for one question.
const OF_A_QUESTION: u64 = 5;
/// How long its answer is waited for: others may have the processors meanwhile.
const PATIENCE: Duration = Duration::from_secs(30);

/// What judging one push has used, and for whom.
#[derive(Debug)]
pub(crate) struct Effort {
    who: Who,
    most: Duration,
    is_landing: bool,
    /// Microseconds of other processes.
    spent: AtomicU64,
    /// Microseconds of this one.
    spent_here: AtomicU64,
}

impl Effort {
    /// Of a push that is judged beside the landing thread.
    pub(crate) fn of_push(who: Who) -> Self {
        Effort { who, most: OF_A_PUSH, is_landing: false, spent: AtomicU64::new(0), spent_here: AtomicU64::new(0) }
    }

    /// Of a push on the landing thread.
    pub(crate) fn while_others_wait(who: Who) -> Self {
        Effort { most: WHILE_OTHERS_WAIT, is_landing: true, ..Effort::of_push(who) }
    }

    /// Of work that its own user waits for, and nobody else.
    pub(crate) fn own() -> Self {
        let who = Who::User(nix::unistd::getuid().as_raw());
        Effort { most: Duration::MAX, ..Effort::of_push(who) }
    }

    /// For whom it is.
    pub(crate) fn who(&self) -> Who {
        self.who
    }

    /// True on the landing thread.
    pub(crate) fn is_landing(&self) -> bool {
        self.is_landing
    }

    /// Counts processor time.
    pub(crate) fn spend(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.spent.fetch_add(micros, Ordering::Relaxed);
    }

    /// Does something, and counts the processor time that this thread takes for it.
    pub(crate) fn here<T>(&self, work: impl FnOnce() -> T) -> T {
        let now = || {
            let time = clock_gettime(ClockId::ThreadCPUTime);
            Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
        };
        let before = now();
        let done = work();
        let micros = u64::try_from(now().saturating_sub(before).as_micros()).unwrap_or(u64::MAX);
        self.spent_here.fetch_add(micros, Ordering::Relaxed);
        done
    }

    /// Everything that may be used was used.
    pub(crate) fn use_up(&self) {
        self.spend(self.most.min(OF_A_PUSH));
    }

    /// True when nothing else is tried.
    pub(crate) fn is_over(&self) -> bool {
        let most_here = if self.is_landing { HERE_WHILE_OTHERS_WAIT } else { self.most };
        let is_over = |spent: &AtomicU64, most| Duration::from_micros(spent.load(Ordering::Relaxed)) >= most;
        is_over(&self.spent, self.most) || is_over(&self.spent_here, most_here)
    }

    /// The bounds of one question.
    pub(crate) fn bounds(&self, answer_bytes: usize) -> Bounds {
        if self.is_landing {
            return Bounds { seconds: 1, patience: WHILE_OTHERS_WAIT, answer: answer_bytes };
        }
        Bounds { seconds: OF_A_QUESTION, patience: PATIENCE, answer: answer_bytes }
    }

    /// What a question used that its process did not live to tell.
    pub(crate) fn of_no_answer() -> Duration {
        Duration::from_secs(OF_A_QUESTION)
    }
}

/// The reason for a push that is not judged to its end.
pub(crate) const TOO_MUCH: &str = "this push takes more than 30 s of processor time to check; push fewer changes at once, or let its \
                                   schemas and templates do less";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effort_is_over_when_it_is_spent() {
        let effort = Effort::of_push(Who::User(1));
        effort.spend(OF_A_PUSH / 2);
        assert!(!effort.is_over());
        effort.spend(OF_A_PUSH / 2);
        assert!(effort.is_over());
        let landing = Effort::while_others_wait(Who::User(1));
        assert!(!landing.is_over());
        landing.use_up();
        assert!(landing.is_over());
        let own = Effort::own();
        own.spend(OF_A_PUSH * 100);
        assert!(!own.is_over());
    }
}
