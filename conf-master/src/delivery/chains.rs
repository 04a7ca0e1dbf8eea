//! The chains of datacenters' snapshots: which commit a change made, from the newest back as far as
//! anybody asked.

use std::collections::{BTreeMap, BTreeSet};

use conf_core::snapshot::{Snapshot, SnapshotError};
use git2::Repository;
use libconf::name::{CommitId, DatacenterName, Sequence};
use parking_lot::Mutex;

/// How far back a chain is followed; each snapshot costs about 10 µs and 50 bytes, once.
const MOST_SNAPSHOTS: usize = 100_000;

/// Snapshots of one datacenter, by the changes that made them.
pub(crate) type Chain = BTreeMap<Sequence, CommitId>;

/// The chains that were asked for; each snapshot is read once.
#[derive(Debug, Default)]
pub(crate) struct Chains(Mutex<BTreeMap<DatacenterName, Chain>>);

impl Chains {
    /// Finds the snapshots that some changes made, among `newest` and the snapshots from which it
    /// descends. A change that is absent from the answer made none: it is of another history, or
    /// too long ago.
    ///
    /// - Errors: a snapshot cannot be read.
    pub(crate) fn of(
        &self,
        repo: &Repository,
        newest: &Snapshot,
        changes: &BTreeSet<Sequence>,
    ) -> Result<Chain, SnapshotError> {
        let Some(oldest) = changes.first() else { return Ok(Chain::new()) };
        // The lock is held while the chain is read, so that it is read once for many who ask.
        let mut all = self.0.lock();
        let known = all.entry(newest.datacenter.clone()).or_default();
        follow(known, repo, newest, *oldest)?;
        Ok(changes.iter().filter_map(|change| known.get(change).map(|commit| (*change, *commit))).collect())
    }
}

/// Extends `known` to the chain from `newest` back to the change `oldest`, at least.
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
            // A snapshot names all snapshots before it, so the known part of the chain stays valid.
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

    /// Makes a snapshot with the parts that a chain reads.
    fn make(repo: &Repository, sequence: u64, parent: Option<&Snapshot>, word: &str) -> Snapshot {
        let who = git2::Signature::new("n", "e", &git2::Time::new(0, 0)).unwrap();
        let tree = repo.find_tree(repo.treebuilder(None).unwrap().write().unwrap()).unwrap();
        let parent = parent.map(|parent| repo.find_commit(parent.commit.into()).unwrap());
        let message = format!("dc/v1: {word}\n\nConf-Sequence: {sequence}\nConf-Format: 1\n");
        let commit = repo.commit(None, &who, &who, &message, &tree, &parent.iter().collect::<Vec<_>>()).unwrap();
        Snapshot::read(repo, commit.into()).unwrap()
    }

    #[test]
    fn a_chain_finds_the_changes_that_made_its_snapshots() {
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
        // A newer change, older changes, and a change that made no snapshot.
        check(&made[4], &[4, 5, 6, 7], &[&made[3], &made[4]]);
        check(&made[4], &[2, 3, 5], &[&made[1], &made[2], &made[3]]);
        check(&made[4], &[0, 1], &[&made[0]]);
        // After a restored backup, history goes on from the time of the backup.
        check(&other, &[2, 3, 4, 5, 6], &[&made[1], &other]);
        check(&made[4], &[3, 4], &[&made[2]]);
    }
}
