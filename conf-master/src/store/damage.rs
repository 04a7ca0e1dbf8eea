//! What to do when objects are lost: finds the newest ledger entry that is whole, and says how to
//! go back to it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use git2::{ObjectType, Odb, Oid, Repository};
use libconf::name::{CommitId, ObjectId, RefName, Sequence};

use crate::store::journal;
use crate::store::ledger::{self, LedgerEntry, LedgerError};
use crate::store::refs::Table;
use crate::text::{some_of, when};

/// The most refs that the advice names.
const MOST_NAMED: usize = 5;

/// The most entries of the ledger that are tried on the way back: each is replayed from the whole
/// table before it, which may lie a thousand entries back.
const MOST_TRIED: usize = 1000;

/// Tells whether an error means that something in the repository is lost or damaged.
pub(crate) fn is_damage(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| match cause.downcast_ref::<LedgerError>() {
        Some(cause) => !matches!(cause, LedgerError::Newer { .. }),
        None => cause.is::<git2::Error>(),
    })
}

/// Finds the first object that cannot be read, of all that the table's refs need: the history of
/// each, and the files of its tip. Ends early, without a finding, once `stop` is true.
pub(crate) fn missing(path: &Path, table: &Table, stop: &dyn Fn() -> bool) -> Result<Option<ObjectId>, git2::Error> {
    let repo = Repository::open_bare(path)?;
    Ok(Reader::new(&repo, stop)?.missing(table))
}

/// Says how to mend a damaged repository: without loss from a copy, or by going back to the newest
/// entry of the ledger that is whole, and what is lost then.
pub(crate) fn advice(path: &Path) -> String {
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let shown = path.display();
    if let Some((file, cause)) = out_of_reach(path) {
        return format!(
            "{} cannot be read ({cause}), so it is out of reach, not lost: see that conf-master's user may read it and that the \
             disk is well, then start again. If nobody can read it any more, move it away first.",
            file.display()
        );
    }
    let copy = format!(
        "If a backup or a clone of this repository has what is lost, copy its objects into {shown}/objects and start again: \
         that loses nothing."
    );
    let found = WayBack::find(path);
    let Some(WayBack { commit, entry, later, refs }) = found else {
        return format!(
            "{copy} None of the ledger's newest {MOST_TRIED} entries is whole, so otherwise restore a backup of {shown}."
        );
    };
    let reset = if Repository::open_bare(path).is_ok_and(|repo| ledger_of(&repo).is_err()) {
        // Git does not replace a ref whose file it cannot read.
        format!("rm -f '{shown}/{0}' && git --git-dir '{shown}' update-ref {0} {commit}", RefName::Ledger)
    } else {
        format!("git --git-dir '{shown}' update-ref {} {commit}", RefName::Ledger)
    };
    let sequence = entry.sequence;
    let touched = some_of(refs.iter().map(RefName::short), MOST_NAMED).join(", ");
    let touched = if touched.is_empty() { String::new() } else { format!(" ({touched})") };
    let lost = match later {
        None => "No later change is known.".to_owned(),
        Some(last) => {
            let changes = match last.0 - sequence.0 {
                1 => format!("change #{last} is lost"),
                _ => format!("the changes #{} to #{last} are lost", sequence.next()),
            };
            format!(
                "Then {changes}{touched}: conf-master puts every branch and tag back to #{sequence}, so push them again from \
                 clones. Hosts keep what they run until the numbers of changes have passed theirs."
            )
        }
    };
    format!(
        "{copy} Otherwise go back to the last whole change, #{sequence} of {time}, commit {commit}, while conf-master is \
         stopped:\n  {reset}\n{lost}",
        time = when(entry.time),
    )
}

/// Finds a file of the objects, or the ledger's journal, that is there and cannot be opened.
/// Going back for its sake would give up what is not lost.
fn out_of_reach(repo: &Path) -> Option<(PathBuf, io::Error)> {
    let mut open = vec![repo.join("objects"), repo.join("logs")];
    while let Some(path) = open.pop() {
        match fs::read_dir(&path) {
            Ok(entries) => open.extend(entries.flatten().map(|entry| entry.path())),
            Err(cause) if cause.kind() == io::ErrorKind::NotADirectory => match File::open(&path) {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Some((path, cause)),
                _ => {}
            },
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Some((path, cause)),
        }
    }
    None
}

fn ledger_of(repo: &Repository) -> Result<CommitId, git2::Error> {
    repo.refname_to_id(&RefName::Ledger.to_string()).map(CommitId::from)
}

/// The newest entry of the ledger that is whole, and what came after it.
struct WayBack {
    commit: CommitId,
    entry: LedgerEntry,
    /// The newest change that is known, if it is a later one.
    later: Option<Sequence>,
    /// The refs that the later entries moved, as far as these can be read.
    refs: BTreeSet<RefName>,
}

impl WayBack {
    fn find(path: &Path) -> Option<Self> {
        let repo = Repository::open_bare(path).ok()?;
        let mut reader = Reader::new(&repo, &|| false).ok()?;
        let journal = journal::read(path).ok()?;
        let mut later = journal.iter().map(|line| line.sequence).max();
        let (mut seen, mut refs) = (HashSet::new(), BTreeSet::new());
        // Each start leads back to the first entry that is lost; the journal knows those behind it.
        for start in ledger_of(&repo).into_iter().chain(journal.iter().map(|line| line.commit)) {
            let mut next = Some(start);
            while let Some(commit) = next.filter(|commit| seen.len() < MOST_TRIED && seen.insert(*commit)) {
                let Ok(entry) = LedgerEntry::read(&repo, commit) else { break };
                later = later.max(Some(entry.sequence));
                if ledger::replay(&repo, commit).is_ok_and(|state| reader.missing(&state.table).is_none()) {
                    let later = later.filter(|later| *later > entry.sequence);
                    return Some(WayBack { commit, entry, later, refs });
                }
                refs.extend(entry.moves.into_iter().map(|one| one.name).filter(|name| !name.is_reserved()));
                next = ledger::previous(&repo, commit).ok().flatten();
            }
        }
        None
    }
}

/// A commit's tree and parents.
type ReadCommit = (Oid, Vec<Oid>);

/// Reads objects, and remembers which can be read. libgit2 compares what it reads with its id.
struct Reader<'a> {
    repo: &'a Repository,
    odb: Odb<'a>,
    commits: HashMap<Oid, Option<ReadCommit>>,
    /// For each tree and file: the first object that cannot be read in it.
    content: HashMap<Oid, Option<Oid>>,
    stop: &'a dyn Fn() -> bool,
}

impl<'a> Reader<'a> {
    fn new(repo: &'a Repository, stop: &'a dyn Fn() -> bool) -> Result<Self, git2::Error> {
        Ok(Reader { repo, odb: repo.odb()?, commits: HashMap::new(), content: HashMap::new(), stop })
    }

    fn missing(&mut self, table: &Table) -> Option<ObjectId> {
        let mut visited = HashSet::new();
        for (_, target) in table.iter() {
            let tip = Oid::from(target.commit);
            let tree = match self.commit(tip) {
                Some((tree, _)) => *tree,
                None => return Some(tip.into()),
            };
            let missing = self.content(tree).or_else(|| self.history(tip, &mut visited));
            if let Some(missing) = missing {
                return Some(missing.into());
            }
        }
        None
    }

    fn commit(&mut self, id: Oid) -> Option<&ReadCommit> {
        let repo = self.repo;
        let read = || {
            let commit = repo.find_commit(id).ok()?;
            Some((commit.tree_id(), commit.parent_ids().collect()))
        };
        self.commits.entry(id).or_insert_with(read).as_ref()
    }

    /// Finds a commit before `tip` that cannot be read.
    fn history(&mut self, tip: Oid, visited: &mut HashSet<Oid>) -> Option<Oid> {
        let mut open = vec![tip];
        while let Some(id) = open.pop() {
            if !visited.insert(id) {
                continue;
            }
            match self.commit(id) {
                Some((_, parents)) => open.extend(parents),
                None => return Some(id),
            }
            if (self.stop)() {
                return None;
            }
        }
        None
    }

    /// Finds an object in a tree, or the file itself, that cannot be read. A landing bounds how
    /// deep trees are.
    fn content(&mut self, id: Oid) -> Option<Oid> {
        if let Some(known) = self.content.get(&id) {
            return *known;
        }
        if (self.stop)() {
            return None;
        }
        let kind = self.odb.read(id).map(|object| object.kind());
        let tree = (kind.as_ref() == Ok(&ObjectType::Tree)).then(|| self.repo.find_tree(id));
        let found = match tree {
            Some(Ok(tree)) => {
                // A submodule's commit is not in this repository.
                let inner = tree.iter().filter(|entry| entry.kind() != Some(ObjectType::Commit));
                let inner: Vec<Oid> = inner.map(|entry| entry.id()).collect();
                inner.into_iter().find_map(|entry| self.content(entry))
            }
            Some(Err(_)) => Some(id),
            None => kind.err().map(|_| id),
        };
        self.content.insert(id, found);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_only_out_of_reach_is_no_reason_to_go_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("central.git");
        crate::store::init(&path).unwrap();
        assert!(advice(&path).contains("the last whole change, #0 of"));
        let object = path.join("objects/17").join("a".repeat(38));
        fs::create_dir_all(object.parent().unwrap()).unwrap();
        // Root may read every file, but no link that leads to itself.
        std::os::unix::fs::symlink(&object, &object).unwrap();
        let words = advice(&path);
        assert!(words.contains("cannot be read") && words.contains(&"a".repeat(38)), "{words}");
        assert!(!words.contains("update-ref"), "{words}");
    }
}
