//! What hosts report through their conf-slaves: who runs what, who is late, who failed and why.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use libconf::{
    name::{DatacenterName, HostName, Sequence},
    tier::{
        api::{HostReport, SlaveReport},
        secret::HostKey,
        sign::{self, report::Unproven},
        snapshot::Snapshot,
    },
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::inventory::Inventory;

/// The most hosts that are kept of one datacenter; what comes beyond is passed over.
const MOST_HOSTS: usize = 50_000;

/// A host that was not heard of for so long is gone, where no inventory says that it should be there. Hosts report each
/// minute.
pub const GONE: Duration = Duration::from_secs(600);

/// A host's clock may be so far ahead of this machine's; what it says beyond that orders nothing.
const AHEAD: Duration = Duration::from_secs(600);

/// What a host said last.
#[derive(Debug)]
pub struct Heard {
    /// Its words.
    pub report: HostReport,
    /// When it said something else, or said it again, for the first time here.
    pub changed: Instant,
    /// Its own time of saying so; milliseconds since 1970.
    time: u64,
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
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + AHEAD;
        let time = report.time.unwrap_or(0).min(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        Heard { report, changed: Instant::now(), time, disputed: AtomicBool::new(false), proven: Mutex::default() }
    }

    /// Whose word it is, by the key that the inventory lists.
    pub fn proof(&self, listed: Option<&HostKey>) -> Proof {
        let Some(key) = listed.filter(|key| key.signs()) else { return Proof::Word };
        let mut proven = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match &*proven {
            Some((by, found)) if by == key => *found,
            _ => sign::report::verify(&self.report, key),
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
    /// A host's own clock orders what it says, so that a report which somebody kept brings nothing back. Where the order does not
    /// speak for `next`, or somebody has spoken in the host's name before, its signature decides; among reports that
    /// nobody signed the one that was received last.
    fn yields_to(&self, next: &Heard, listed: Option<&HostKey>) -> bool {
        let later = self.report.received < next.report.received;
        let Some(key) = listed.filter(|key| key.signs()) else { return later };
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
            _ => later,
        };
        if self.is_known_false() || self.disputed.load(Ordering::Relaxed) {
            dispute(next);
        }
        yields
    }
}

type Datacenter = BTreeMap<HostName, Arc<Heard>>;

/// The newest report of every host. Not durable: hosts report again every minute.
#[derive(Debug, Default)]
pub struct Hosts {
    reports: Mutex<BTreeMap<DatacenterName, Datacenter>>,
    changed: watch::Sender<()>,
}

impl Hosts {
    /// Takes over a conf-slave's summary; an older report never replaces a newer one, whichever slave it came through.
    pub fn take(&self, datacenter: &DatacenterName, inventory: &Inventory, report: SlaveReport) {
        for one in report.hosts.into_iter().filter(|one| one.datacenter == *datacenter) {
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
            let mut all = self.lock();
            let hosts = all.entry(datacenter.clone()).or_default();
            if hosts.len() < MOST_HOSTS || known.is_some() {
                hosts.insert(host, Arc::new(next));
            }
        }
        self.changed.send_replace(());
    }

    /// Hears of every summary that is taken over from now on.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The newest report of each of a datacenter's hosts, in the order of their names.
    pub fn of(&self, datacenter: &DatacenterName) -> Vec<Arc<Heard>> {
        self.lock().get(datacenter).map(|hosts| hosts.values().cloned().collect()).unwrap_or_default()
    }

    fn of_host(&self, datacenter: &DatacenterName, host: &HostName) -> Option<Arc<Heard>> {
        self.lock().get(datacenter)?.get(host).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<DatacenterName, Datacenter>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A report as it is shown: without the signature, with what it proves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownReport {
    /// What the host says.
    #[serde(flatten)]
    pub report: HostReport,
    /// Whose word it is; nothing where nobody has looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<ShownProof>,
    /// Why it does not count, where it is not proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unproven: Option<String>,
}

/// [`Proof`], in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShownProof {
    /// Signed by the host.
    Signed,
    /// Taken on the conf-slave's word.
    Word,
    /// Not proven.
    None,
}

impl ShownReport {
    /// For people and programs.
    pub fn new(heard: &Heard, proof: Option<Proof>) -> Self {
        let (proof, unproven) = match proof {
            None => (None, None),
            Some(Proof::Signed) => (Some(ShownProof::Signed), None),
            Some(Proof::Word) => (Some(ShownProof::Word), None),
            Some(Proof::None(why)) => (Some(ShownProof::None), Some(why.to_string())),
        };
        ShownReport { report: HostReport { signature: None, ..heard.report.clone() }, proof, unproven }
    }
}

/// `GET /api/v1/datacenters/<id>/<version>/hosts`
#[derive(Debug, Serialize)]
pub struct HostsAnswer {
    datacenter: DatacenterName,
    sequence: Sequence,
    hosts: Vec<HostLine>,
    /// Hosts of the inventory that have not reported since this conf-master started.
    silent: Vec<HostName>,
}

#[derive(Debug, Serialize)]
struct HostLine {
    #[serde(flatten)]
    report: ShownReport,
    /// It runs another snapshot than the datacenter's newest.
    late: bool,
    /// The datacenter's inventory names it.
    listed: bool,
}

impl HostsAnswer {
    /// Sets reports, in the order of their hosts' names, against the newest snapshot and the inventory.
    pub fn new(snapshot: &Snapshot, inventory: &Inventory, reports: &[Arc<Heard>]) -> Self {
        let is_silent = |host: &&HostName| reports.binary_search_by(|one| one.report.host.cmp(host)).is_err();
        let line = |one: &Arc<Heard>| {
            let listed = inventory.hosts.get(&one.report.host);
            HostLine {
                late: one.report.commit != Some(snapshot.commit),
                listed: listed.is_some(),
                report: ShownReport::new(one, Some(one.proof(listed.and_then(Option::as_ref)))),
            }
        };
        HostsAnswer {
            datacenter: snapshot.datacenter.clone(),
            sequence: snapshot.sequence,
            hosts: reports.iter().map(line).collect(),
            silent: inventory.hosts.keys().filter(is_silent).cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use libconf::tier::secret::Identity;

    use super::*;

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
            Room { hosts: Hosts::default(), inventory: Inventory { hosts }, own, other }
        }

        fn listed() -> Self {
            Room::new(|own| Some(own.recipient().clone()))
        }

        /// Hears of a sequence, said by the host at a time and received by a slave at another.
        fn hear(&self, sequence: u64, time: u64, received: u64, by: Option<&Identity>) {
            let text = format!(
                r#"{{"host": "web-1", "datacenter": "dc/v1", "sequence": {sequence}, "commit": null, "state": "current",
                    "agent": "0.1.0", "time": {time}, "received": "{received:04}"}}"#
            );
            let mut report: HostReport = serde_json::from_str(&text).unwrap();
            if let Some(identity) = by {
                report = sign::report::signed(&report, time, identity);
            }
            let summary = SlaveReport { sequence: Sequence(0), hosts: vec![report] };
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
        assert!(u128::from(heard.time) <= ahead.as_millis());
        let next = Heard { time: heard.time + 1, ..Heard::new(heard.report.clone()) };
        assert!(heard.yields_to(&next, Some(room.own.recipient())));
    }

    #[test]
    fn without_a_key_that_signs_the_word_of_the_slave_counts() {
        let age = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
        for key in [None, Some(age.parse::<HostKey>().unwrap())] {
            let room = Room::new(|_| key.clone());
            room.hear(2, 20, 1, None);
            room.hear(1, 10, 2, None);
            assert_eq!(room.known(), (1, Proof::Word), "what was received last");
            room.hear(2, 20, 1, None);
            assert_eq!(room.known(), (1, Proof::Word));
        }
    }
}
