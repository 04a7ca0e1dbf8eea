//! The chains of datacenters' snapshots: which commit a change made, from the newest back as far as somebody asked.

use std::collections::{BTreeMap, BTreeSet};

use conf_core::snapshot::{Snapshot, SnapshotError};
use git2::Repository;
use libconf::name::{CommitId, DatacenterName, Sequence};
use parking_lot::Mutex;

/// How far back from the newest is looked; some 10 µs and 50 bytes each, once.
const MOST_SNAPSHOTS: usize = 100_000;

/// Snapshots of one datacenter by the changes that made them.
pub(crate) type Chain = BTreeMap<Sequence, CommitId>;

/// What is known of every datacenter that was asked for, each snapshot read once.
#[derive(Debug, Default)]
pub(crate) struct Chains(Mutex<BTreeMap<DatacenterName, Chain>>);

impl Chains {
    /// Those of `changes` that made a snapshot from which `newest` descends, or `newest`. What is not there made none: it is
    /// of another history, or too long ago.
    ///
    /// - Errors: a snapshot cannot be read.
    pub(crate) fn of(
        &self,
        repo: &Repository,
        newest: &Snapshot,
        changes: &BTreeSet<Sequence>,
    ) -> Result<Chain, SnapshotError> {
        let Some(oldest) = changes.first() else { return Ok(Chain::new()) };
        // Locked while it reads, so that of many who ask one reads.
        let mut all = self.0.lock();
        let known = all.entry(newest.datacenter.clone()).or_default();
        follow(known, repo, newest, *oldest)?;
        Ok(changes.iter().filter_map(|change| known.get(change).map(|commit| (*change, *commit))).collect())
    }
}

/// Makes `known` the chain from `newest` back to the change `oldest`, at least.
fn follow(known: &mut Chain, repo: &Repository, newest: &Snapshot, oldest: Sequence) -> Result<(), SnapshotError> {
    let is_newest = known.last_key_value() == Some((&newest.sequence, &newest.commit));
    if is_newest && known.first_key_value().is_some_and(|(lowest, _)| *lowest <= oldest) {
        return Ok(());
    }
    let mut chain = Chain::new();
    let mut snapshot = newest.clone();
    loop {
        let is_known = known.get(&snapshot.sequence) == Some(&snapshot.commit);
        chain.insert(snapshot.sequence, snapshot.commit);
        if is_known {
            // It names all that came before it, so what is known of that holds.
            let mut older = std::mem::take(known);
            older.split_off(&snapshot.sequence);
            chain.append(&mut older);
            let lowest = chain.first_key_value().map_or(snapshot.commit, |(_, commit)| *commit);
            snapshot = Snapshot::read(repo, lowest)?;
        }
        match snapshot.parent {
            Some(parent) if snapshot.sequence > oldest && chain.len() < MOST_SNAPSHOTS => {
                snapshot = Snapshot::read(repo, parent)?;
            }
            _ => break,
        }
    }
    while chain.len() > MOST_SNAPSHOTS {
        chain.pop_first();
    }
    *known = chain;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a snapshot, as far as the chain goes.
    fn make(repo: &Repository, sequence: u64, parent: Option<&Snapshot>, word: &str) -> Snapshot {
        let who = git2::Signature::new("n", "e", &git2::Time::new(0, 0)).unwrap();
        let tree = repo.find_tree(repo.treebuilder(None).unwrap().write().unwrap()).unwrap();
        let parent = parent.map(|parent| repo.find_commit(parent.commit.into()).unwrap());
        let message = format!("dc/v1: {word}\n\nConf-Sequence: {sequence}\nConf-Format: 1\n");
        let commit = repo.commit(None, &who, &who, &message, &tree, &parent.iter().collect::<Vec<_>>()).unwrap();
        Snapshot::read(repo, commit.into()).unwrap()
    }

    #[test]
    fn what_made_a_snapshot_of_this_history() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(&folder).unwrap();
        let chains = Chains::default();
        let mut made = vec![make(&repo, 1, None, "ours")];
        for sequence in [2, 3, 5, 6] {
            made.push(make(&repo, sequence, made.last(), "ours"));
        }
        let other = make(&repo, 4, Some(&made[1]), "theirs");
        let check = |newest: &Snapshot, asked: &[u64], expected: &[&Snapshot]| {
            let asked = asked.iter().map(|change| Sequence(*change)).collect();
            let expected: Chain = expected.iter().map(|one| (one.sequence, one.commit)).collect();
            assert_eq!(chains.of(&repo, newest, &asked).unwrap(), expected);
        };
        check(&made[2], &[], &[]);
        check(&made[2], &[3, 4], &[&made[2]]);
        // One that is newer, one that is older, and none that is there.
        check(&made[4], &[4, 5, 6, 7], &[&made[3], &made[4]]);
        check(&made[4], &[2, 3, 5], &[&made[1], &made[2], &made[3]]);
        check(&made[4], &[0, 1], &[&made[0]]);
        // After a copy was brought back history goes on from where that was made.
        check(&other, &[2, 3, 4, 5, 6], &[&made[1], &other]);
        check(&made[4], &[3, 4], &[&made[2]]);
    }
}
