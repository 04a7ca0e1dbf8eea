//! A host's last report, its place in their order, and the proof that it is the host's own.

use std::collections::{VecDeque, hash_map::DefaultHasher};
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use conf_core::{
    api::HostReport,
    secret::HostKey,
    sign::{self, Unproven},
};
use jiff::Timestamp;
use parking_lot::Mutex;

/// A host that has not reported for this long is gone, unless the inventory lists it. Hosts report
/// each minute.
pub(crate) const GONE: Duration = Duration::from_secs(600);

/// How long a host is silent before a report counts that seems to be older: hosts report each
/// minute, so its order is lost. That happens to agents of earlier versions, which number reports
/// by their clock.
pub(crate) const SILENT: Duration = Duration::from_secs(180);

/// The most reports of a host that are remembered after others took their place: more than it has
/// conf-slaves.
const MOST_SEEN: usize = 32;

/// How many reports are passed over in a host's name, the last one a moment ago, before that is
/// shown: more than pass over one another on their ways, or come in [`SILENT`] from an agent that
/// lost its numbers.
const PASSED_OVER: u32 = 6;

/// How far the clock of a conf-slave may be ahead.
const SLAVE_AHEAD: Duration = Duration::from_secs(5);

/// The last report of a host.
#[derive(Debug)]
pub(crate) struct ReceivedReport {
    /// The report.
    pub(crate) report: HostReport,
    /// When a report that differs from the one before arrived here.
    pub(crate) changed: Instant,
    /// When its conf-slave received the report, by the slave's clock; not later than the arrival
    /// here.
    received: Timestamp,
    /// The peer that sent it.
    pub(crate) from: Arc<str>,
    /// The key that the report was verified by, and the result.
    proven: Mutex<Option<(HostKey, Result<(), Unproven>)>>,
    /// Reports that came before and are not this one. Conf-slaves repeat what they have, so each
    /// may come again.
    seen: Mutex<VecDeque<u64>>,
    /// The number of reports in this host's name that came later and have an earlier number, and
    /// when the last one came.
    passed_over: Mutex<(u32, Instant)>,
}

/// Who vouches for a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// The host: the report is signed by the key that the inventory lists.
    Signed,
    /// The conf-slave that sent it: the inventory lists no key, or one that cannot sign.
    Word,
    /// Nobody: the inventory lists a key, and the report carries no valid signature of it.
    None(Unproven),
}

impl ReceivedReport {
    /// Takes a report that arrived just now.
    pub(crate) fn new(report: HostReport, from: Arc<str>) -> Self {
        let now = Timestamp::now();
        let received = report.received.as_ref().and_then(|text| text.parse::<Timestamp>().ok());
        let received = received.map_or(now, |received| received.min(now + SLAVE_AHEAD));
        let (proven, seen) = (Mutex::default(), Mutex::default());
        let (changed, passed_over) = (Instant::now(), Mutex::new((0, Instant::now())));
        ReceivedReport { report, changed, received, from, proven, seen, passed_over }
    }

    /// Tells whether this report was made before `next`. A host numbers its reports, so that an old
    /// report that somebody kept replaces nothing, and no clock decides. Reports without a number
    /// are ordered by the clocks of the conf-slaves.
    fn is_before(&self, next: &ReceivedReport) -> bool {
        match (self.report.time, next.report.time) {
            (Some(time), Some(next)) => time < next,
            _ => self.received < next.received,
        }
    }

    /// Tells whether `next` comes after this report, and has not come before. After a silence of
    /// the host it counts though it seems to be older, if its conf-slave received it later: a
    /// conf-slave that comes back repeats what it has.
    fn comes_before(&self, next: &ReceivedReport) -> bool {
        let is_silent = self.changed.elapsed() >= SILENT;
        let is_later = self.is_before(next) || is_silent && self.received < next.received;
        is_later && !self.seen.lock().contains(&next.fingerprint())
    }

    /// Returns what tells this report from others of its host. With a number, nothing depends on
    /// when a conf-slave says that it came.
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let received = self.report.received.as_ref().filter(|_| self.report.time.is_none());
        (self.report.time, received, self.report.sequence, &self.report.signature).hash(&mut hasher);
        hasher.finish()
    }

    /// Remembers that `other` has come, and does not stand. What comes again and again is
    /// remembered longest.
    pub(crate) fn remember(&self, other: &ReceivedReport) {
        let mut seen = self.seen.lock();
        let known = other.fingerprint();
        seen.retain(|one| *one != known);
        seen.push_back(known);
        if seen.len() > MOST_SEEN {
            seen.pop_front();
        }
    }

    /// Takes the place of `before`, and remembers what it did.
    pub(crate) fn replace(&self, before: &ReceivedReport) {
        self.seen.lock().clone_from(&before.seen.lock());
        if before.is_before(self) {
            *self.passed_over.lock() = *before.passed_over.lock();
        }
        self.remember(before);
    }

    /// Passes over a report that does not take the place of this one. Returns true when it is one
    /// too many: another agent reports under this name, and its numbers are lower.
    pub(crate) fn pass_over(&self, next: &ReceivedReport) -> bool {
        let is_new = !self.seen.lock().contains(&next.fingerprint());
        self.remember(next);
        let is_numbered = self.report.time.is_some() && next.report.time.is_some();
        let is_other = is_numbered && next.is_before(self) && self.received < next.received && !next.is_known_false();
        if !is_new || !is_other {
            return false;
        }
        let mut passed_over = self.passed_over.lock();
        let before = if passed_over.1.elapsed() < GONE { passed_over.0 } else { 0 };
        *passed_over = (before.saturating_add(1), Instant::now());
        passed_over.0 == PASSED_OVER
    }

    /// Returns how many reports were passed over in this host's name, if another agent sends them.
    pub(crate) fn passed_over(&self) -> Option<u32> {
        let (count, last) = *self.passed_over.lock();
        (count >= PASSED_OVER && last.elapsed() < GONE).then_some(count)
    }

    /// Verifies the report by the key that the inventory lists.
    pub(crate) fn proof(&self, listed: Option<&HostKey>) -> Proof {
        let Some(key) = listed.filter(|key| key.signs()) else { return Proof::Word };
        let mut proven = self.proven.lock();
        let found = match &*proven {
            Some((by, found)) if by == key => *found,
            _ => sign::verify_report(&self.report, key),
        };
        *proven = Some((key.clone(), found));
        found.map_or_else(Proof::None, |()| Proof::Signed)
    }

    /// Tells whether the report was verified and is not the host's.
    fn is_known_false(&self) -> bool {
        let proven = self.proven.lock();
        matches!(&*proven, Some((_, Err(_))))
    }

    /// Tells whether `next` replaces this report. Where the inventory lists a key, what it has
    /// signed is replaced by nothing else, and replaces all else; then the order decides.
    pub(crate) fn yields_to(&self, next: &ReceivedReport, listed: Option<&HostKey>) -> bool {
        let newer = self.comes_before(next);
        match (self.proof(listed), next.proof(listed)) {
            (Proof::Signed, Proof::None(_)) => false,
            (Proof::None(_), Proof::Signed) => true,
            _ => newer,
        }
    }
}
