//! Where the ledger's ref is, compared with the change that is known to have landed last. A ref
//! that is lost, or fell back to an earlier value (an old line of `packed-refs`), is put back: what
//! was accepted stays accepted.

use std::path::Path;

use anyhow::{Context as _, bail};
use conf_core::git::{self, Durability};
use git2::Repository;
use libconf::name::{CommitId, RefName};
use tracing::warn;

use crate::store::ledger::{LedgerEntry, previous};

/// The place of the ledger's ref, as seen from the last change that is known to have landed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It names that change.
    Here,
    /// It names a change after it.
    Later(CommitId),
    /// It names a change before it.
    Earlier(CommitId),
    /// It cannot be read, for this reason.
    Lost(String),
    /// It names something else.
    Elsewhere(CommitId),
}

/// Finds out where the ledger's ref is; `landed` is the last change that is known to have landed.
pub(crate) fn standing(repo: &Repository, landed: CommitId) -> Standing {
    match repo.refname_to_id(&RefName::Ledger.to_string()).map(CommitId::from) {
        Err(error) => Standing::Lost(error.message().to_owned()),
        Ok(found) if found == landed => Standing::Here,
        Ok(found) if is_before(repo, found, landed) => Standing::Earlier(found),
        Ok(found) if is_before(repo, landed, found) => Standing::Later(found),
        Ok(found) => Standing::Elsewhere(found),
    }
}

/// Tells whether one entry of the ledger is before another: walks back the entries between.
pub(crate) fn is_before(repo: &Repository, earlier: CommitId, later: CommitId) -> bool {
    let number = |commit| LedgerEntry::read(repo, commit).map(|entry| entry.sequence.0);
    let (Ok(first), Ok(last)) = (number(earlier), number(later)) else { return false };
    // Between two epochs numbers are left out.
    let (mut at, mut number_of_it) = (later, last);
    while number_of_it > first {
        let Some(before) = previous(repo, at).ok().flatten() else { return false };
        let Ok(entry) = LedgerEntry::read(repo, before) else { return false };
        (at, number_of_it) = (before, entry.sequence.0);
    }
    first < last && at == earlier
}

/// Puts the ledger's ref back to `landed`, if it is lost or names an earlier change; tells whether
/// it did. Nothing may land meanwhile.
pub(crate) fn put_back(path: &Path, landed: CommitId) -> anyhow::Result<bool> {
    let (repo, name) = (Repository::open_bare(path)?, RefName::Ledger.to_string());
    if !matches!(standing(&repo, landed), Standing::Lost(_) | Standing::Earlier(_)) {
        return Ok(false);
    }
    repo.find_commit(landed.into()).context("the ledger's newest entry is lost")?;
    let file = path.join(&name);
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    git::replace_file(&file, format!("{landed}\n").as_bytes(), 0o644, Durability::Full)?;
    Ok(true)
}

/// Sees to it that the ledger holds all that is known to have landed, before it is read anew.
pub(crate) fn settle(path: &Path, landed: CommitId) -> anyhow::Result<()> {
    let repo = Repository::open_bare(path)?;
    let found = standing(&repo, landed);
    match found {
        Standing::Here | Standing::Later(_) => Ok(()),
        Standing::Lost(_) | Standing::Earlier(_) => {
            put_back(path, landed)?;
            warn!(?found, %landed, "{} was lost, and is put back", RefName::Ledger);
            Ok(())
        }
        Standing::Elsewhere(found) if repo.find_commit(landed.into()).is_err() => bail!(
            "{name} names {found}, and the last accepted change, {landed}, cannot be read. Copy the objects of a backup or a \
             clone into {shown}/objects, and start again. If nobody has them, remove {shown}/logs/{name} and start again: the \
             changes after {found} are lost then",
            name = RefName::Ledger,
            shown = path.display(),
        ),
        Standing::Elsewhere(found) => bail!(
            "{name} names {found}, and the last accepted change is {landed}, which that does not contain. Put it back: \
             `git --git-dir '{}' update-ref {name} {landed}`",
            path.display(),
            name = RefName::Ledger,
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use libconf::name::Sequence;

    use super::*;
    use crate::store::{self, LandedRequests, LayerChanges, Tables, journal, refs::Table};

    fn ref_of(repo: &Repository) -> Option<CommitId> {
        repo.refname_to_id(&RefName::Ledger.to_string()).ok().map(CommitId::from)
    }

    /// Writes the next entry of the ledger, and moves no ref.
    fn next(repo: &Repository, before: CommitId, by: &str) -> CommitId {
        let entry = LedgerEntry::read(repo, before).unwrap();
        let entry = LedgerEntry { sequence: entry.sequence.next(), moves: Vec::new(), by: by.to_owned(), ..entry };
        write(repo, before, &entry)
    }

    fn write(repo: &Repository, before: CommitId, entry: &LedgerEntry) -> CommitId {
        let (table, requests, layers) = (Table::default(), LandedRequests::default(), LayerChanges::default());
        let tables = Tables { table: &table, requests: &requests, layers: &layers };
        store::ledger::write(repo, Some(before), entry, tables).unwrap()
    }

    #[test]
    fn a_ref_that_fell_back_or_is_lost_is_put_back_and_another_one_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("central.git");
        store::init(&path).unwrap();
        let repo = store::open(&path).unwrap();
        let file = path.join(RefName::Ledger.to_string());
        let first = ref_of(&repo).unwrap();
        let (second, other) = (next(&repo, first, "ann"), next(&repo, first, "eve"));
        store::move_ledger(&repo, Some(first), second).unwrap();
        let third = next(&repo, second, "ann");
        store::move_ledger(&repo, Some(second), third).unwrap();
        assert_eq!(LedgerEntry::read(&repo, third).unwrap().sequence, Sequence(2));
        assert_eq!((standing(&repo, third), put_back(&path, third).unwrap()), (Standing::Here, false));
        assert_eq!(standing(&repo, first), Standing::Later(third));
        // The loose ref is lost, and an older value was packed.
        fs::remove_file(&file).unwrap();
        fs::write(path.join("packed-refs"), format!("{first} refs/conf/ledger\n")).unwrap();
        assert_eq!(standing(&repo, third), Standing::Earlier(first));
        settle(&path, third).unwrap();
        assert_eq!(ref_of(&repo), Some(third));
        // A landing needs no help.
        fs::remove_file(&file).unwrap();
        let fourth = next(&repo, third, "ann");
        store::move_ledger(&repo, Some(third), fourth).unwrap();
        fs::write(&file, "").unwrap();
        let fifth = next(&repo, fourth, "ann");
        store::move_ledger(&repo, Some(fourth), fifth).unwrap();
        assert_eq!(ref_of(&repo), Some(fifth));
        // Of another history nobody knows which one is right.
        fs::write(&file, format!("{other}\n")).unwrap();
        assert_eq!(standing(&repo, fifth), Standing::Elsewhere(other));
        assert!(!put_back(&path, fifth).unwrap());
        let words = settle(&path, fifth).unwrap_err().to_string();
        assert!(words.contains(&format!("update-ref refs/conf/ledger {fifth}")), "{words}");
        assert!(store::move_ledger(&repo, Some(fifth), next(&repo, fifth, "ann")).is_err());
        assert_eq!(ref_of(&repo), Some(other), "nothing was written");
        // The last change is lost with its objects.
        let words = settle(&path, CommitId::from([7; 20])).unwrap_err().to_string();
        assert!(words.contains("cannot be read") && words.contains("logs/refs/conf/ledger"), "{words}");
    }

    #[test]
    fn numbers_that_an_epoch_leaves_out_are_no_other_history() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("central.git");
        store::init(&path).unwrap();
        let repo = store::open(&path).unwrap();
        let first = ref_of(&repo).unwrap();
        let second = next(&repo, first, "ann");
        let entry = LedgerEntry::read(&repo, second).unwrap();
        let entry = LedgerEntry { sequence: Sequence(2000), continues: Some(entry.sequence), ..entry };
        let succession = write(&repo, second, &entry);
        assert!(is_before(&repo, first, succession) && is_before(&repo, second, succession));
        assert!(!is_before(&repo, succession, second) && !is_before(&repo, next(&repo, first, "eve"), succession));
        store::move_ledger(&repo, Some(first), succession).unwrap();
        assert_eq!(standing(&repo, second), Standing::Later(succession));
    }

    #[test]
    fn the_journal_tells_the_last_change_until_somebody_goes_back_by_git() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("central.git");
        store::init(&path).unwrap();
        let repo = store::open(&path).unwrap();
        let first = ref_of(&repo).unwrap();
        let second = next(&repo, first, "ann");
        store::move_ledger(&repo, Some(first), second).unwrap();
        assert_eq!(journal::newest(&path).unwrap(), Some(second));
        let (name, first) = (RefName::Ledger.to_string(), first.to_string());
        assert!(git::command(&path).args(["update-ref", &name, &first]).status().unwrap().success());
        assert_eq!(journal::newest(&path).unwrap(), None, "that was meant");
    }
}
