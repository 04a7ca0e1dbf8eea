//! The rule that tells how old the last word of conf-master is.

use std::time::Duration;

use crate::{
    api::{FreshnessEvent, Pointer},
    freshness::{kept::KeptFreshness, moment::Moment},
};

/// 15 minutes: conf-master states the time every minute.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// What is known of conf-master's time, and the newest statement. All times are milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freshness {
    limit: i64,
    newest: Option<FreshnessEvent>,
    /// The time of the newest statement whose snapshot was known here.
    counted: i64,
    /// conf-master's time at the start of this machine, as far as a statement shows.
    lead: Option<i64>,
    /// Statements that the lead or the wall clock contradicts.
    run: Option<Run>,
    /// The age at the end of the run of the program before this one, and when this one began.
    before: Option<(i64, Moment)>,
}

/// Statements that came one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// The time of the first one, and when it came.
    first: i64,
    came: i64,
    /// The highest lead of them.
    lead: i64,
}

impl Default for Freshness {
    fn default() -> Self {
        Freshness::new(LIMIT)
    }
}

impl Freshness {
    /// Has heard nothing, and is stale after so long a silence.
    pub fn new(limit: Duration) -> Self {
        let limit = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX / 4).clamp(1, i64::MAX / 4);
        Freshness { limit, newest: None, counted: 0, lead: None, run: None, before: None }
    }

    /// Goes on with what an earlier run of the program has kept, `boot` being this start of the
    /// machine. The statement must be verified.
    #[must_use]
    pub fn recalling(self, kept: KeptFreshness, boot: Option<&str>, now: Moment) -> Self {
        let KeptFreshness { statement, counted, age, boot: before, lead } = kept;
        let is_same_boot = boot.is_some() && before.as_deref() == boot;
        Freshness {
            newest: Some(statement),
            counted,
            // The clock of the machine began anew with the machine.
            lead: lead.filter(|_| is_same_boot),
            before: Some((age, now)),
            ..self
        }
    }

    /// Returns what a later run of the program needs; `None` before the first statement.
    pub fn kept(&self, boot: Option<&str>, now: Moment) -> Option<KeptFreshness> {
        Some(KeptFreshness {
            statement: self.newest.clone()?,
            counted: self.counted,
            age: self.age_ms(now),
            boot: boot.map(str::to_owned),
            lead: self.lead,
        })
    }

    /// The silence after which this is stale.
    pub fn limit(&self) -> Duration {
        duration(self.limit)
    }

    /// The newest statement.
    pub fn newest(&self) -> Option<&FreshnessEvent> {
        self.newest.as_ref()
    }

    /// The time of the statement from which the age counts, in seconds since 1970.
    pub fn counted(&self) -> Option<i64> {
        self.newest.as_ref().map(|_| self.counted / 1000)
    }

    /// Forgets the newest statement, whose key is revoked. What the machine knows of time stays out
    /// too: that key may have said it.
    pub fn forget(&mut self) {
        *self = Freshness { limit: self.limit, newest: None, counted: 0, lead: None, run: None, before: None };
    }

    /// Tells whether a statement is newer than the newest one. Any other proves nothing.
    pub fn is_news(&self, statement: &FreshnessEvent) -> bool {
        self.newest.as_ref().is_none_or(|newest| statement.time > newest.time)
    }

    /// Takes a verified statement that came now. Returns false if it is no news.
    pub fn take(&mut self, statement: FreshnessEvent, now: Moment) -> bool {
        if !self.is_news(&statement) {
            return false;
        }
        let time = statement.time.saturating_mul(1000);
        let lead = time.saturating_sub(now.since_boot);
        let fits = match self.lead {
            Some(known) => lead >= known.saturating_sub(self.limit),
            None => apart(time, now.wall) <= self.limit,
        };
        if fits {
            self.lead = self.lead.max(Some(lead));
            self.run = None;
        } else {
            self.keep_pace(time, lead, now);
        }
        if self.newest.is_none() {
            // There is one limit of time to hear of the snapshot that it names.
            self.counted = time;
        }
        self.newest = Some(statement);
        true
    }

    /// Takes the lead of statements that have kept pace with the clock of the machine for a whole
    /// limit.
    fn keep_pace(&mut self, time: i64, lead: i64, now: Moment) {
        let begun = Run { first: time, came: now.since_boot, lead };
        let run = self.run.get_or_insert(begun);
        run.lead = run.lead.max(lead);
        let Run { first, came, lead } = *run;
        let passed = now.since_boot.saturating_sub(came);
        if passed < self.limit {
            return;
        }
        // A statement may wait on its way, up to some minutes.
        if apart(time.saturating_sub(first), passed) <= self.limit / 2 {
            (self.lead, self.run) = (Some(lead), None);
        } else {
            self.run = Some(begun);
        }
    }

    /// Counts the newest statement if the snapshot that it names is known here.
    pub fn count(&mut self, is_known: impl FnOnce(Pointer) -> bool) {
        if let Some(newest) = &self.newest {
            let time = newest.time.saturating_mul(1000);
            if time > self.counted && is_known(newest.newest()) {
                self.counted = time;
            }
        }
    }

    /// True if the newest statement names a snapshot that is not known here, and does not count.
    pub fn is_withheld(&self) -> bool {
        self.newest.as_ref().is_some_and(|newest| newest.time.saturating_mul(1000) > self.counted)
    }

    /// The age of the last statement that counts; `None` before the first one.
    pub fn age(&self, now: Moment) -> Option<Duration> {
        self.newest.as_ref().map(|_| duration(self.age_ms(now)))
    }

    fn age_ms(&self, now: Moment) -> i64 {
        if let Some(lead) = self.lead {
            return now.since_boot.saturating_add(lead).saturating_sub(self.counted).max(0);
        }
        // No clock that was set meanwhile makes it younger than it was.
        let since = |(age, then): (i64, Moment)| age.saturating_add(now.since_boot.saturating_sub(then.since_boot));
        apart(now.wall, self.counted).max(self.before.map_or(0, since))
    }

    /// Tells whether one was heard once, and none that counts within the limit.
    pub fn is_stale(&self, now: Moment) -> bool {
        self.newest.is_some() && self.age_ms(now) > self.limit
    }

    /// Returns how long it stays as it is if nothing is heard; `None` where it is stale, or never
    /// will be.
    pub fn stale_in(&self, now: Moment) -> Option<Duration> {
        let left = self.limit.saturating_sub(self.age_ms(now)).saturating_add(1);
        (self.newest.is_some() && left > 0).then(|| duration(left))
    }

    /// How far conf-master's clock is ahead of the wall clock, in seconds, where statements show
    /// it: negative if it is behind.
    pub fn skew_seconds(&self, now: Moment) -> Option<i64> {
        self.lead.map(|lead| now.since_boot.saturating_add(lead).saturating_sub(now.wall) / 1000)
    }

    /// Tells whether the clocks differ by more than the limit.
    pub fn is_skewed(&self, now: Moment) -> bool {
        self.skew_seconds(now).is_some_and(|skew| skew.saturating_abs() > self.limit / 1000)
    }
}

/// How far two times are apart.
fn apart(one: i64, other: i64) -> i64 {
    one.saturating_sub(other).saturating_abs()
}

fn duration(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or_default())
}
