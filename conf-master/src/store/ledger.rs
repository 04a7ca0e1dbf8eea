//! The log of every accepted change: a chain of commits at `refs/conf/ledger`, one for each
//! sequence. The first change of another epoch skips some numbers.
//!
//! A ledger commit's parents are the ledger commit before it, then every new tip, then the new
//! snapshots, so that nothing accepted is ever pruned. Its message lists every ref's old and new
//! value. Its tree holds the raw bytes of new annotated tags (`tags/<id>`: a tag cannot be a
//! parent), and in every thousandth commit the whole table of refs (`refs`), of where deleted refs
//! pointed (`deleted`), of the requests that landed with a key (`requests`), and of the last
//! changes of layers (`layers`).

use std::{collections::BTreeSet, path::Path, str::FromStr};

use conf_core::access::TokenId;
use conf_core::{daemon::chain, git::ObjectStore};
use git2::{ObjectType, Oid, Repository};
use libconf::name::{CommitId, ObjectId, RefName, Sequence};
use tracing::warn;

use crate::store::commit;
use crate::store::idempotency::{LandedRef, LandedRequests, RequestKey};
use crate::store::layers::LayerChanges;
use crate::store::refs::{RefTarget, Table};
use crate::text::first_and_more;

/// The format of ledger commits; a reader that meets a higher one stops with an error.
const FORMAT: u32 = 1;
/// How many ledger commits lie between two whole tables: the most that start-up reads.
pub(crate) const TABLE_EVERY: u64 = 1000;

/// One accepted change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LedgerEntry {
    /// Its number.
    pub(crate) sequence: Sequence,
    /// Every ref that it creates, moves or deletes.
    pub(crate) moves: Vec<Move>,
    /// The author.
    pub(crate) by: String,
    /// The way in: `http <address>`, `path`, `ssh`, `init`.
    pub(crate) through: String,
    /// The id of the request, as logs show it.
    pub(crate) request: String,
    /// Whether the author's name was proven; `None` in an entry of an older conf-master.
    pub(crate) proven: Option<Proven>,
    /// The token that proved the author's name, if one did.
    pub(crate) token: Option<TokenId>,
    /// The commit of the policy that allowed it, if one did.
    pub(crate) policy: Option<CommitId>,
    /// The idempotency key, if the request has one.
    pub(crate) key: Option<RequestKey>,
    /// In the first change of another epoch the change before it; its own number does not follow.
    pub(crate) continues: Option<Sequence>,
    /// The time, in seconds since 1970.
    pub(crate) time: i64,
}

/// Whether the name of an author was proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proven {
    /// By a token, a key of SSH, or because it is conf-master itself.
    Yes,
    /// It is a user of the server's machine who may write to the repository's files in any case.
    Owner,
    /// It is what the pusher wrote into the commit.
    No,
}

impl Proven {
    const ALL: [Proven; 3] = [Proven::Yes, Proven::Owner, Proven::No];

    /// How the ledger says it.
    fn word(self) -> &'static str {
        match self {
            Proven::Yes => "yes",
            Proven::Owner => "owner",
            Proven::No => "no",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        Proven::ALL.into_iter().find(|one| one.word() == word)
    }
}

/// The state that the ledger describes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LedgerState {
    /// Every ref.
    pub(crate) table: Table,
    /// The requests that landed with a key.
    pub(crate) requests: LandedRequests,
    /// The last change of each layer.
    pub(crate) layers: LayerChanges,
    /// The last change.
    pub(crate) sequence: Sequence,
}

/// The tables after a change, of which every thousandth commit holds all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tables<'a> {
    /// Every ref.
    pub(crate) table: &'a Table,
    /// The requests that landed with a key.
    pub(crate) requests: &'a LandedRequests,
    /// The last change of each layer.
    pub(crate) layers: &'a LayerChanges,
}

impl LedgerEntry {
    /// Notes the layers that this change changes; `table` is the state before it.
    pub(crate) fn note_layers(&self, repo: &Repository, table: &Table, layers: &mut LayerChanges) {
        for Move { name, new, .. } in &self.moves {
            let before = table.place(name);
            layers.note(repo, name, (before.target, *new), before.changes + 1);
        }
    }

    /// Applies this change to the state.
    pub(crate) fn apply(&self, table: &mut Table, requests: &mut LandedRequests) {
        for one in &self.moves {
            table.set(one.name.clone(), one.new);
        }
        if let Some(key) = &self.key {
            let refs = self.moves.iter().filter_map(|one| one.landed(table));
            requests.add(key.clone(), self.sequence, refs.collect());
        }
    }
}

/// One ref's part of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    /// The ref.
    pub(crate) name: RefName,
    /// The object that it held; zero for a new ref.
    pub(crate) old: ObjectId,
    /// Its new target; `None` when it was deleted.
    pub(crate) new: Option<RefTarget>,
}

/// Why the ledger cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    /// Git's objects cannot be read.
    #[error("cannot read the ledger")]
    Git(#[from] git2::Error),
    /// The commit has a form that conf-master does not write.
    #[error("ledger commit {commit} is malformed: {reason}")]
    Malformed {
        /// The commit.
        commit: CommitId,
        /// What is wrong.
        reason: String,
    },
    /// A newer conf-master wrote the commit.
    #[error("ledger commit {commit} was written by a newer conf-master; this one reads format {FORMAT}")]
    Newer {
        /// The commit.
        commit: CommitId,
    },
}

/// Writes one ledger commit; moves no ref. `tables` are the state after the change.
pub(crate) fn write(
    store: &impl ObjectStore,
    previous: Option<CommitId>,
    entry: &LedgerEntry,
    tables: Tables<'_>,
) -> Result<CommitId, git2::Error> {
    let mut tree = store.repo().treebuilder(None)?;
    let tags = write_tags(store, entry)?;
    if let Some(tags) = tags {
        tree.insert("tags", tags, 0o040_000)?;
    }
    if entry.sequence.0.is_multiple_of(TABLE_EVERY) {
        tree.insert("refs", blob(store, tables.table.to_string().as_bytes())?, 0o100_644)?;
        tree.insert("deleted", blob(store, tables.table.deleted().as_bytes())?, 0o100_644)?;
        tree.insert("requests", blob(store, tables.requests.to_string().as_bytes())?, 0o100_644)?;
        tree.insert("layers", blob(store, tables.layers.to_string().as_bytes())?, 0o100_644)?;
    }
    let mut seen = BTreeSet::new();
    // The first entry has no parent, so that the chain of first parents is the ledger and nothing
    // else.
    let tips = entry.moves.iter().filter(|_| previous.is_some()).filter_map(|one| one.new).map(|target| target.commit);
    let parents = previous.into_iter().chain(tips).filter(|parent| seen.insert(*parent));
    let tree = tree.write()?;
    store.keep(tree);
    commit::write(store, tree, parents, entry.time, &entry.to_string())
}

/// Keeps the bytes of new annotated tags, so that their refs can be restored after a prune.
fn write_tags(store: &impl ObjectStore, entry: &LedgerEntry) -> Result<Option<Oid>, git2::Error> {
    let odb = store.repo().odb()?;
    let mut tags = store.repo().treebuilder(None)?;
    for target in entry.moves.iter().filter_map(|one| one.new).filter(|target| target.value != target.commit) {
        let tag = odb.read(target.value.into())?;
        tags.insert(target.value.to_string(), blob(store, tag.data())?, 0o100_644)?;
    }
    if tags.is_empty() {
        return Ok(None);
    }
    let tags = tags.write()?;
    store.keep(tags);
    Ok(Some(tags))
}

fn blob(store: &impl ObjectStore, content: &[u8]) -> Result<Oid, git2::Error> {
    let blob = store.repo().blob(content)?;
    store.keep(blob);
    Ok(blob)
}

impl std::fmt::Display for LedgerEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "#{} {}\n", self.sequence, self.subject())?;
        for Move { name, old, new } in &self.moves {
            let (value, commit) = new.map_or((ObjectId::ZERO, ObjectId::ZERO), |target| (target.value, target.commit));
            writeln!(f, "{name} {old} {value} {commit}")?;
        }
        writeln!(f, "\nConf-Sequence: {}\nConf-Format: {FORMAT}", self.sequence)?;
        writeln!(f, "Conf-By: {}\nConf-Through: {}\nConf-Request: {}", self.by, self.through, self.request)?;
        self.proven.iter().try_for_each(|proven| writeln!(f, "Conf-Proven: {}", proven.word()))?;
        self.token.iter().try_for_each(|token| writeln!(f, "Conf-Token: {token}"))?;
        self.policy.iter().try_for_each(|policy| writeln!(f, "Conf-Policy: {policy}"))?;
        self.continues.iter().try_for_each(|last| writeln!(f, "Conf-Continues: {last}"))?;
        self.key.iter().try_for_each(|key| writeln!(f, "Conf-Idempotency: {key}"))
    }
}

impl LedgerEntry {
    /// Names the pushed refs in short.
    fn subject(&self) -> String {
        let mut pushed = self.moves.iter().filter(|one| !one.name.is_reserved()).map(|one| one.name.short());
        let first = pushed.next().unwrap_or_else(|| "nothing that was pushed".to_owned());
        first_and_more(first, pushed.count())
    }

    /// Reads a ledger commit.
    pub(crate) fn read(repo: &Repository, commit: CommitId) -> Result<Self, LedgerError> {
        let object = repo.find_commit(commit.into())?;
        let text = String::from_utf8_lossy(object.message_raw_bytes()).into_owned();
        let time = object.time().seconds();
        match Self::parse(&text, time) {
            Ok(Some(entry)) => Ok(entry),
            Ok(None) => Err(LedgerError::Newer { commit }),
            Err(reason) => Err(LedgerError::Malformed { commit, reason }),
        }
    }

    /// Parses the text of an entry; `None` is an entry of a newer format.
    fn parse(text: &str, time: i64) -> Result<Option<Self>, String> {
        let (head, trailers) = text.trim_end().rsplit_once("\n\n").ok_or("it has no trailers")?;
        let trailer = |name: &str| {
            let mut pairs = trailers.lines().filter_map(|line| line.split_once(": "));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value).ok_or(format!("the trailer {name} is missing"))
        };
        match trailer("Conf-Format")?.parse::<u32>() {
            Ok(format) if format <= FORMAT => {}
            Ok(_) => return Ok(None),
            Err(error) => return Err(format!("the trailer Conf-Format is no number: {error}")),
        }
        let moves = head.split_once("\n\n").map(|(_, moves)| moves).unwrap_or_default();
        let key = trailer("Conf-Idempotency").ok().map(str::parse::<RequestKey>).transpose()?;
        // An older conf-master wrote no owner beside a key, and the author's name where it was
        // proven.
        let owner = trailer("Conf-Token").and_then(|_| trailer("Conf-By")).ok().and_then(|by| by.parse().ok());
        Ok(Some(LedgerEntry {
            sequence: trailer("Conf-Sequence")?.parse().map_err(|error| format!("{error}"))?,
            moves: moves.lines().map(str::parse).collect::<Result<_, _>>()?,
            by: trailer("Conf-By")?.to_owned(),
            through: trailer("Conf-Through")?.to_owned(),
            request: trailer("Conf-Request")?.to_owned(),
            proven: trailer("Conf-Proven").ok().and_then(Proven::parse),
            // An older conf-master wrote neither, and an open one writes neither. What cannot be
            // read keeps no ledger from being read.
            token: trailer("Conf-Token").ok().and_then(|token| token.parse().ok()),
            policy: trailer("Conf-Policy").ok().and_then(|policy| policy.parse().ok()),
            key: key.map(|key| key.or_of(owner)),
            continues: match trailer("Conf-Continues") {
                Ok(last) => Some(last.parse().map_err(|error| format!("{error}"))?),
                Err(_) => None,
            },
            time,
        }))
    }
}

impl Move {
    /// Returns the landed ref, unless it was deleted; `table` is the state after the change.
    pub(crate) fn landed(&self, table: &Table) -> Option<LandedRef> {
        let changes = table.place(&self.name).changes;
        Some(LandedRef { name: self.name.clone(), commit: self.new?.commit, changes })
    }
}

impl FromStr for Move {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let read = || -> Option<Move> {
            let [name, old, value, commit] = line.split(' ').collect::<Vec<_>>().try_into().ok()?;
            let (value, commit): (ObjectId, ObjectId) = (value.parse().ok()?, commit.parse().ok()?);
            let new = (!value.is_zero()).then_some(RefTarget { value, commit });
            Some(Move { name: name.parse().ok()?, old: old.parse().ok()?, new })
        };
        read().ok_or_else(|| format!("bad line: {line}"))
    }
}

/// Reads the ledger back to its last whole table and forward again: the current state.
pub(crate) fn replay(repo: &Repository, tip: CommitId) -> Result<LedgerState, LedgerError> {
    let mut entries = Vec::new();
    let mut commit = tip;
    let mut state = loop {
        let entry = LedgerEntry::read(repo, commit)?;
        if entry.sequence.0.is_multiple_of(TABLE_EVERY) {
            break read_state(repo, commit, entry.sequence)?;
        }
        entries.push((commit, entry));
        commit = repo.find_commit(commit.into())?.parent_id(0)?.into();
    };
    for (commit, entry) in entries.into_iter().rev() {
        let expected = state.sequence.next();
        let is_next = match entry.continues {
            None => entry.sequence == expected,
            Some(last) => last == state.sequence && entry.sequence >= expected,
        };
        if !is_next {
            let reason = format!("its sequence is {}, {expected} should follow", entry.sequence);
            return Err(LedgerError::Malformed { commit, reason });
        }
        entry.note_layers(repo, &state.table, &mut state.layers);
        entry.apply(&mut state.table, &mut state.requests);
        state.sequence = entry.sequence;
    }
    Ok(state)
}

fn read_state(repo: &Repository, commit: CommitId, sequence: Sequence) -> Result<LedgerState, LedgerError> {
    let tree = repo.find_commit(commit.into())?.tree()?;
    let text = |name: &str| -> Result<String, git2::Error> {
        let blob = repo.find_blob(tree.get_path(Path::new(name))?.id())?;
        Ok(String::from_utf8_lossy(blob.content()).into_owned())
    };
    let malformed = |reason: String| LedgerError::Malformed { commit, reason };
    let mut table: Table = text("refs")?.parse().map_err(malformed)?;
    match tree.get_name("deleted") {
        Some(_) => table.recall_deleted(&text("deleted")?).map_err(malformed)?,
        None => find_deleted(repo, commit, &mut table),
    }
    // An older conf-master wrote no such table. An unreadable table is an error: a request could
    // land twice.
    let requests = match tree.get_name("requests") {
        Some(_) => text("requests")?.parse().map_err(malformed)?,
        None => LandedRequests::default(),
    };
    // An older conf-master wrote no such table, and nothing depends on it.
    let layers = tree.get_name("layers").and_then(|_| text("layers").ok()?.parse().ok());
    let layers = layers.unwrap_or_else(|| LayerChanges::begin(repo, &table));
    Ok(LedgerState { table, requests, layers, sequence })
}

/// Finds where deleted refs pointed, for a table of an older conf-master, which does not say: walks
/// the ledger back. The next whole table says it. Nothing else needs entries that are so old, so
/// that one which cannot be read ends the search and no more.
fn find_deleted(repo: &Repository, table_at: CommitId, table: &mut Table) {
    let mut forgotten = table.forgotten();
    let mut next = Some(table_at);
    while let Some(commit) = next.filter(|_| !forgotten.is_empty()) {
        let before = LedgerEntry::read(repo, commit).and_then(|entry| {
            for one in entry.moves {
                if let Some(target) = one.new.filter(|_| forgotten.remove(&one.name)) {
                    table.recall(&one.name, target);
                }
            }
            Ok(previous(repo, commit)?)
        });
        next = before.unwrap_or_else(|error| {
            let refs = forgotten.len();
            warn!(error = chain(&error), %commit, refs, "an old entry of the ledger cannot be read: where deleted refs pointed is not known");
            None
        });
    }
}

/// Returns the entry before one; `None` for the first.
pub(crate) fn previous(repo: &Repository, commit: CommitId) -> Result<Option<CommitId>, git2::Error> {
    Ok(repo.find_commit(commit.into())?.parent_ids().next().map(CommitId::from))
}

/// Restores an annotated tag's object from the ledger.
pub(crate) fn restore_tag(repo: &Repository, tip: CommitId, tag: ObjectId) -> Result<(), LedgerError> {
    let path = format!("tags/{tag}");
    let mut commit = repo.find_commit(tip.into())?;
    loop {
        if let Ok(entry) = commit.tree()?.get_path(Path::new(&path)) {
            let blob = repo.find_blob(entry.id())?;
            repo.odb()?.write(ObjectType::Tag, blob.content())?;
            return Ok(());
        }
        commit = commit.parent(0)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sequence: u64, moves: Vec<Move>) -> LedgerEntry {
        let text = str::to_owned;
        LedgerEntry {
            sequence: Sequence(sequence),
            moves,
            by: text("ann"),
            through: text("path"),
            request: text("r1"),
            proven: None,
            token: None,
            policy: None,
            key: None,
            continues: None,
            time: 1_700_000_000,
        }
    }

    #[test]
    fn an_entry_round_trips() {
        let target = RefTarget { value: ObjectId::from([1; 20]), commit: ObjectId::from([2; 20]) };
        let made = Move { name: "refs/tags/services/web/v1".parse().unwrap(), old: ObjectId::ZERO, new: Some(target) };
        let gone = Move { name: "refs/heads/services/web/old".parse().unwrap(), old: target.commit, new: None };
        for moves in [vec![made.clone(), gone], vec![made], Vec::new()] {
            let mut entry = entry(7, moves);
            assert_eq!(LedgerEntry::parse(&entry.to_string(), entry.time), Ok(Some(entry.clone())));
            entry.token = Some("0123456789ab".parse().unwrap());
            for proven in Proven::ALL {
                entry.proven = Some(proven);
                assert_eq!(LedgerEntry::parse(&entry.to_string(), entry.time), Ok(Some(entry.clone())));
            }
            entry.policy = Some(target.commit);
            assert_eq!(LedgerEntry::parse(&entry.to_string(), entry.time), Ok(Some(entry.clone())));
            let key = RequestKey::new("a:key", b"{}").unwrap();
            entry.key = Some(key.clone());
            let read = LedgerEntry::parse(&entry.to_string(), entry.time).unwrap().unwrap();
            assert_eq!(read.key, Some(key.of(Some(&"ann".parse().unwrap()))), "her token proved her name");
            entry.key = read.key;
            assert_eq!(LedgerEntry::parse(&entry.to_string(), entry.time), Ok(Some(entry)));
        }
        assert_eq!(LedgerEntry::parse("#1 x\n\nConf-Format: 2", 0), Ok(None));
    }

    #[test]
    fn replaying_gives_the_table_back_across_whole_tables() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path()).unwrap();
        let empty = repo.find_tree(repo.treebuilder(None).unwrap().write().unwrap()).unwrap();
        let who = git2::Signature::now("a", "a@b").unwrap();
        let mut state = LedgerState::default();
        let mut tip = None;
        let gone: RefName = "refs/heads/services/s6/master".parse().unwrap();
        let mut pointed = None;
        for sequence in 0..=TABLE_EVERY + 3 {
            let commit = repo.commit(None, &who, &who, &sequence.to_string(), &empty, &[]).unwrap().into();
            let name: RefName = format!("refs/heads/services/s{}/master", sequence % 7).parse().unwrap();
            let mut new = Some(RefTarget { value: commit, commit });
            if sequence >= TABLE_EVERY - 7 && name == gone {
                (pointed, new) = (pointed.or(state.table.target(&gone)), None);
            }
            let mut entry = entry(sequence, vec![Move { name, old: ObjectId::ZERO, new }]);
            entry.key = sequence.is_multiple_of(2).then(|| RequestKey::new(&sequence.to_string(), b"{}").unwrap());
            entry.apply(&mut state.table, &mut state.requests);
            state.sequence = Sequence(sequence);
            let tables = Tables { table: &state.table, requests: &state.requests, layers: &state.layers };
            tip = Some(write(&repo, tip, &entry, tables).unwrap());
        }
        let replayed = replay(&repo, tip.unwrap()).unwrap();
        assert_eq!(replayed, state);
        assert!(pointed.is_some());
        assert_eq!(replayed.table.place(&gone).last, pointed, "the whole table says where a deleted ref pointed");
        // The table of an older conf-master does not.
        let whole = (0..3).fold(repo.find_commit(tip.unwrap().into()).unwrap(), |one, _| one.parent(0).unwrap());
        let mut tree = repo.treebuilder(Some(&whole.tree().unwrap())).unwrap();
        tree.remove("deleted").unwrap();
        let tree = repo.find_tree(tree.write().unwrap()).unwrap();
        let parents: Vec<_> = whole.parents().collect();
        let parents: Vec<_> = parents.iter().collect();
        let old = repo.commit(None, &who, &who, whole.message().unwrap(), &tree, &parents).unwrap();
        assert_eq!(replay(&repo, old.into()).unwrap().table.place(&gone).last, pointed);
        let landed = replayed.requests.find(&RequestKey::new("700", b"{}").unwrap()).unwrap();
        // The branch `s0` had changes 0, 7, 14 … 700.
        assert_eq!((landed.sequence, landed.refs[0].changes), (Sequence(700), 101));
    }

    #[test]
    fn an_unreadable_table_of_keys_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path()).unwrap();
        let (table, requests, layers) = (Table::default(), LandedRequests::default(), LayerChanges::default());
        let tables = Tables { table: &table, requests: &requests, layers: &layers };
        let tip = write(&repo, None, &entry(0, Vec::new()), tables).unwrap();
        assert!(replay(&repo, tip).is_ok());
        let whole = repo.find_commit(tip.into()).unwrap();
        let with_keys = |keys: Option<Oid>| {
            let mut tree = repo.treebuilder(Some(&whole.tree().unwrap())).unwrap();
            match keys {
                Some(keys) => drop(tree.insert("requests", keys, 0o100_644).unwrap()),
                None => tree.remove("requests").unwrap(),
            }
            let tree = repo.find_tree(tree.write().unwrap()).unwrap();
            let (who, words) = (whole.author(), whole.message().unwrap());
            CommitId::from(repo.commit(None, &who, &who, words, &tree, &[]).unwrap())
        };
        // An older conf-master wrote no table.
        assert!(replay(&repo, with_keys(None)).is_ok());
        assert!(replay(&repo, with_keys(Some(repo.blob(b"nonsense").unwrap()))).is_err());
        // The disk lost the table.
        let gone = repo.blob(b"").unwrap();
        let tip = with_keys(Some(gone));
        let name = gone.to_string();
        std::fs::remove_file(folder.path().join("objects").join(&name[..2]).join(&name[2..])).unwrap();
        assert!(replay(&Repository::open_bare(folder.path()).unwrap(), tip).is_err());
    }
}
