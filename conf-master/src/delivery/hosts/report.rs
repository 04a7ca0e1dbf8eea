//! A host's last report, its place in time, and the proof that it is the host's own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use conf_core::{api::HostReport, secret::HostKey, sign, sign::report::Unproven};
use jiff::Timestamp;
use parking_lot::Mutex;

/// A host's clock may be so far ahead of this machine's; what it says beyond that orders nothing.
pub(crate) const AHEAD: Duration = Duration::from_secs(600);

/// So far ahead may the clock of a conf-slave be.
const SLAVE_AHEAD: Duration = Duration::from_secs(5);

/// What a host said last.
#[derive(Debug)]
pub(crate) struct ReceivedReport {
    /// Its words.
    pub(crate) report: HostReport,
    /// When it said something else, or said it again, for the first time here.
    pub(crate) changed: Instant,
    /// Its own time of saying so; milliseconds since 1970. Agents of earlier versions say none.
    pub(crate) time: Option<u64>,
    /// When its conf-slave received it, by that one's clock; not after it came here.
    received: Timestamp,
    /// Somebody has spoken in this host's name, so nothing is taken without a look.
    disputed: AtomicBool,
    /// Whether it is proven by a key, once somebody asked: a look at a signature takes time, and most reports are
    /// followed by the next one before anybody asks.
    proven: Mutex<Option<(HostKey, Result<(), Unproven>)>>,
}

/// Whose word a report is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// The host's: it is signed by the key that the inventory lists.
    Signed,
    /// The conf-slave's that sent it: the inventory lists no key, or one that cannot sign.
    Word,
    /// Nobody's: the inventory lists a key, and it is not signed by that.
    None(Unproven),
}

impl ReceivedReport {
    /// ReceivedReport just now.
    pub(crate) fn new(report: HostReport) -> Self {
        let now = SystemTime::now();
        let latest = (now + AHEAD).duration_since(UNIX_EPOCH).unwrap_or_default();
        let latest = u64::try_from(latest.as_millis()).unwrap_or(u64::MAX);
        let time = report.time.map(|time| time.min(latest));
        let now = Timestamp::try_from(now).unwrap_or_else(|_| Timestamp::now());
        let received = report.received.as_ref().and_then(|text| text.parse::<Timestamp>().ok());
        let received = received.map_or(now, |received| received.min(now + SLAVE_AHEAD));
        let (disputed, proven) = (AtomicBool::new(false), Mutex::default());
        ReceivedReport { report, changed: Instant::now(), time, received, disputed, proven }
    }

    /// It was said before `next`. A host's own clock orders what it says, so that a report which somebody kept brings nothing
    /// back, and no conf-slave's clock decides; what agents say that tell no time is ordered by the conf-slaves' clocks.
    fn is_before(&self, next: &ReceivedReport) -> bool {
        match (self.time, next.time) {
            (Some(time), Some(next)) => time < next,
            _ => self.received < next.received,
        }
    }

    /// Whose word it is, by the key that the inventory lists.
    pub(crate) fn proof(&self, listed: Option<&HostKey>) -> Proof {
        let Some(key) = listed.filter(|key| key.signs()) else { return Proof::Word };
        let mut proven = self.proven.lock();
        let found = match &*proven {
            Some((by, found)) if by == key => *found,
            _ => sign::report::verify(&self.report, key),
        };
        *proven = Some((key.clone(), found));
        found.map_or_else(Proof::None, |()| Proof::Signed)
    }

    /// It was looked at, and was not its host's.
    fn is_known_false(&self) -> bool {
        let proven = self.proven.lock();
        matches!(&*proven, Some((_, Err(_))))
    }

    /// Says whether `next` is to be taken in this one's place.
    ///
    /// The order in which they were said decides. Where that does not speak for `next`, or somebody has spoken in the host's
    /// name before, its signature does.
    pub(crate) fn yields_to(&self, next: &ReceivedReport, listed: Option<&HostKey>) -> bool {
        let Some(key) = listed.filter(|key| key.signs()) else { return self.is_before(next) };
        // Without a time there is no signature.
        let newer = self.time < next.time;
        let dispute = |report: &ReceivedReport| report.disputed.store(true, Ordering::Relaxed);
        if newer && !self.disputed.load(Ordering::Relaxed) && !self.is_known_false() {
            return true;
        }
        let yields = match (self.proof(Some(key)), next.proof(Some(key))) {
            (Proof::Signed, Proof::Signed) => newer,
            (Proof::Signed, _) => {
                dispute(self);
                false
            }
            (_, Proof::Signed) => true,
            _ => self.is_before(next),
        };
        if self.is_known_false() || self.disputed.load(Ordering::Relaxed) {
            dispute(next);
        }
        yields
    }
}
