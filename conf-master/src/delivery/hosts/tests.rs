//! Reports that arrive in every order, from hosts and from others.

use std::sync::Arc;
use std::time::Duration;

use conf_core::api::{HostReport, SlaveReport};
use conf_core::secret::{HostKey, Identity};
use conf_core::sign;
use conf_core::sign::Unproven;
use libconf::name::Sequence;

use crate::delivery::hosts::report::{Proof, SILENT};
use crate::delivery::hosts::{Hosts, MOST_OF_PEER, MOST_UNLISTED};
use conf_core::snapshot::Inventory;

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
        let hosts = Arc::new([("web-1".parse().unwrap(), key(&own))].into());
        Room { hosts: Hosts::new(Duration::ZERO), inventory: Inventory { hosts }, own, other }
    }

    fn listed() -> Self {
        Room::new(|own| Some(own.recipient().clone()))
    }

    /// Takes a report of a sequence with the host's time and the time of a slave.
    fn hear(&self, sequence: u64, time: u64, received: u64, by: Option<&Identity>) {
        let mut report = report("web-1", sequence, Some(time), &format!("2020-01-01T00:00:{received:02}Z"));
        if let Some(identity) = by {
            report = sign::sign_report(&report, time, identity);
        }
        self.take(vec![report]);
    }

    fn take(&self, hosts: Vec<HostReport>) {
        self.take_from("slave", hosts);
    }

    fn take_from(&self, peer: &str, hosts: Vec<HostReport>) {
        let summary = SlaveReport { sequence: Sequence(0), hosts };
        self.hosts.take(&"dc/v1".parse().unwrap(), &self.inventory, summary, peer);
    }

    fn known(&self) -> (u64, Proof) {
        let heard = self.hosts.of(&"dc/v1".parse().unwrap());
        let key = self.inventory.hosts.values().next().and_then(Option::as_ref);
        (heard[0].report.sequence.0, heard[0].proof(key))
    }
}

#[test]
fn a_replayed_report_replaces_nothing() {
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
fn reports_of_others_in_a_hosts_name_do_not_count_and_are_replaced() {
    let room = Room::listed();
    room.hear(1, 10, 1, Some(&room.own));
    // The report claims to be newer.
    room.hear(9, 1_000, 2, Some(&room.other));
    assert_eq!(room.known(), (1, Proof::Signed), "what the host has signed is replaced by its own word alone");
    room.hear(2, 20, 3, Some(&room.own));
    assert_eq!(room.known(), (2, Proof::Signed), "the host's own word comes through");
    room.hear(9, 2_000, 4, None);
    assert_eq!(room.known(), (2, Proof::Signed));
    // A false report that came first is shown for what it is, until the host's own comes.
    let room = Room::listed();
    room.hear(9, 10, 1, None);
    assert_eq!(room.known(), (9, Proof::None(Unproven::Unsigned)));
    room.hear(2, 20, 2, Some(&room.own));
    room.hear(9, 30, 3, Some(&room.other));
    assert_eq!(room.known(), (2, Proof::Signed));
    // A host that never signs is shown with its last report.
    let room = Room::listed();
    for sequence in [1, 2] {
        room.hear(sequence, sequence, sequence, None);
        assert_eq!(room.known(), (sequence, Proof::None(Unproven::Unsigned)));
    }
}

/// Makes a host silent for as long as it takes.
fn grow_silent(room: &Room) {
    let name = "dc/v1".parse().unwrap();
    let mut all = room.hosts.lock();
    for report in all.get_mut(&name).unwrap().reports.values_mut() {
        let report = Arc::get_mut(report).unwrap();
        report.changed = report.changed.checked_sub(SILENT).expect("this machine runs for some minutes");
    }
}

#[test]
fn reports_are_ordered_by_their_numbers_whatever_the_clocks_say() {
    // The clock of this machine does not matter: neither is near it.
    for number in [1, u64::MAX - 1] {
        let room = Room::listed();
        room.hear(1, number, 1, Some(&room.own));
        room.hear(2, number + 1, 0, Some(&room.own));
        assert_eq!(room.known(), (2, Proof::Signed), "{number}");
        room.hear(1, number, 3, Some(&room.own));
        assert_eq!(room.known(), (2, Proof::Signed), "{number}");
    }
}

#[test]
fn a_host_that_lost_its_numbers_counts_again_after_three_minutes_and_no_repeated_report_does() {
    for listed in [true, false] {
        let room = if listed { Room::listed() } else { Room::new(|_| None) };
        let own = listed.then_some(&room.own);
        let old = || room.hear(1, 10, 1, own);
        old();
        room.hear(2, 1000, 2, own);
        old();
        // Its agent was started again with an earlier clock.
        room.hear(3, 20, 3, own);
        assert_eq!(room.known().0, 2, "it looks like a report that somebody kept");
        grow_silent(&room);
        // What conf-slaves repeat each minute has come before.
        old();
        room.hear(3, 20, 3, own);
        assert_eq!(room.known().0, 2);
        room.hear(3, 21, 4, own);
        assert_eq!(room.known().0, 3);
        room.hear(3, 22, 5, own);
        grow_silent(&room);
        room.hear(2, 1000, 2, own);
        old();
        assert_eq!(room.known().0, 3, "the old numbers have come before, too");
    }
}

#[test]
fn a_slave_that_comes_back_brings_no_old_report_back_after_a_silence() {
    for listed in [true, false] {
        let room = if listed { Room::listed() } else { Room::new(|_| None) };
        let own = listed.then_some(&room.own);
        room.hear(1, 120, 1, own);
        for (round, number) in (121..=200).enumerate() {
            room.hear(2, number, 2 + round as u64 % 40, own);
        }
        room.hear(3, 201, 50, own);
        grow_silent(&room);
        // It was away with the first report.
        room.hear(1, 120, 1, own);
        assert_eq!(room.known().0, 3);
        // The newest comes again from another one.
        room.hear(3, 201, 50, own);
        assert_eq!(room.known().0, 3);
        room.hear(4, 202, 51, own);
        assert_eq!(room.known().0, 4);
    }
}

#[test]
fn a_number_that_has_come_counts_once_whenever_a_slave_says_that_it_came() {
    let room = Room::listed();
    room.hear(1, 1000, 1, Some(&room.own));
    room.hear(2, 1001, 2, Some(&room.own));
    grow_silent(&room);
    // The host lost its numbers, and a dozen slaves repeat what they have.
    room.hear(3, 20, 3, Some(&room.own));
    assert_eq!(room.known().0, 3);
    for received in 4..20 {
        room.hear(1, 1000, received, Some(&room.own));
        room.hear(2, 1001, received, Some(&room.own));
        assert_eq!(room.known().0, 3, "{received}");
    }
    let room = Room::new(|_| None);
    for slave in 0..12 {
        room.hear(1, 1000 + slave, 1, None);
    }
    grow_silent(&room);
    room.hear(2, 20, 3, None);
    for _ in 0..3 {
        for slave in 0..12 {
            room.hear(1, 1000 + slave, 1, None);
            assert_eq!(room.known().0, 2, "{slave}");
        }
    }
}

#[test]
fn two_agents_under_one_name_are_seen_and_what_is_only_late_is_not() {
    let passed_over = |room: &Room| room.hosts.of(&"dc/v1".parse().unwrap())[0].passed_over();
    let room = Room::listed();
    for round in 1..=20 {
        // Two conf-slaves bring each report; one of them is a report behind, and both repeat.
        for number in [round, round - 1, round, round - 1] {
            room.hear(1, 1000 + number, number, Some(&room.own));
        }
    }
    assert_eq!(passed_over(&room), None);
    for round in 21..=26 {
        room.hear(2, 1000 + round, 2 * round - 20, Some(&room.own));
        room.hear(1, round, 2 * round - 19, Some(&room.own));
    }
    assert_eq!((room.known().0, passed_over(&room)), (2, Some(6)));
    // What others send in its name is another thing.
    let room = Room::listed();
    room.hear(1, 1000, 1, Some(&room.own));
    for round in 1..=20 {
        room.hear(2, round, 1 + round, Some(&room.other));
    }
    assert_eq!((room.known().0, passed_over(&room)), (1, None));
}

#[test]
fn without_a_signing_key_the_word_of_the_slave_counts() {
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
fn a_slaves_clock_does_not_order_reports_with_a_time() {
    let room = Room::new(|_| None);
    // One slave's clock is years ahead, and it repeats its report; another's clock is years behind.
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
fn reports_without_a_time_are_ordered_by_reception() {
    #[track_caller]
    fn check(first: &str, second: &str, expected: u64) {
        let room = Room::new(|_| None);
        room.take(vec![report("web-1", 1, None, first)]);
        room.take(vec![report("web-1", 2, None, second)]);
        assert_eq!(room.known().0, expected, "{first} {second}");
    }
    check("2020-01-01T00:00:01Z", "2020-01-01T00:00:02Z", 2);
    check("2020-01-01T00:00:02Z", "2020-01-01T00:00:01Z", 1);
    // Times are compared, not their text.
    check("2020-01-01T00:00:01Z", "2020-01-01T00:00:01.5Z", 2);
    check("2020-01-01T00:00:01.5Z", "2020-01-01T00:00:01Z", 1);
    // A time that does not parse counts as received now.
    check("z", "z", 2);
    check("2020-01-01T00:00:01Z", "", 2);
    check("z", "2020-01-01T00:00:01Z", 1);
}

#[test]
fn whoever_invents_hosts_crowds_out_his_own() {
    let room = Room::new(|_| None);
    let invented = |peer: &str, numbers: std::ops::Range<usize>| {
        room.take_from(peer, numbers.map(|number| report(&format!("{peer}-{number}"), 1, None, "")).collect());
    };
    let known = || room.hosts.of(&"dc/v1".parse().unwrap());
    let has = |name: &str| known().iter().any(|one| one.report.host.as_str() == name);
    room.hear(1, 10, 1, None);
    room.take_from("small", vec![report("unlisted", 1, None, "")]);
    invented("a", 0..21_000);
    assert!(has("unlisted") && known().len() == 21_002);
    invented("a", 21_000..2 * MOST_UNLISTED);
    assert!(has("web-1") && has("unlisted"));
    assert_eq!(known().len(), MOST_OF_PEER + 2);
    for peer in ["b", "c", "d"] {
        invented(peer, 0..MOST_OF_PEER);
        assert!(has("web-1") && has("unlisted"), "{peer}");
    }
    assert_eq!(known().len(), MOST_UNLISTED + 1);
    assert!(!has("a-99999") || !has("a-75000"), "the others have lost some");
}
