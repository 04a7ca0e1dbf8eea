//! What hosts report through their conf-slaves: who runs what, who is late, who failed and why.

mod shown;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use conf_core::{
    api::{HostReport, SlaveReport},
    secret::HostKey,
    sign::{self, Unproven},
};
use jiff::Timestamp;
use libconf::name::{DatacenterName, HostName};
use tokio::sync::watch;
use tracing::warn;

pub use crate::delivery::hosts::shown::{HostsAnswer, ShownProof, ShownReport};
use crate::delivery::inventory::Inventory;

/// The most hosts that are kept of one datacenter. Of more those go that the inventory does not list, and of these the ones
/// that were silent longest.
const MOST_HOSTS: usize = 50_000;

/// A host that was not heard of for so long is gone, where no inventory says that it should be there. Hosts report each
/// minute.
pub const GONE: Duration = Duration::from_secs(600);

/// A host's clock may be so far ahead of this machine's; what it says beyond that orders nothing.
const AHEAD: Duration = Duration::from_secs(600);

/// So far ahead may the clock of a conf-slave be.
const SLAVE_AHEAD: Duration = Duration::from_secs(5);

/// What a host said last.
#[derive(Debug)]
pub struct Heard {
    /// Its words.
    pub report: HostReport,
    /// When it said something else, or said it again, for the first time here.
    pub changed: Instant,
    /// Its own time of saying so; milliseconds since 1970. Agents of earlier versions say none.
    time: Option<u64>,
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
pub enum Proof {
    /// The host's: it is signed by the key that the inventory lists.
    Signed,
    /// The conf-slave's that sent it: the inventory lists no key, or one that cannot sign.
    Word,
    /// Nobody's: the inventory lists a key, and it is not signed by that.
    None(Unproven),
}

impl Heard {
    /// Heard just now.
    pub fn new(report: HostReport) -> Self {
        let now = SystemTime::now();
        let latest = (now + AHEAD).duration_since(UNIX_EPOCH).unwrap_or_default();
        let latest = u64::try_from(latest.as_millis()).unwrap_or(u64::MAX);
        let time = report.time.map(|time| time.min(latest));
        let now = Timestamp::try_from(now).unwrap_or_else(|_| Timestamp::now());
        let received = report.received.as_ref().and_then(|text| text.parse::<Timestamp>().ok());
        let received = received.map_or(now, |received| received.min(now + SLAVE_AHEAD));
        let (disputed, proven) = (AtomicBool::new(false), Mutex::default());
        Heard { report, changed: Instant::now(), time, received, disputed, proven }
    }

    /// It was said before `next`. A host's own clock orders what it says, so that a report which somebody kept brings nothing
    /// back, and no conf-slave's clock decides; what agents say that tell no time is ordered by the conf-slaves' clocks.
    fn is_before(&self, next: &Heard) -> bool {
        match (self.time, next.time) {
            (Some(time), Some(next)) => time < next,
            _ => self.received < next.received,
        }
    }

    /// Whose word it is, by the key that the inventory lists.
    pub fn proof(&self, listed: Option<&HostKey>) -> Proof {
        let Some(key) = listed.filter(|key| key.signs()) else { return Proof::Word };
        let mut proven = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match &*proven {
            Some((by, found)) if by == key => *found,
            _ => sign::verify_report(&self.report, key),
        };
        *proven = Some((key.clone(), found));
        found.map_or_else(Proof::None, |()| Proof::Signed)
    }

    /// It was looked at, and was not its host's.
    fn is_known_false(&self) -> bool {
        let proven = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(&*proven, Some((_, Err(_))))
    }

    /// Says whether `next` is to be taken in this one's place.
    ///
    /// The order in which they were said decides. Where that does not speak for `next`, or somebody has spoken in the host's
    /// name before, its signature does.
    fn yields_to(&self, next: &Heard, listed: Option<&HostKey>) -> bool {
        let Some(key) = listed.filter(|key| key.signs()) else { return self.is_before(next) };
        // Without a time there is no signature.
        let newer = self.time < next.time;
        let dispute = |heard: &Heard| heard.disputed.store(true, Ordering::Relaxed);
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

/// The hosts of one datacenter.
#[derive(Debug, Default)]
struct Datacenter {
    heard: BTreeMap<HostName, Arc<Heard>>,
    /// That there are too many was said.
    is_full: bool,
}

impl Datacenter {
    /// Forgets those that are too many.
    fn bound(&mut self, name: &DatacenterName, inventory: &Inventory) {
        let Some(last) = self.heard.len().checked_sub(MOST_HOSTS + 1) else { return };
        let rank =
            |(host, heard): (&HostName, &Arc<Heard>)| (inventory.hosts.contains_key(host), heard.changed, host.clone());
        let mut ranked: Vec<_> = self.heard.iter().map(rank).collect();
        ranked.select_nth_unstable(last);
        for (_, _, host) in &ranked[..=last] {
            self.heard.remove(host);
        }
        if !std::mem::replace(&mut self.is_full, true) {
            warn!(datacenter = %name, kept = MOST_HOSTS, "more hosts report than are kept; those of the inventory go last");
        }
    }
}

/// The newest report of every host. Not durable: hosts report again every minute.
#[derive(Debug)]
pub struct Hosts {
    reports: Mutex<BTreeMap<DatacenterName, Datacenter>>,
    changed: watch::Sender<()>,
    /// From then on who was not heard of is not there.
    settled: Instant,
}

impl Hosts {
    /// Knows of nobody yet. Whoever is there is heard of `within` so long.
    pub fn new(within: Duration) -> Self {
        Hosts { reports: Mutex::default(), changed: watch::Sender::default(), settled: Instant::now() + within }
    }

    /// How long hosts that are there may still be heard of for the first time.
    pub fn settles_in(&self) -> Duration {
        self.settled.saturating_duration_since(Instant::now())
    }

    /// Takes over a conf-slave's summary; an older report never replaces a newer one, whichever slave it came through.
    pub fn take(&self, datacenter: &DatacenterName, inventory: &Inventory, report: SlaveReport) {
        for mut one in report.hosts.into_iter().filter(|one| one.datacenter == *datacenter) {
            one.cut();
            let listed = inventory.hosts.get(&one.host).and_then(Option::as_ref);
            let host = one.host.clone();
            let next = Heard::new(one);
            // Not locked meanwhile: a signature may be looked at. Of two that come at once either may be taken; the next
            // minute's report settles it.
            let known = self.of_host(datacenter, &host);
            let said_again = known.as_ref().is_some_and(|known| known.report == next.report);
            if said_again || known.as_ref().is_some_and(|known| !known.yields_to(&next, listed)) {
                continue;
            }
            self.lock().entry(datacenter.clone()).or_default().heard.insert(host, Arc::new(next));
        }
        // Once for all of them; more than a summary's are never too many.
        if let Some(hosts) = self.lock().get_mut(datacenter) {
            hosts.bound(datacenter, inventory);
        }
        self.changed.send_replace(());
    }

    /// Hears of every summary that is taken over from now on.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The newest report of each of a datacenter's hosts, in the order of their names.
    pub fn of(&self, datacenter: &DatacenterName) -> Vec<Arc<Heard>> {
        self.lock().get(datacenter).map(|hosts| hosts.heard.values().cloned().collect()).unwrap_or_default()
    }

    fn of_host(&self, datacenter: &DatacenterName, host: &HostName) -> Option<Arc<Heard>> {
        self.lock().get(datacenter)?.heard.get(host).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<DatacenterName, Datacenter>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use conf_core::secret::Identity;
    use libconf::name::Sequence;

    use super::*;

    fn report(host: &str, sequence: u64, time: Option<u64>, received: &str) -> HostReport {
        let text = format!(
            r#"{{"host": "{host}", "datacenter": "dc/v1", "sequence": {sequence}, "commit": null, "state": "current",
                "agent": "0.1.0", "received": "{received}"}}"#
        );
        HostReport { time, ..serde_json::from_str(&text).unwrap() }
    }

    /// A datacenter with one host, and the keys of two.
    struct Room {
        hosts: Hosts,
        inventory: Inventory,
        own: Identity,
        other: Identity,
    }

    impl Room {
        fn new(key: impl Fn(&Identity) -> Option<HostKey>) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let make = |name: &str| Identity::create(&folder.path().join(name)).unwrap();
            let (own, other) = (make("own"), make("other"));
            let hosts = [("web-1".parse().unwrap(), key(&own))].into();
            Room { hosts: Hosts::new(Duration::ZERO), inventory: Inventory { hosts }, own, other }
        }

        fn listed() -> Self {
            Room::new(|own| Some(own.recipient().clone()))
        }

        /// Hears of a sequence, said by the host at a time and received by a slave at another.
        fn hear(&self, sequence: u64, time: u64, received: u64, by: Option<&Identity>) {
            let mut report = report("web-1", sequence, Some(time), &format!("2020-01-01T00:00:{received:02}Z"));
            if let Some(identity) = by {
                report = sign::sign_report(&report, time, identity);
            }
            self.take(vec![report]);
        }

        fn take(&self, hosts: Vec<HostReport>) {
            let summary = SlaveReport { sequence: Sequence(0), hosts };
            self.hosts.take(&"dc/v1".parse().unwrap(), &self.inventory, summary);
        }

        fn known(&self) -> (u64, Proof) {
            let heard = self.hosts.of(&"dc/v1".parse().unwrap());
            let key = self.inventory.hosts.values().next().and_then(Option::as_ref);
            (heard[0].report.sequence.0, heard[0].proof(key))
        }
    }

    #[test]
    fn what_was_kept_and_is_sent_again_brings_nothing_back() {
        let room = Room::listed();
        room.hear(2, 20, 1, Some(&room.own));
        room.hear(1, 10, 2, Some(&room.own));
        assert_eq!(room.known(), (2, Proof::Signed));
        room.hear(3, 30, 3, Some(&room.own));
        assert_eq!(room.known(), (3, Proof::Signed));
        room.take(vec![report("web-1", 9, None, "2020-01-01T00:00:09Z")]);
        assert_eq!(room.known(), (3, Proof::Signed), "nor does what tells no time");
    }

    #[test]
    fn what_others_say_in_a_hosts_name_does_not_count_and_does_not_stay() {
        let room = Room::listed();
        room.hear(1, 10, 1, Some(&room.own));
        // It claims to be newer, and nobody has looked yet.
        room.hear(9, 1_000, 2, Some(&room.other));
        room.hear(2, 20, 3, Some(&room.own));
        assert_eq!(room.known(), (2, Proof::Signed), "the host's own word comes through");
        room.hear(9, 2_000, 4, None);
        assert_eq!(room.known(), (2, Proof::Signed), "and what is looked at now is not taken");
        // When it was looked at first, the next true one comes through, and from then on none is taken without a look.
        let room = Room::listed();
        room.hear(9, 10, 1, None);
        assert_eq!(room.known(), (9, Proof::None(Unproven::Unsigned)));
        room.hear(2, 20, 2, Some(&room.own));
        room.hear(9, 30, 3, Some(&room.other));
        assert_eq!(room.known(), (2, Proof::Signed));
        // A host that never signs is shown with what it said last.
        let room = Room::listed();
        for sequence in [1, 2] {
            room.hear(sequence, sequence, sequence, None);
            assert_eq!(room.known(), (sequence, Proof::None(Unproven::Unsigned)));
        }
    }

    #[test]
    fn a_clock_that_was_far_ahead_locks_nobody_out_for_long() {
        let room = Room::listed();
        room.hear(1, u64::MAX, 1, Some(&room.own));
        let heard = room.hosts.of(&"dc/v1".parse().unwrap()).remove(0);
        let ahead = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + AHEAD;
        let time = heard.time.unwrap();
        assert!(u128::from(time) <= ahead.as_millis());
        let next = Heard { time: Some(time + 1), ..Heard::new(heard.report.clone()) };
        assert!(heard.yields_to(&next, Some(room.own.recipient())));
    }

    #[test]
    fn without_a_key_that_signs_the_word_of_the_slave_counts() {
        let age = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
        for key in [None, Some(age.parse::<HostKey>().unwrap())] {
            let room = Room::new(|_| key.clone());
            room.hear(2, 20, 1, None);
            room.hear(1, 30, 2, None);
            assert_eq!(room.known(), (1, Proof::Word), "what was said last");
            room.hear(2, 20, 1, None);
            assert_eq!(room.known(), (1, Proof::Word));
        }
    }

    #[test]
    fn a_slaves_clock_orders_nothing_that_a_host_has_said() {
        let room = Room::new(|_| None);
        // One slave's clock is years ahead, and it repeats what it knows; then another's is years behind.
        let ahead = report("web-1", 1, Some(10), "2099-01-01T00:00:00Z");
        room.take(vec![ahead.clone()]);
        room.take(vec![report("web-1", 2, Some(20), "2020-01-01T00:00:00Z")]);
        assert_eq!(room.known().0, 2);
        room.take(vec![ahead]);
        assert_eq!(room.known().0, 2);
        room.take(vec![report("web-1", 3, Some(30), "1970-01-01T00:00:00Z")]);
        assert_eq!(room.known().0, 3);
    }

    #[test]
    fn of_agents_that_say_no_time_what_was_received_last_stands() {
        #[track_caller]
        fn check(first: &str, second: &str, expected: u64) {
            let room = Room::new(|_| None);
            room.take(vec![report("web-1", 1, None, first)]);
            room.take(vec![report("web-1", 2, None, second)]);
            assert_eq!(room.known().0, expected, "{first} {second}");
        }
        check("2020-01-01T00:00:01Z", "2020-01-01T00:00:02Z", 2);
        check("2020-01-01T00:00:02Z", "2020-01-01T00:00:01Z", 1);
        // They are times, not text.
        check("2020-01-01T00:00:01Z", "2020-01-01T00:00:01.5Z", 2);
        check("2020-01-01T00:00:01.5Z", "2020-01-01T00:00:01Z", 1);
        // What is none came when it came.
        check("z", "z", 2);
        check("2020-01-01T00:00:01Z", "", 2);
        check("z", "2020-01-01T00:00:01Z", 1);
    }

    #[test]
    fn hosts_of_the_inventory_come_in_where_invented_names_fill_the_room() {
        let room = Room::new(|_| None);
        let invented = |numbers: std::ops::Range<usize>| {
            room.take(numbers.map(|number| report(&format!("n-{number}"), 1, None, "")).collect());
        };
        let known = || room.hosts.of(&"dc/v1".parse().unwrap());
        let has = |name: &str| known().iter().any(|one| one.report.host.as_str() == name);
        invented(0..MOST_HOSTS);
        room.hear(1, 10, 1, None);
        assert!(has("web-1"));
        room.take(vec![report("late", 1, None, "")]);
        assert!(has("late"), "what was heard of last comes in too");
        invented(MOST_HOSTS..2 * MOST_HOSTS + 10);
        assert!(has("web-1") && !has("late"), "what is listed stays, the others go in the order in which they came");
        assert_eq!(known().len(), MOST_HOSTS);
    }
}
