//! A datacenter's whole configuration as one commit: compose it, read it, compare two.

pub mod chain;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    str,
};

use git2::{ObjectType, Repository, Tree, TreeEntry};
use sha2::{Digest, Sha256};

use crate::{
    api::Pin,
    sign::{KeyError, SigningKey, TrustedKeys},
};
use libconf::name::{
    BranchName, CommitId, ComponentName, ComponentVersion, DatacenterName, Kind, ObjectId, RefName, SecretName,
    Segment, Sequence,
};

/// The format of snapshots that this program writes, and the highest that it reads (`Conf-Format`).
pub const FORMAT: u32 = 1;

const TREE_MODE: i32 = 0o040_000;
const BLOB_MODE: i32 = 0o100_644;

/// A snapshot's commit, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The commit.
    pub commit: CommitId,
    /// Its tree.
    pub tree: ObjectId,
    /// The snapshot before it.
    pub parent: Option<CommitId>,
    /// Whose it is.
    pub datacenter: DatacenterName,
    /// The change that made it.
    pub sequence: Sequence,
    /// Seconds since 1970 when it was composed.
    pub time: i64,
    /// Who made the change.
    pub by: String,
    /// What changed, in short.
    pub summary: String,
    /// The commit of the datacenter branch whose tree this holds; unknown in snapshots of earlier versions.
    pub datacenter_commit: Option<CommitId>,
    /// The ref and the commit of the class whose tree this holds; unknown in snapshots of earlier versions.
    pub class: Option<(RefName, CommitId)>,
}

/// One component in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// What is pinned.
    pub pin: Pin,
    /// The tree of its content.
    pub tree: ObjectId,
}

impl Snapshot {
    /// Reads a commit as a snapshot and accepts it only if a trusted key signed it for `datacenter`.
    pub fn verify(
        repo: &Repository,
        commit: CommitId,
        keys: &TrustedKeys,
        datacenter: &DatacenterName,
    ) -> Result<Self, SnapshotError> {
        let unsigned = || KeyError::BadSignature("it is not signed".to_owned());
        let untrusted = |cause| SnapshotError::Untrusted { commit, cause };
        // Read first, so that an absent object is told from an unsigned one.
        repo.find_commit(commit.into()).map_err(|cause| SnapshotError::Read { commit, cause })?;
        let (signature, text) = repo.extract_signature(&commit.into(), None).map_err(|_| untrusted(unsigned()))?;
        let signature = str::from_utf8(&signature).map_err(|_| untrusted(unsigned()))?;
        keys.verify(&text, signature).map_err(untrusted)?;
        // What was signed is what is read: the text without the signature, not the object around it.
        let snapshot = parse(commit, &text)?;
        if snapshot.datacenter != *datacenter {
            let (found, wanted) = (snapshot.datacenter, datacenter.clone());
            return Err(SnapshotError::OtherDatacenter { commit, found, wanted });
        }
        Ok(snapshot)
    }

    /// Reads a commit as a snapshot without looking at its signature: for a repository that only conf-master writes.
    pub fn read(repo: &Repository, commit: CommitId) -> Result<Self, SnapshotError> {
        let read = |cause| SnapshotError::Read { commit, cause };
        let object = repo.find_commit(commit.into()).map_err(read)?;
        let header = object.raw_header_bytes();
        let text = [header, b"\n", object.message_raw_bytes()].concat();
        parse(commit, &text)
    }

    /// Everything that it pins, in order of name.
    pub fn components(&self, repo: &Repository) -> Result<BTreeMap<ComponentVersion, Component>, SnapshotError> {
        components_of_tree(repo, self.tree).map_err(|cause| SnapshotError::Read { commit: self.commit, cause })
    }

    /// The tree of the datacenter's own branch.
    pub fn datacenter_tree(&self, repo: &Repository) -> Result<ObjectId, SnapshotError> {
        self.subtree(repo, DATACENTER)
    }

    /// The tree of the class, at its tag.
    pub fn class_tree(&self, repo: &Repository) -> Result<ObjectId, SnapshotError> {
        self.subtree(repo, CLASS)
    }

    /// The tree of its sealed secrets, where it has any.
    pub fn secrets_tree(&self, repo: &Repository) -> Result<Option<ObjectId>, SnapshotError> {
        self.folder(repo, SECRETS)
    }

    fn subtree(&self, repo: &Repository, name: &str) -> Result<ObjectId, SnapshotError> {
        self.folder(repo, name)?.ok_or_else(|| SnapshotError::Malformed {
            commit: self.commit,
            reason: format!("it has no folder {name}/"),
        })
    }

    fn folder(&self, repo: &Repository, name: &str) -> Result<Option<ObjectId>, SnapshotError> {
        let tree =
            repo.find_tree(self.tree.into()).map_err(|cause| SnapshotError::Read { commit: self.commit, cause })?;
        let entry = tree.get_name(name).filter(|entry| entry.kind() == Some(ObjectType::Tree));
        Ok(entry.map(|entry| entry.id().into()))
    }
}

const DATACENTER: &str = "datacenter";
const CLASS: &str = "datacenter-configuration";
const SECRETS: &str = "secrets";

/// Reads the text of a commit: headers, an empty line, the message with its trailers.
fn parse(commit: CommitId, text: &[u8]) -> Result<Snapshot, SnapshotError> {
    let malformed = |reason: &str| SnapshotError::Malformed { commit, reason: reason.to_owned() };
    let text = str::from_utf8(text).map_err(|_| malformed("its text is not UTF-8"))?;
    let (headers, message) = text.split_once("\n\n").ok_or_else(|| malformed("it has no message"))?;
    let header = |name: &'static str| {
        headers
            .lines()
            .filter_map(move |line| line.split_once(' ').filter(|(key, _)| *key == name))
            .map(|(_, value)| value)
    };
    let trailer = |name: &str| {
        let last = message.trim_end().rsplit("\n\n").next().unwrap_or_default();
        last.lines().filter_map(|line| line.split_once(": ")).find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let format = trailer("Conf-Format").and_then(|value| value.parse::<u32>().ok());
    match format {
        Some(format) if format > FORMAT => return Err(SnapshotError::Newer { commit, format }),
        Some(_) => {}
        None => return Err(malformed("the trailer Conf-Format is missing")),
    }
    let sequence = trailer("Conf-Sequence").and_then(|value| value.parse().ok());
    let subject = message.lines().next().unwrap_or_default();
    let (datacenter, summary) = subject.split_once(": ").unwrap_or((subject, ""));
    let mut parents = header("parent").map(str::parse::<CommitId>);
    let parent = parents.next().transpose().map_err(|_| malformed("its parent has no good id"))?;
    if parents.next().is_some() {
        return Err(malformed("it has more than one parent"));
    }
    let tree = header("tree").next().and_then(|value| value.parse().ok());
    let time = header("committer").next().and_then(|line| line.rsplit(' ').nth(1)?.parse().ok());
    Ok(Snapshot {
        commit,
        tree: tree.ok_or_else(|| malformed("it has no tree"))?,
        parent,
        datacenter: datacenter.parse().map_err(|_| malformed("its subject does not begin with a datacenter"))?,
        sequence: sequence.ok_or_else(|| malformed("the trailer Conf-Sequence is missing or bad"))?,
        time: time.ok_or_else(|| malformed("it has no time"))?,
        by: trailer("Conf-By").unwrap_or_default().to_owned(),
        summary: summary.to_owned(),
        datacenter_commit: trailer("Conf-Datacenter").and_then(|value| value.parse().ok()),
        class: trailer("Conf-Class").and_then(|value| {
            let (name, commit) = value.split_once(' ')?;
            Some((name.parse().ok()?, commit.parse().ok()?))
        }),
    })
}

/// What differs between two snapshots: exactly what to publish, what to render again and whom to tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Components that were added, removed (`after` is `None`) or changed (content or pin).
    pub components: BTreeMap<ComponentVersion, Change>,
    /// The datacenter's own branch differs.
    pub datacenter: bool,
    /// The class differs.
    pub class: bool,
    /// Secrets that were added, removed, or sealed anew.
    pub secrets: BTreeSet<SecretName>,
}

/// A component before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What was there.
    pub before: Option<Component>,
    /// What is there now.
    pub after: Option<Component>,
}

/// Compares two snapshots' trees; with no `old`, everything in `new` was added. Cost grows with what differs.
pub fn compare(repo: &Repository, old: Option<&Snapshot>, new: &Snapshot) -> Result<Difference, SnapshotError> {
    compare_trees(repo, old.map(|old| old.tree), new.tree)
        .map_err(|cause| SnapshotError::Read { commit: new.commit, cause })
}

fn compare_trees(repo: &Repository, old: Option<ObjectId>, new: ObjectId) -> Result<Difference, git2::Error> {
    let (before, after) = (subtrees(repo, old)?, subtrees(repo, Some(new))?);
    let mut difference = Difference {
        datacenter: before.get(DATACENTER) != after.get(DATACENTER),
        class: before.get(CLASS) != after.get(CLASS),
        ..Difference::default()
    };
    let secrets = differing(repo, before.get(SECRETS), after.get(SECRETS))?;
    difference.secrets = secrets.into_iter().filter_map(|(name, _, _)| name.parse().ok()).collect();
    for kind in Kind::ALL {
        for (_, old, new) in differing(repo, before.get(kind.as_str()), after.get(kind.as_str()))? {
            for (name, old, new) in differing(repo, old.as_ref(), new.as_ref())? {
                let Ok(name) = name.parse::<Segment>() else { continue };
                let component = ComponentName { kind, name };
                let mut old = versions(repo, &component, old)?;
                for (version, after) in versions(repo, &component, new)? {
                    let before = old.remove(&version);
                    if before.as_ref() != Some(&after) {
                        difference.components.insert(version, Change { before, after: Some(after) });
                    }
                }
                let removed =
                    old.into_iter().map(|(version, before)| (version, Change { before: Some(before), after: None }));
                difference.components.extend(removed);
            }
        }
    }
    Ok(difference)
}

type Differing = Vec<(String, Option<ObjectId>, Option<ObjectId>)>;

/// The folders that differ between two folders.
fn differing(repo: &Repository, old: Option<&ObjectId>, new: Option<&ObjectId>) -> Result<Differing, git2::Error> {
    if old == new {
        return Ok(Vec::new());
    }
    let mut before = subtrees(repo, old.copied())?;
    let after = subtrees(repo, new.copied())?;
    let mut differing: Differing = Vec::new();
    for (name, new) in after {
        let old = before.remove(&name);
        if old != Some(new) {
            differing.push((name, old, Some(new)));
        }
    }
    differing.extend(before.into_iter().map(|(name, old)| (name, Some(old), None)));
    Ok(differing)
}

/// The folders in a folder, by name.
fn subtrees(repo: &Repository, tree: Option<ObjectId>) -> Result<BTreeMap<String, ObjectId>, git2::Error> {
    let Some(tree) = tree else { return Ok(BTreeMap::new()) };
    let tree = repo.find_tree(tree.into())?;
    let folders = tree.iter().filter(|entry| entry.kind() == Some(ObjectType::Tree));
    Ok(folders.filter_map(|entry| Some((entry.name().ok()?.to_owned(), entry.id().into()))).collect())
}

/// All versions in a component's folder: `<version>/` and `@<version>` beside it.
fn versions(
    repo: &Repository,
    component: &ComponentName,
    tree: Option<ObjectId>,
) -> Result<BTreeMap<ComponentVersion, Component>, git2::Error> {
    let Some(tree) = tree else { return Ok(BTreeMap::new()) };
    let tree = repo.find_tree(tree.into())?;
    let version = |entry: TreeEntry<'_>| -> Result<Option<(ComponentVersion, Component)>, git2::Error> {
        let Some(version) = entry.name().ok().and_then(|name| name.strip_prefix('@')?.parse().ok()) else {
            return Ok(None);
        };
        let component = ComponentVersion { component: component.clone(), version };
        let bad = || git2::Error::from_str(&format!("the pin of {component} is malformed"));
        let blob = repo.find_blob(entry.id())?;
        let (branch, commit) = parse_pin(blob.content()).ok_or_else(bad)?;
        let content = tree.get_name(component.version.as_str()).ok_or_else(bad)?;
        let pin = Pin { component: component.clone(), branch, commit };
        Ok(Some((component, Component { pin, tree: content.id().into() })))
    };
    tree.iter().filter_map(|entry| version(entry).transpose()).collect()
}

fn parse_pin(text: &[u8]) -> Option<(BranchName, CommitId)> {
    let (branch, commit) = str::from_utf8(text).ok()?.split_once('/')?;
    Some((branch.parse().ok()?, commit.parse().ok()?))
}

fn components_of_tree(repo: &Repository, tree: ObjectId) -> Result<BTreeMap<ComponentVersion, Component>, git2::Error> {
    let difference = compare_trees(repo, None, tree)?;
    Ok(difference.components.into_iter().filter_map(|(name, change)| Some((name, change.after?))).collect())
}

/// What a snapshot is composed of: the tree before it, and what is different now.
#[derive(Clone, Debug)]
pub struct Composition {
    /// Whose snapshot.
    pub datacenter: DatacenterName,
    /// The number of the change.
    pub sequence: Sequence,
    /// Seconds since 1970.
    pub time: i64,
    /// The snapshot before it.
    pub parent: Option<CommitId>,
    /// A tree composed before, to start from; none to start from nothing.
    pub base: Option<ObjectId>,
    /// Components to set, or to remove (`None`), in `base`.
    pub components: BTreeMap<ComponentVersion, Option<Component>>,
    /// The tree of the datacenter branch.
    pub datacenter_tree: ObjectId,
    /// The commit which that is.
    pub datacenter_commit: CommitId,
    /// The tree of the class at its tag.
    pub class_tree: ObjectId,
    /// The ref and the commit which that is.
    pub class: (RefName, CommitId),
    /// The tree of its sealed secrets, where there are any.
    pub secrets_tree: Option<ObjectId>,
    /// The rest of the subject: what changed, on one line.
    pub summary: String,
    /// Who made the change, on one line.
    pub by: String,
}

/// Writes the objects of a snapshot, signed, and answers its commit; moves no ref and syncs nothing.
///
/// Cost grows with what is different from `base`: content goes in by object id, nothing is copied.
pub fn compose(repo: &Repository, composition: &Composition, key: &SigningKey) -> Result<CommitId, SnapshotError> {
    let tree = compose_tree(repo, composition).map_err(SnapshotError::Write)?;
    let mut text = format!("tree {tree}\n");
    if let Some(parent) = composition.parent {
        let _ = writeln!(text, "parent {parent}");
    }
    let who = format!("conf-master <conf-master> {} +0000", composition.time);
    let _ = write!(
        text,
        "author {who}\ncommitter {who}\n\n{}: {}\n\nConf-Sequence: {}\nConf-Format: {FORMAT}\nConf-By: {}\n\
         Conf-Datacenter: {}\nConf-Class: {} {}\n",
        composition.datacenter,
        composition.summary,
        composition.sequence,
        composition.by,
        composition.datacenter_commit,
        composition.class.0,
        composition.class.1,
    );
    let signature = key.sign(&text).map_err(|cause| SnapshotError::Untrusted { commit: CommitId::ZERO, cause })?;
    let commit = repo.commit_signed(&text, &signature, None).map_err(SnapshotError::Write)?;
    Ok(commit.into())
}

fn compose_tree(repo: &Repository, composition: &Composition) -> Result<ObjectId, git2::Error> {
    let mut edits = Edits::default();
    for (name, component) in &composition.components {
        let ComponentName { kind, name: segment } = &name.component;
        let folder = [kind.as_str(), &fan_out(segment.as_str()), segment.as_str()];
        let pin = match component {
            Some(Component { pin, .. }) => {
                let value = format!("{}/{}", pin.branch, pin.commit);
                Some((BLOB_MODE, repo.blob(value.as_bytes())?.into()))
            }
            None => None,
        };
        let content = component.as_ref().map(|component| (TREE_MODE, component.tree));
        edits.set(&folder, &format!("@{}", name.version), pin);
        edits.set(&folder, name.version.as_str(), content);
    }
    edits.set(&[], DATACENTER, Some((TREE_MODE, composition.datacenter_tree)));
    edits.set(&[], CLASS, Some((TREE_MODE, composition.class_tree)));
    edits.set(&[], SECRETS, composition.secrets_tree.map(|tree| (TREE_MODE, tree)));
    let base = composition.base.map(|base| repo.find_tree(base.into())).transpose()?;
    let tree = edits.apply(repo, base.as_ref())?;
    tree.ok_or_else(|| git2::Error::from_str("a snapshot cannot be empty"))
}

/// The folder in which a name stands among those of its kind: the first two hex digits of its SHA-256.
pub fn fan_out(name: &str) -> String {
    format!("{:02x}", Sha256::digest(name)[0])
}

/// Entries to set or to remove in a tree of folders.
#[derive(Default)]
struct Edits {
    entries: BTreeMap<String, Option<(i32, ObjectId)>>,
    folders: BTreeMap<String, Edits>,
}

impl Edits {
    fn set(&mut self, folder: &[&str], name: &str, entry: Option<(i32, ObjectId)>) {
        let folder = folder.iter().fold(self, |edits, part| edits.folders.entry((*part).to_owned()).or_default());
        folder.entries.insert(name.to_owned(), entry);
    }

    /// Writes the tree that results; `None` when nothing is left in it.
    fn apply(&self, repo: &Repository, base: Option<&Tree<'_>>) -> Result<Option<ObjectId>, git2::Error> {
        let mut builder = repo.treebuilder(base)?;
        let mut put = |name: &str, entry: Option<(i32, ObjectId)>| match entry {
            Some((mode, id)) => builder.insert(name, id.into(), mode).map(drop),
            None if builder.get(name)?.is_some() => builder.remove(name),
            None => Ok(()),
        };
        for (name, edits) in &self.folders {
            let below = match base.and_then(|base| base.get_name(name)) {
                Some(entry) => Some(repo.find_tree(entry.id())?),
                None => None,
            };
            put(name, edits.apply(repo, below.as_ref())?.map(|id| (TREE_MODE, id)))?;
        }
        for (name, entry) in &self.entries {
            put(name, *entry)?;
        }
        if builder.is_empty() { Ok(None) } else { Ok(Some(builder.write()?.into())) }
    }
}

/// Why a commit is no snapshot, or not one for us.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It, or something in it, is not in the repository or cannot be read.
    #[error("cannot read snapshot {commit}")]
    Read {
        /// Which snapshot.
        commit: CommitId,
        /// Git's words.
        #[source]
        cause: git2::Error,
    },
    /// Objects could not be written.
    #[error("cannot write a snapshot")]
    Write(#[source] git2::Error),
    /// It is not made as a snapshot is.
    #[error("{commit} is not a snapshot: {reason}")]
    Malformed {
        /// Which commit.
        commit: CommitId,
        /// What is wrong.
        reason: String,
    },
    /// It was made by a newer conf-master.
    #[error("snapshot {commit} has format {format}, this program reads up to {FORMAT}; upgrade it")]
    Newer {
        /// Which snapshot.
        commit: CommitId,
        /// Its format.
        format: u32,
    },
    /// It belongs to another datacenter.
    #[error("{commit} is a snapshot of {found}, not of {wanted}")]
    OtherDatacenter {
        /// Which snapshot.
        commit: CommitId,
        /// Whose it is.
        found: DatacenterName,
        /// Whose was wanted.
        wanted: DatacenterName,
    },
    /// It is not signed by a trusted key.
    #[error("snapshot {commit} is refused")]
    Untrusted {
        /// Which snapshot.
        commit: CommitId,
        /// Why.
        #[source]
        cause: KeyError,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::public_path;

    struct Bench {
        folder: tempfile::TempDir,
        repo: Repository,
        key: SigningKey,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let repo = Repository::init_bare(folder.path().join("repo.git")).unwrap();
            let key = SigningKey::generate(&folder.path().join("key"), "").unwrap();
            Bench { folder, repo, key }
        }

        fn component(&self, name: &str, content: &str) -> (ComponentVersion, Option<Component>) {
            let component: ComponentVersion = name.parse().unwrap();
            let blob = self.repo.blob(content.as_bytes()).unwrap();
            let mut tree = self.repo.treebuilder(None).unwrap();
            tree.insert("config.yaml", blob, BLOB_MODE).unwrap();
            let tree = tree.write().unwrap().into();
            let commit = CommitId::from([7; 20]);
            let pin = Pin { component: component.clone(), branch: "master".parse().unwrap(), commit };
            (component, Some(Component { pin, tree }))
        }

        fn compose(
            &self,
            sequence: u64,
            parent: Option<&Snapshot>,
            components: impl IntoIterator<Item = (ComponentVersion, Option<Component>)>,
        ) -> Snapshot {
            let empty = self.repo.treebuilder(None).unwrap().write().unwrap().into();
            let composition = Composition {
                datacenter: "us-west/v1".parse().unwrap(),
                sequence: Sequence(sequence),
                time: 1_700_000_000,
                parent: parent.map(|parent| parent.commit),
                base: parent.map(|parent| parent.tree),
                components: components.into_iter().collect(),
                datacenter_tree: empty,
                datacenter_commit: CommitId::from([8; 20]),
                class_tree: empty,
                class: ("refs/tags/datacenter-configuration/big/v1".parse().unwrap(), CommitId::from([9; 20])),
                secrets_tree: None,
                summary: "test".to_owned(),
                by: "tester".to_owned(),
            };
            let commit = compose(&self.repo, &composition, &self.key).unwrap();
            Snapshot::read(&self.repo, commit).unwrap()
        }
    }

    #[test]
    fn what_is_composed_is_read_and_compared() {
        let bench = Bench::new();
        let first =
            bench.compose(1, None, [bench.component("services/a/latest", "1"), bench.component("devices/d/v1", "1")]);
        assert_eq!(first.components(&bench.repo).unwrap().len(), 2);
        let removed = ("devices/d/v1".parse().unwrap(), None);
        let second = bench.compose(2, Some(&first), [bench.component("services/a/v2", "2"), removed]);
        let names = |difference: &Difference| difference.components.keys().map(ToString::to_string).collect::<Vec<_>>();
        let difference = compare(&bench.repo, Some(&first), &second).unwrap();
        assert_eq!(names(&difference), ["services/a/v2", "devices/d/v1"]);
        assert!(!difference.datacenter && !difference.class);
        assert_eq!(second.parent, Some(first.commit));
        assert_eq!(second.datacenter_commit, Some(CommitId::from([8; 20])));
        let class = ("refs/tags/datacenter-configuration/big/v1".parse().unwrap(), CommitId::from([9; 20]));
        assert_eq!(second.class, Some(class));
        let tree = bench.repo.find_tree(second.tree.into()).unwrap();
        assert!(tree.get_name("devices").is_none(), "an empty folder is removed");
        let again = bench.compose(
            3,
            None,
            second.components(&bench.repo).unwrap().into_iter().map(|(name, one)| (name, Some(one))),
        );
        assert_eq!(again.tree, second.tree, "the same content gives the same tree, whichever way it was composed");
    }

    #[test]
    fn a_snapshot_of_an_earlier_version_names_no_commits_of_its_layers() {
        let text = format!(
            "tree {0}\nauthor a <a> 1 +0000\ncommitter a <a> 1 +0000\n\nus-west/v1: x\n\nConf-Sequence: 7\nConf-Format: 1\n",
            CommitId::from([1; 20])
        );
        let snapshot = parse(CommitId::from([2; 20]), text.as_bytes()).unwrap();
        assert_eq!((snapshot.sequence, snapshot.datacenter_commit, snapshot.class), (Sequence(7), None, None));
    }

    #[test]
    fn only_what_is_signed_for_this_datacenter_is_accepted() {
        let bench = Bench::new();
        let snapshot = bench.compose(1, None, [bench.component("services/a/latest", "1")]);
        let trusted = TrustedKeys::load(&public_path(&bench.folder.path().join("key"))).unwrap();
        let (here, there) = ("us-west/v1".parse().unwrap(), "us-east/v1".parse().unwrap());
        assert_eq!(Snapshot::verify(&bench.repo, snapshot.commit, &trusted, &here).unwrap(), snapshot);
        let error = Snapshot::verify(&bench.repo, snapshot.commit, &trusted, &there).unwrap_err();
        assert!(matches!(error, SnapshotError::OtherDatacenter { .. }), "{error}");
        let other = bench.folder.path().join("other");
        SigningKey::generate(&other, "").unwrap();
        let other = TrustedKeys::load(&public_path(&other)).unwrap();
        let error = Snapshot::verify(&bench.repo, snapshot.commit, &other, &here).unwrap_err();
        assert!(matches!(error, SnapshotError::Untrusted { .. }), "{error}");
        let error = Snapshot::verify(&bench.repo, CommitId::from([9; 20]), &trusted, &here).unwrap_err();
        assert!(matches!(error, SnapshotError::Read { .. }), "{error}");
    }
}
