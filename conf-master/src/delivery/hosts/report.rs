//! A host's last report, its place in time, and the proof that it is the host's own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use conf_core::{
    api::HostReport,
    secret::HostKey,
    sign::{self, Unproven},
};
use jiff::Timestamp;
use parking_lot::Mutex;

/// How far a host's clock may be ahead of this machine's; a later time is cut to this.
pub(crate) const AHEAD: Duration = Duration::from_secs(600);

/// How far the clock of a conf-slave may be ahead.
const SLAVE_AHEAD: Duration = Duration::from_secs(5);

/// The last report of a host.
#[derive(Debug)]
pub(crate) struct ReceivedReport {
    /// The report.
    pub(crate) report: HostReport,
    /// When a report that differs from the one before arrived here.
    pub(crate) changed: Instant,
    /// The host's own time of the report, in milliseconds since 1970. Agents of earlier versions
    /// send none.
    pub(crate) time: Option<u64>,
    /// When its conf-slave received the report, by the slave's clock; not later than the arrival
    /// here.
    received: Timestamp,
    /// Somebody else has reported in this host's name, so every report is verified before it is
    /// taken.
    disputed: AtomicBool,
    /// The key that the report was verified by, and the result. A report is verified when somebody
    /// asks, because verifying takes time and most reports are replaced before.
    proven: Mutex<Option<(HostKey, Result<(), Unproven>)>>,
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

    /// Tells whether this report was made before `next`. A host's own clock orders its reports, so
    /// that an old report that somebody kept replaces nothing, and no conf-slave's clock decides.
    /// Reports without a time are ordered by the clocks of the conf-slaves.
    fn is_before(&self, next: &ReceivedReport) -> bool {
        match (self.time, next.time) {
            (Some(time), Some(next)) => time < next,
            _ => self.received < next.received,
        }
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

    /// Tells whether `next` replaces this report.
    ///
    /// The order in time decides. When that does not favour `next`, or when somebody else has
    /// reported in the host's name, the signature decides.
    pub(crate) fn yields_to(&self, next: &ReceivedReport, listed: Option<&HostKey>) -> bool {
        let Some(key) = listed.filter(|key| key.signs()) else { return self.is_before(next) };
        // A report without a time has no signature.
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
