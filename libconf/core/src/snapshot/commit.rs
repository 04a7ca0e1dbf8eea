//! A snapshot's commit.

use std::str;

use git2::{ObjectType, Repository};

use crate::{
    sign::{KeyError, TrustedKeys},
    snapshot::error::{FORMAT, SnapshotError},
};
use libconf::name::{CommitId, DatacenterName, ObjectId, RefName, Sequence};

/// A snapshot's commit, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The commit.
    pub commit: CommitId,
    /// Its tree.
    pub tree: ObjectId,
    /// The snapshot before it.
    pub parent: Option<CommitId>,
    /// The datacenter.
    pub datacenter: DatacenterName,
    /// The change that made it.
    pub sequence: Sequence,
    /// The epoch of conf-master's history that the change is of; the first is 1.
    pub epoch: u32,
    /// When it was composed, in seconds since 1970.
    pub time: i64,
    /// The author of the change.
    pub by: String,
    /// A summary of the change.
    pub summary: String,
    /// The commit of the datacenter branch whose tree this snapshot holds; unknown in snapshots of
    /// earlier versions.
    pub datacenter_commit: Option<CommitId>,
    /// The ref and the commit of the class whose tree this snapshot holds; unknown in snapshots of
    /// earlier versions.
    pub class: Option<(RefName, CommitId)>,
}

/// The bytes of a commit's object.
fn bytes_of(repo: &Repository, commit: CommitId) -> Result<Vec<u8>, SnapshotError> {
    let unreadable = |cause| SnapshotError::Read { commit, cause };
    // An object of another type is as good as none.
    repo.find_commit(commit.into()).map_err(unreadable)?;
    let object = repo.odb().and_then(|odb| odb.read(commit.into()).map(|object| object.data().to_vec()));
    object.map_err(unreadable)
}

impl Snapshot {
    /// Reads a commit as a snapshot and accepts it only if a trusted key signed it for
    /// `datacenter`.
    pub fn verify(
        repo: &Repository,
        commit: CommitId,
        keys: &TrustedKeys,
        datacenter: &DatacenterName,
    ) -> Result<Self, SnapshotError> {
        Self::verify_bytes(commit, &bytes_of(repo, commit)?, keys, datacenter)
    }

    /// Does the same for one that is to become the newest: no revoked key has signed it, whatever
    /// number it has, and it is of the newest epoch that is known here.
    pub fn verify_new(
        repo: &Repository,
        commit: CommitId,
        keys: &TrustedKeys,
        datacenter: &DatacenterName,
    ) -> Result<Self, SnapshotError> {
        Self::verified(commit, &bytes_of(repo, commit)?, keys, datacenter, true)
    }

    /// Does the same for the bytes of the commit's object, which need not be in a repository.
    pub fn verify_bytes(
        commit: CommitId,
        bytes: &[u8],
        keys: &TrustedKeys,
        datacenter: &DatacenterName,
    ) -> Result<Self, SnapshotError> {
        Self::verified(commit, bytes, keys, datacenter, false)
    }

    fn verified(
        commit: CommitId,
        bytes: &[u8],
        keys: &TrustedKeys,
        datacenter: &DatacenterName,
        is_new: bool,
    ) -> Result<Self, SnapshotError> {
        let untrusted = |cause| SnapshotError::Untrusted { commit, cause };
        let unsigned = || untrusted(KeyError::BadSignature("it is not signed".to_owned()));
        let (signature, text) = signed(bytes).ok_or_else(unsigned)?;
        let signed = keys.verify(&text, &signature).map_err(untrusted)?;
        // Whoever could write a signature in another way would make another commit of it, and the
        // next snapshot would not follow from that one.
        if with_signature(&text, &signed.signature).as_deref() != Some(bytes) {
            let words = "its signature is written in another way than conf-master writes it";
            return Err(untrusted(KeyError::BadSignature(words.to_owned())));
        }
        // The signed text is read, not the object around it.
        let parsed = parse(commit, &text);
        // What cannot be read is of no change that a revoked key still counts for.
        let sequence = parsed.as_ref().map_or(Sequence(u64::MAX), |snapshot| snapshot.sequence);
        let is_good = if is_new { signed.expect_in_use() } else { signed.expect_good_at(sequence) };
        is_good.map_err(untrusted)?;
        let snapshot = parsed?;
        let (epoch, known) = (snapshot.epoch, keys.epoch());
        if is_new && epoch != known {
            return Err(SnapshotError::OtherEpoch { commit, epoch, known });
        }
        if snapshot.datacenter != *datacenter {
            let (found, wanted) = (snapshot.datacenter, datacenter.clone());
            return Err(SnapshotError::OtherDatacenter { commit, found, wanted });
        }
        Ok(snapshot)
    }

    /// Reads a commit as a snapshot without looking at its signature: for a repository that only
    /// conf-master writes.
    pub fn read(repo: &Repository, commit: CommitId) -> Result<Self, SnapshotError> {
        let read = |cause| SnapshotError::Read { commit, cause };
        let object = repo.find_commit(commit.into()).map_err(read)?;
        let header = object.raw_header_bytes();
        let text = [header, b"\n", object.message_raw_bytes()].concat();
        parse(commit, &text)
    }

    /// Tells whether this snapshot may stand in the place of one that it does not descend from: a
    /// succession says that the other one is of an earlier epoch and of a change that was replaced.
    pub fn succeeds(&self, (epoch, sequence): (u32, Sequence), keys: &TrustedKeys) -> bool {
        self.sequence > sequence && keys.replaced_after((epoch, sequence), self.epoch).is_some()
    }

    /// The tree of the datacenter's own branch.
    pub fn datacenter_tree(&self, repo: &Repository) -> Result<ObjectId, SnapshotError> {
        self.subtree(repo, DATACENTER)
    }

    /// The tree of the class, at its tag.
    pub fn class_tree(&self, repo: &Repository) -> Result<ObjectId, SnapshotError> {
        self.subtree(repo, CLASS)
    }

    /// The tree of its sealed secrets, if it has any.
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

/// The header that holds a commit's signature; each further line of it begins with a space.
const SIGNATURE: &[u8] = b"gpgsig ";

/// Takes a signed commit apart: its signature, and the text that is signed, which is everything
/// else. `None` without a signature, and with more than one.
pub(crate) fn signed(bytes: &[u8]) -> Option<(String, Vec<u8>)> {
    let (mut signature, mut text) = (None, Vec::with_capacity(bytes.len()));
    let (mut rest, mut is_signature) = (bytes, false);
    while !rest.is_empty() && !rest.starts_with(b"\n") {
        let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
        let (line, after) = rest.split_at(end);
        rest = after;
        is_signature = line.starts_with(SIGNATURE) || is_signature && line.starts_with(b" ");
        match (line.strip_prefix(SIGNATURE), &mut signature) {
            (Some(_), Some(_)) => return None,
            (Some(first), none) => *none = Some(first.to_vec()),
            (None, Some(signature)) if is_signature => signature.extend_from_slice(&line[1..]),
            (None, _) => text.extend_from_slice(line),
        }
    }
    text.extend_from_slice(rest);
    let signature = String::from_utf8(signature?).ok()?;
    Some((signature.trim_end_matches('\n').to_owned(), text))
}

/// Puts a commit together as libgit2 does, which conf-master writes with: the signature is the last
/// header, and each further line of it begins with a space.
pub(crate) fn with_signature(text: &[u8], signature: &str) -> Option<Vec<u8>> {
    let end = text.windows(2).position(|two| two == b"\n\n")? + 1;
    let (headers, rest) = text.split_at(end);
    Some([headers, SIGNATURE, signature.replace('\n', "\n ").as_bytes(), b"\n", rest].concat())
}

pub(crate) const DATACENTER: &str = "datacenter";

pub(crate) const CLASS: &str = "datacenter-configuration";

pub(crate) const SECRETS: &str = "secrets";

/// Reads the text of a commit: headers, an empty line, and the message with its trailers.
pub(crate) fn parse(commit: CommitId, text: &[u8]) -> Result<Snapshot, SnapshotError> {
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
        epoch: match trailer("Conf-Epoch").map(str::parse::<u32>) {
            None => 1,
            Some(Ok(epoch)) if epoch > 1 => epoch,
            Some(_) => return Err(malformed("the trailer Conf-Epoch is bad")),
        },
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
