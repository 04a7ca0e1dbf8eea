//! The delivery barrier: which hosts run a change, and whether they are enough. Decides by plain values, and asks nobody.

pub mod chains;
pub mod hosts;
pub mod inventory;
pub mod watermarks;

use std::{collections::BTreeSet, fmt, num::NonZeroU8, str::FromStr, sync::Arc, time::Duration};

use conf_core::api::{HostReport, HostState};
use libconf::name::{CommitId, DatacenterName, HostName, Sequence};
use serde::{Deserialize, Serialize};

use crate::delivery::{
    chains::Chain,
    hosts::{GONE, Heard, Proof, ShownReport},
    inventory::Inventory,
};

/// How many of a datacenter's hosts are enough, 1 to 100 in a hundred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Percent(NonZeroU8);

impl Percent {
    /// Every host.
    pub const ALL: Percent = Percent(NonZeroU8::new(100).expect("100 is not 0"));

    /// So many of `hosts`, rounded up.
    fn of(self, hosts: usize) -> usize {
        (hosts * usize::from(self.0.get())).div_ceil(100)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse().ok().filter(|number: &NonZeroU8| number.get() <= 100);
        number.map(Percent).ok_or_else(|| format!("{text} is no percentage; write a whole number from 1 to 100"))
    }
}

/// What is waited for: a change, on so many of the hosts of each datacenter.
#[derive(Clone, Copy, Debug)]
pub struct Barrier {
    /// The change.
    pub sequence: Sequence,
    /// How many are enough, in each datacenter.
    pub percent: Percent,
    /// Only reports that a host has signed count.
    pub proven: bool,
}

/// What a datacenter's hosts must run at least: its newest snapshot that is not above the change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Which datacenter.
    pub datacenter: DatacenterName,
    /// The change that made the snapshot.
    pub sequence: Sequence,
    /// The snapshot.
    pub commit: CommitId,
}

/// Who has a change, and who does not: `GET /api/v1/delivery`, and `delivery` in the answer to an update that waited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Enough hosts of every datacenter run it.
    pub complete: bool,
    /// The change.
    pub sequence: Sequence,
    /// How many are enough, in each datacenter.
    pub percent: Percent,
    /// Each datacenter that was asked for.
    pub datacenters: Vec<DatacenterDelivery>,
    /// Why nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A line for each datacenter, and below it the hosts that do not run it.
impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = &self.error {
            writeln!(f, "{error}")?;
        }
        for one in &self.datacenters {
            let (run, of) = (if one.delivered == 1 { "runs" } else { "run" }, hosts(one.hosts));
            write!(f, "{}: {} of {of} {run} #{}", one.datacenter, one.delivered, one.sequence)?;
            if one.sequence < self.sequence {
                write!(f, ", its newest at #{}", self.sequence)?;
            }
            if one.needed > 1 && one.needed != one.hosts {
                write!(f, "; {} are enough", one.needed)?;
            }
            if one.on_word > 0 {
                write!(f, "; {} on the word of their conf-slave alone", one.on_word)?;
            }
            if one.counted == Counted::Reports {
                write!(f, "; it lists none, so these are the hosts that report")?;
            }
            if let Some(seconds) = one.settles_in {
                write!(f, ", and others may for {seconds} s, since conf-master has just started")?;
            }
            writeln!(f)?;
            for ShownReport { report: late, .. } in &one.late {
                let state = match (late.state, &late.error) {
                    (_, Some(error)) => format!(": {error}"),
                    (HostState::Updating, None) => " and works on a newer one".to_owned(),
                    // Since it is here.
                    _ if late.sequence >= one.sequence => {
                        " of another history: conf-master knows no such snapshot".to_owned()
                    }
                    _ => String::new(),
                };
                writeln!(f, "  {} is at #{}{state}", late.host, late.sequence)?;
            }
            for ShownReport { report, unproven, .. } in &one.unproven {
                let why =
                    unproven.as_deref().unwrap_or("its report is not signed: the inventory lists no key that signs");
                writeln!(f, "  {} is said to be at #{}, which is not proven: {why}", report.host, report.sequence)?;
            }
            for silent in &one.silent {
                writeln!(f, "  {silent} has not said anything")?;
            }
            for ShownReport { report: apart, .. } in &one.apart {
                let why = match one.counted {
                    Counted::Inventory => "it is not in the inventory",
                    Counted::Reports => "it was not heard of for ten minutes",
                };
                writeln!(f, "  {} is at #{} and does not count: {why}", apart.host, apart.sequence)?;
            }
            if one.more > 0 {
                writeln!(f, "  and {} more; `GET /api/v1/datacenters/{}/hosts` has all", one.more, one.datacenter)?;
            }
        }
        Ok(())
    }
}

fn hosts(number: usize) -> String {
    if number == 1 { "1 host".to_owned() } else { format!("{number} hosts") }
}

/// Which hosts of one datacenter run a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatacenterDelivery {
    /// Which datacenter.
    pub datacenter: DatacenterName,
    /// What its hosts must run at least.
    pub sequence: Sequence,
    /// That snapshot.
    pub commit: CommitId,
    /// Which hosts are all its hosts.
    pub counted: Counted,
    /// How many these are.
    pub hosts: usize,
    /// How many of them are enough.
    pub needed: usize,
    /// How many of them run it.
    pub delivered: usize,
    /// How many of these nothing but the word of a conf-slave speaks for.
    pub on_word: usize,
    /// It lists none, and conf-master has started so lately that others may be heard of for so many seconds: it is not complete
    /// before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settles_in: Option<u64>,
    /// Those that run something older or of another history, or could not take it whole, as they last said.
    pub late: Vec<ShownReport>,
    /// Those of which it is said that they run it, and that does not count, since they did not sign it.
    pub unproven: Vec<ShownReport>,
    /// Those that have said nothing since conf-master started.
    pub silent: Vec<HostName>,
    /// Hosts that do not count: not listed where others are, or, where none is, not heard of for ten minutes.
    pub apart: Vec<ShownReport>,
    /// How many more there are in the lists above than are shown.
    pub more: usize,
}

/// What "all hosts" means for a datacenter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Counted {
    /// The hosts of its inventory.
    Inventory,
    /// It lists none: the hosts that report.
    Reports,
}

/// What is known of a datacenter now.
#[derive(Clone, Copy, Debug)]
pub struct Known<'k> {
    /// Its hosts.
    pub inventory: &'k Inventory,
    /// The snapshots that it has made; those of [`Target::asks`] are enough.
    pub chain: &'k Chain,
    /// What hosts said, sorted by their names.
    pub heard: &'k [Arc<Heard>],
    /// How long hosts that are there may still be heard of for the first time.
    pub settles_in: Duration,
}

impl DatacenterDelivery {
    /// Sets what hosts said against what they should run. Lists are cut to `shown` entries.
    pub fn judge(target: &Target, barrier: Barrier, known: Known<'_>, shown: usize) -> Self {
        let Known { inventory, chain, heard, settles_in } = known;
        let counted = if inventory.hosts.is_empty() { Counted::Reports } else { Counted::Inventory };
        let counts = |one: &&Arc<Heard>| match counted {
            Counted::Inventory => inventory.hosts.contains_key(&one.report.host),
            Counted::Reports => one.changed.elapsed() < GONE,
        };
        let (own, apart): (Vec<_>, Vec<_>) = heard.iter().partition(counts);
        let is_silent = |host: &&HostName| own.binary_search_by(|one| one.report.host.cmp(host)).is_err();
        let silent: Vec<&HostName> = inventory.hosts.keys().filter(is_silent).collect();
        let hosts = own.len() + silent.len();
        let mut delivery = DatacenterDelivery {
            datacenter: target.datacenter.clone(),
            sequence: target.sequence,
            commit: target.commit,
            counted,
            hosts,
            // Of nobody nothing is known, so one at least must have said that it runs it.
            needed: barrier.percent.of(hosts).max(1),
            delivered: 0,
            on_word: 0,
            settles_in: None,
            late: Vec::new(),
            unproven: Vec::new(),
            silent: Vec::new(),
            apart: Vec::new(),
            more: 0,
        };
        if counted == Counted::Reports && !settles_in.is_zero() {
            delivery.settles_in = Some(settles_in.as_secs() + 1);
        }
        let (run_it, late): (Vec<_>, Vec<_>) = own.into_iter().partition(|one| target.is_run_by(&one.report, chain));
        let mut unproven = Vec::new();
        for one in run_it {
            let listed = inventory.hosts.get(&one.report.host).and_then(Option::as_ref);
            match one.proof(listed) {
                Proof::Signed => delivery.delivered += 1,
                Proof::Word if !barrier.proven => {
                    delivery.delivered += 1;
                    delivery.on_word += 1;
                }
                proof => unproven.push((one, proof)),
            }
        }
        let report = |one: &&Arc<Heard>| ShownReport::new(one, None);
        delivery.late = cut(&late, shown, &mut delivery.more, report);
        delivery.unproven =
            cut(&unproven, shown, &mut delivery.more, |(one, proof)| ShownReport::new(one, Some(*proof)));
        delivery.silent = cut(&silent, shown, &mut delivery.more, |host| (*host).clone());
        delivery.apart = cut(&apart, shown, &mut delivery.more, report);
        delivery
    }

    /// True when enough of them run it, and it is known who they are.
    pub fn is_complete(&self) -> bool {
        self.delivered >= self.needed && self.settles_in.is_none()
    }
}

fn cut<T, U>(list: &[T], shown: usize, more: &mut usize, show: impl Fn(&T) -> U) -> Vec<U> {
    *more += list.len().saturating_sub(shown);
    list.iter().take(shown).map(show).collect()
}

impl Target {
    /// The changes whose snapshots must be known to say who runs it.
    pub fn asks(&self, heard: &[Arc<Heard>]) -> BTreeSet<Sequence> {
        heard.iter().map(|one| one.report.sequence).filter(|sequence| *sequence >= self.sequence).collect()
    }

    /// A host runs it that exports it, or a snapshot that came after it in the same history: a number alone says nothing, since
    /// a copy of the repository that is brought back counts on from where it was made.
    ///
    /// One whose components are held back, in part or whole, does not run it.
    fn is_run_by(&self, report: &HostReport, chain: &Chain) -> bool {
        let is_ours = report.commit.is_some_and(|commit| chain.get(&report.sequence) == Some(&commit));
        is_ours && report.sequence >= self.sequence && report.state == HostState::Current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "00000000000000000000000000000000000000aa";

    fn heard(host: &str, sequence: u64, state: &str) -> Arc<Heard> {
        let text = format!(
            r#"{{"host": "{host}", "datacenter": "dc/v1", "sequence": {sequence}, "commit": "{COMMIT}",
                "state": "{state}", "agent": "0.1.0"}}"#
        );
        Arc::new(Heard::new(serde_json::from_str(&text).unwrap()))
    }

    fn barrier(percent: &str) -> Barrier {
        Barrier { sequence: Sequence(5), percent: percent.parse().unwrap(), proven: false }
    }

    #[track_caller]
    fn check(listed: &[&str], heard: &[Arc<Heard>], percent: &str, expected: &str) {
        let hosts = listed.iter().map(|name| (name.parse().unwrap(), None)).collect();
        let target =
            Target { datacenter: "dc/v1".parse().unwrap(), sequence: Sequence(5), commit: COMMIT.parse().unwrap() };
        let chain = [4, 5, 6, 7].map(|sequence| (Sequence(sequence), COMMIT.parse().unwrap())).into();
        let inventory = Inventory { hosts };
        let known = Known { inventory: &inventory, chain: &chain, heard, settles_in: Duration::ZERO };
        let told = DatacenterDelivery::judge(&target, barrier(percent), known, 9);
        let names =
            |list: &[ShownReport]| list.iter().map(|one| one.report.host.to_string()).collect::<Vec<_>>().join(" ");
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
    fn who_counts_and_who_does_not() {
        let all = [heard("a", 5, "current"), heard("b", 6, "current"), heard("c", 4, "current")];
        check(&["a", "b"], &all[..2], "100", "true 2/2 of 2; late ; silent ; apart ");
        check(&["a", "b", "c"], &all, "100", "false 2/3 of 3; late c; silent ; apart ");
        check(&["a", "b", "c"], &all, "67", "false 2/3 of 3; late c; silent ; apart ");
        check(&["a", "b", "c"], &all, "66", "true 2/2 of 3; late c; silent ; apart ");
        check(&["a", "d"], &all, "100", "false 1/2 of 2; late ; silent d; apart b c");
        // A host that took it in part, or works on something else, has not got it.
        check(&["a"], &[heard("a", 5, "failed")], "100", "false 0/1 of 1; late a; silent ; apart ");
        check(&["a"], &[heard("a", 7, "updating")], "100", "false 0/1 of 1; late a; silent ; apart ");
        // Where none is listed, those that report are all; and none at all is not enough.
        check(&[], &all[..2], "100", "true 2/2 of 2; late ; silent ; apart ");
        check(&[], &[], "100", "false 0/1 of 0; late ; silent ; apart ");
        check(&["a"], &[], "1", "false 0/1 of 1; late ; silent a; apart ");
    }

    #[test]
    fn a_number_of_another_history_is_not_it() {
        // The same, one between, the newest, and one that nobody has made.
        for sequence in [5, 6, 7, 9] {
            let mut other = heard("a", sequence, "current").report.clone();
            other.commit = Some(CommitId::ZERO);
            check(&["a"], &[Arc::new(Heard::new(other))], "100", "false 0/1 of 1; late a; silent ; apart ");
        }
        check(&["a"], &[heard("a", 9, "current")], "100", "false 0/1 of 1; late a; silent ; apart ");
    }

    #[test]
    fn where_none_is_listed_those_that_report_are_known_after_a_while() {
        let target = Target { datacenter: "dc/v1".parse().unwrap(), sequence: Sequence(5), commit: CommitId::ZERO };
        let chain = [(Sequence(5), COMMIT.parse().unwrap())].into();
        let heard = [heard("a", 5, "current")];
        let check = |inventory: &Inventory, settles_in: Duration, complete: bool, seconds: Option<u64>| {
            let known = Known { inventory, chain: &chain, heard: &heard, settles_in };
            let told = DatacenterDelivery::judge(&target, barrier("100"), known, 9);
            assert_eq!((told.is_complete(), told.settles_in, told.delivered), (complete, seconds, 1));
        };
        let listed = Inventory { hosts: [("a".parse().unwrap(), None)].into() };
        let while_ = Duration::from_millis(1500);
        check(&Inventory::default(), while_, false, Some(2));
        check(&Inventory::default(), Duration::ZERO, true, None);
        check(&listed, while_, true, None);
    }

    #[test]
    fn lists_are_cut_and_say_so() {
        let target = Target { datacenter: "dc/v1".parse().unwrap(), sequence: Sequence(5), commit: CommitId::ZERO };
        let all = [heard("a", 1, "current"), heard("b", 1, "current"), heard("c", 1, "current")];
        let (inventory, chain) = (Inventory::default(), Chain::new());
        let known = Known { inventory: &inventory, chain: &chain, heard: &all, settles_in: Duration::ZERO };
        let told = DatacenterDelivery::judge(&target, barrier("100"), known, 1);
        assert_eq!((told.late.len(), told.more, told.hosts), (1, 2, 3));
    }

    #[test]
    fn percentages() {
        for bad in ["0", "101", "-1", "50%", "", "1.5"] {
            assert!(bad.parse::<Percent>().is_err(), "{bad}");
        }
    }
}
