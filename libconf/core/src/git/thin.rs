//! The answer to a step, made in this process: a thin pack of the objects that one commit's tree
//! has and its parent's has not.
//!
//! A program that has just written a snapshot knows which objects are new, so no `upload-pack` need
//! run to find out. Git itself could have given the same answer: protocol v2, `packfile` section,
//! objects deflated or as deltas against objects of the parent, which the client has. Source:
//! gitformat-pack(5), gitprotocol-v2(5).

use std::collections::HashSet;

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use git2::{ObjectType, Odb, Oid, Repository};

use crate::git::{delta::delta, pack::PackBytes};
use libconf::name::CommitId;

/// The most bytes of new objects; more is left to `upload-pack`, which streams.
const MOST_BYTES: usize = 1 << 20;
/// The most bytes in one packet of the side band: 65,520 less its length and its band.
const BAND_BYTES: usize = 65_515;

/// Makes the answer to "want `want`, have its parent". `None` when there is no parent, or when more
/// is new than `MOST_BYTES`.
pub fn thin_answer(repo: &Repository, want: CommitId) -> Result<Option<Bytes>, git2::Error> {
    let commit = repo.find_commit(want.into())?;
    let Ok(parent) = commit.parent(0) else { return Ok(None) };
    let mut new = New { repo, odb: repo.odb()?, objects: Vec::new(), seen: HashSet::new(), bytes: 0 };
    new.add(commit.id(), None)?;
    new.tree(Some(parent.tree_id()), commit.tree_id())?;
    if new.bytes > MOST_BYTES {
        return Ok(None);
    }
    Ok(Some(framed(&new.pack()?)))
}

/// The new objects, each with the object that had its place before.
struct New<'r> {
    repo: &'r Repository,
    odb: Odb<'r>,
    objects: Vec<(Oid, Option<Oid>)>,
    seen: HashSet<Oid>,
    bytes: usize,
}

impl New<'_> {
    fn tree(&mut self, old: Option<Oid>, new: Oid) -> Result<(), git2::Error> {
        if old == Some(new) || self.bytes > MOST_BYTES || !self.add(new, old)? {
            return Ok(());
        }
        let tree = self.repo.find_tree(new)?;
        let before = old.map(|old| self.repo.find_tree(old)).transpose()?;
        for entry in &tree {
            let old = before.as_ref().and_then(|before| before.get_name_bytes(entry.name_bytes()));
            let old_of_kind = old.as_ref().filter(|old| old.kind() == entry.kind()).map(git2::TreeEntry::id);
            match entry.kind() {
                Some(ObjectType::Tree) => self.tree(old_of_kind, entry.id())?,
                _ if old.is_some_and(|old| old.id() == entry.id()) => {}
                _ => drop(self.add(entry.id(), old_of_kind)?),
            }
        }
        Ok(())
    }

    /// Adds an object; the answer is true when it was not there yet.
    fn add(&mut self, id: Oid, base: Option<Oid>) -> Result<bool, git2::Error> {
        let first = self.seen.insert(id);
        if first {
            self.bytes += self.odb.read_header(id)?.0;
            self.objects.push((id, base));
        }
        Ok(first)
    }

    fn pack(&self) -> Result<Vec<u8>, git2::Error> {
        let mut pack = PackBytes::new(self.objects.len(), Compression::default());
        for (id, base) in &self.objects {
            let object = self.odb.read(*id)?;
            let data = object.data();
            let delta = match base {
                Some(base) => Some((base, delta(self.odb.read(*base)?.data(), data))),
                None => None,
            };
            match delta.filter(|(_, delta)| delta.len() < data.len()) {
                Some((base, delta)) => pack.delta(*base, &delta),
                None => pack.whole(object.kind(), data),
            }
        }
        Ok(pack.finish())
    }
}

/// Frames a pack as the answer to a `fetch`.
fn framed(pack: &[u8]) -> Bytes {
    let mut answer = BytesMut::new();
    answer.extend_from_slice(b"000dpackfile\n");
    for part in pack.chunks(BAND_BYTES) {
        answer.extend_from_slice(format!("{:04x}\x01", part.len() + 5).as_bytes());
        answer.extend_from_slice(part);
    }
    answer.extend_from_slice(b"0000");
    // It is kept: without spare room.
    Bytes::copy_from_slice(&answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::pktline::{Packet, PacketReader};

    #[test]
    fn git_takes_the_answer_and_has_the_whole_step() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path().join("from.git")).unwrap();
        let who = git2::Signature::now("a", "a@b").unwrap();
        let commit = |files: &[(&str, &str)], parent: Option<Oid>| {
            let mut folder = repo.treebuilder(None).unwrap();
            for (name, content) in files {
                folder.insert(*name, repo.blob(content.as_bytes()).unwrap(), 0o100_644).unwrap();
            }
            let mut root = repo.treebuilder(None).unwrap();
            root.insert("folder", folder.write().unwrap(), 0o040_000).unwrap();
            let tree = repo.find_tree(root.write().unwrap()).unwrap();
            let parents: Vec<_> = parent.into_iter().map(|parent| repo.find_commit(parent).unwrap()).collect();
            repo.commit(None, &who, &who, "m", &tree, &parents.iter().collect::<Vec<_>>()).unwrap()
        };
        let long = "line\n".repeat(500);
        let first = commit(&[("a", "1"), ("long", &long), ("swap", "file")], None);
        let second = commit(&[("b", "2"), ("long", &format!("{long}more")), ("swap", "other")], Some(first));
        assert_eq!(thin_answer(&repo, first.into()).unwrap(), None, "a first fetch is Git's");

        let to = Repository::init_bare(folder.path().join("to.git")).unwrap();
        let mut start = repo.packbuilder().unwrap();
        start.insert_commit(first).unwrap();
        let mut pack = git2::Buf::new();
        start.write_buf(&mut pack).unwrap();
        let store = |pack: &[u8]| {
            let odb = to.odb().unwrap();
            let mut writer = odb.packwriter().unwrap();
            std::io::Write::write_all(&mut writer, pack).unwrap();
            writer.commit().unwrap();
        };
        store(&pack);
        let answer = thin_answer(&repo, second.into()).unwrap().unwrap();
        let mut reader = PacketReader::default();
        reader.feed(&answer);
        let mut packets = Vec::new();
        while let Some(Packet::Data(packet)) = reader.next().unwrap() {
            packets.push(packet);
        }
        assert_eq!(&packets[0][..], b"packfile\n");
        let thin: Vec<u8> = packets[1..].iter().flat_map(|packet| &packet[1..]).copied().collect();
        assert!(thin.len() < 700, "the long file goes as a delta: {} bytes", thin.len());
        store(&thin);
        crate::git::connectivity::complete(&to, Some(first.into()), second.into()).unwrap();
        assert_eq!(
            to.find_blob(
                repo.find_commit(second).unwrap().tree().unwrap().get_path("folder/long".as_ref()).unwrap().id()
            )
            .unwrap()
            .size(),
            long.len() + 4
        );
    }
}
