//! Which hosts count, and when they are enough.

use conf_core::api::HostFailure;

use super::*;

const COMMIT: &str = "00000000000000000000000000000000000000aa";

fn heard(host: &str, sequence: u64, state: &str) -> Arc<ReceivedReport> {
    let text = format!(
        r#"{{"host": "{host}", "datacenter": "dc/v1", "sequence": {sequence}, "commit": "{COMMIT}",
            "state": "{state}", "agent": "0.1.0"}}"#
    );
    Arc::new(ReceivedReport::new(serde_json::from_str(&text).unwrap(), "slave".into()))
}

fn barrier(percent: &str) -> Barrier {
    Barrier { sequence: Sequence(5), percent: percent.parse().unwrap(), proven: false }
}

#[track_caller]
fn check(listed: &[&str], heard: &[Arc<ReceivedReport>], percent: &str, expected: &str) {
    let hosts = Arc::new(listed.iter().map(|name| (name.parse().unwrap(), None)).collect());
    let target =
        DeliveryTarget { datacenter: "dc/v1".parse().unwrap(), sequence: Sequence(5), commit: COMMIT.parse().unwrap() };
    let chain = [4, 5, 6, 7].map(|sequence| (Sequence(sequence), COMMIT.parse().unwrap())).into();
    let inventory = Inventory { hosts };
    let known = DeliveryFacts { inventory: &inventory, chain: &chain, reports: heard, settles_in: Duration::ZERO };
    let told = DatacenterDelivery::judge(&target, barrier(percent), known, 9);
    let names = |list: &[ShownReport]| list.iter().map(|one| one.report.host.to_string()).collect::<Vec<_>>().join(" ");
    let silent: Vec<String> = told.silent.iter().map(ToString::to_string).collect();
    let found = format!(
        "{} {}/{} of {}; late {}; silent {}; apart {}",
        told.is_complete(),
        told.delivered,
        told.needed,
        told.hosts,
        names(&told.late),
        silent.join(" "),
        names(&told.apart)
    );
    assert_eq!(found, expected);
}

#[test]
fn listed_hosts_count_and_others_do_not() {
    let all = [heard("a", 5, "current"), heard("b", 6, "current"), heard("c", 4, "current")];
    check(&["a", "b"], &all[..2], "100", "true 2/2 of 2; late ; silent ; apart ");
    check(&["a", "b", "c"], &all, "100", "false 2/3 of 3; late c; silent ; apart ");
    check(&["a", "b", "c"], &all, "67", "false 2/3 of 3; late c; silent ; apart ");
    check(&["a", "b", "c"], &all, "66", "true 2/2 of 3; late c; silent ; apart ");
    check(&["a", "d"], &all, "100", "false 1/2 of 2; late ; silent d; apart b c");
    // A host that took the snapshot in part, or works on another one, does not run it.
    check(&["a"], &[heard("a", 5, "failed")], "100", "false 0/1 of 1; late a; silent ; apart ");
    check(&["a"], &[heard("a", 7, "updating")], "100", "false 0/1 of 1; late a; silent ; apart ");
    // Without an inventory every host that reports counts; no report at all is not enough.
    check(&[], &all[..2], "100", "true 2/2 of 2; late ; silent ; apart ");
    check(&[], &[], "100", "false 0/1 of 0; late ; silent ; apart ");
    check(&["a"], &[], "1", "false 0/1 of 1; late ; silent a; apart ");
}

#[test]
fn a_failure_counts_against_the_snapshots_that_it_is_about() {
    let failed = |state: &str, failures: &[(u64, Option<u64>)]| {
        let mut report = heard("a", 7, state).report.clone();
        let failure = |(after, through): &(u64, Option<u64>)| HostFailure {
            after: Sequence(*after),
            through: through.map(Sequence),
            error: "it failed".to_owned(),
        };
        report.failures = failures.iter().map(failure).collect();
        Arc::new(ReceivedReport::new(report, "slave".into()))
    };
    // The change that is asked for is #5.
    for (state, failures, runs) in [
        ("failed", &[(6, Some(7))][..], true),
        ("failed", &[(4, Some(7))], false),
        ("failed", &[(4, Some(5))], false),
        ("failed", &[(3, Some(4))], true),
        ("failed", &[(6, None)], true),
        ("failed", &[(5, None)], true),
        ("failed", &[(4, None)], false),
        ("failed", &[(6, Some(7)), (0, None)], false),
        // An earlier version does not say what it is about.
        ("failed", &[], false),
        ("current", &[(4, Some(5))], false),
        ("updating", &[(6, Some(7))], false),
    ] {
        let (delivered, late) = if runs { ("true 1", "") } else { ("false 0", "a") };
        let expected = format!("{delivered}/1 of 1; late {late}; silent ; apart ");
        check(&["a"], &[failed(state, failures)], "100", &expected);
    }
}

#[test]
fn a_sequence_of_another_history_does_not_count() {
    // The same change, one between, the newest, and one that does not exist.
    for sequence in [5, 6, 7, 9] {
        let mut other = heard("a", sequence, "current").report.clone();
        other.commit = Some(CommitId::ZERO);
        check(
            &["a"],
            &[Arc::new(ReceivedReport::new(other, "slave".into()))],
            "100",
            "false 0/1 of 1; late a; silent ; apart ",
        );
    }
    check(&["a"], &[heard("a", 9, "current")], "100", "false 0/1 of 1; late a; silent ; apart ");
}

#[test]
fn without_an_inventory_the_reporting_hosts_settle_after_a_while() {
    let target = DeliveryTarget { datacenter: "dc/v1".parse().unwrap(), sequence: Sequence(5), commit: CommitId::ZERO };
    let chain = [(Sequence(5), COMMIT.parse().unwrap())].into();
    let heard = [heard("a", 5, "current")];
    let check = |inventory: &Inventory, settles_in: Duration, complete: bool, seconds: Option<u64>| {
        let known = DeliveryFacts { inventory, chain: &chain, reports: &heard, settles_in };
        let told = DatacenterDelivery::judge(&target, barrier("100"), known, 9);
        assert_eq!((told.is_complete(), told.settles_in, told.delivered), (complete, seconds, 1));
    };
    let listed = Inventory { hosts: Arc::new([("a".parse().unwrap(), None)].into()) };
    let while_ = Duration::from_millis(1500);
    check(&Inventory::default(), while_, false, Some(2));
    check(&Inventory::default(), Duration::ZERO, true, None);
    check(&listed, while_, true, None);
}

#[test]
fn lists_are_cut_and_the_rest_is_counted() {
    let target = DeliveryTarget { datacenter: "dc/v1".parse().unwrap(), sequence: Sequence(5), commit: CommitId::ZERO };
    let all = [heard("a", 1, "current"), heard("b", 1, "current"), heard("c", 1, "current")];
    let (inventory, chain) = (Inventory::default(), Chain::new());
    let known = DeliveryFacts { inventory: &inventory, chain: &chain, reports: &all, settles_in: Duration::ZERO };
    let told = DatacenterDelivery::judge(&target, barrier("100"), known, 1);
    assert_eq!((told.late.len(), told.more, told.hosts), (1, 2, 3));
}

#[test]
fn percentages_are_whole_numbers_from_1_to_100() {
    for bad in ["0", "101", "-1", "50%", "", "1.5"] {
        assert!(bad.parse::<Percent>().is_err(), "{bad}");
    }
}
