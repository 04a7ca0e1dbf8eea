//! The answer to a step, made in this process: a thin pack of the objects that one commit's tree
//! has and its parent's has not.
//!
//! A program that has just written a snapshot knows which objects are new, so no `upload-pack` need
//! run to find out. Git itself could have given the same answer: protocol v2, `packfile` section,
//! objects deflated or as deltas against objects of the parent, which the client has. Source:
//! gitformat-pack(5), gitprotocol-v2(5).

use std::{collections::HashSet, io::Write as _};

use bytes::{Bytes, BytesMut};
use flate2::{Compression, write::ZlibEncoder};
use git2::{ObjectType, Odb, Oid, Repository};
use sha1::{Digest as _, Sha1};

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
        let mut pack = b"PACK\0\0\0\x02".to_vec();
        pack.extend_from_slice(&u32::try_from(self.objects.len()).unwrap_or(u32::MAX).to_be_bytes());
        for (id, base) in &self.objects {
            let object = self.odb.read(*id)?;
            let data = object.data();
            let delta = match base {
                Some(base) => Some((base, delta(self.odb.read(*base)?.data(), data))),
                None => None,
            };
            if let Some((base, delta)) = delta.filter(|(_, delta)| delta.len() < data.len()) {
                // 7: a delta against an object named by its id.
                push_header(&mut pack, 7, delta.len());
                pack.extend_from_slice(base.as_bytes());
                deflate(&mut pack, &delta);
            } else {
                let kind = match object.kind() {
                    ObjectType::Commit => 1,
                    ObjectType::Tree => 2,
                    ObjectType::Tag => 4,
                    _ => 3,
                };
                push_header(&mut pack, kind, data.len());
                deflate(&mut pack, data);
            }
        }
        let checksum = Sha1::digest(&pack);
        pack.extend_from_slice(&checksum);
        Ok(pack)
    }
}

/// Type and size of an object in a pack: three bits of type, then the size in groups of 4, 7, 7, …
/// bits.
fn push_header(pack: &mut Vec<u8>, kind: u8, size: usize) {
    let mut byte = kind << 4 | low_byte(size & 15);
    let mut rest = size >> 4;
    while rest > 0 {
        pack.push(byte | 0x80);
        byte = low_byte(rest & 0x7f);
        rest >>= 7;
    }
    pack.push(byte);
}

fn low_byte(number: usize) -> u8 {
    number.to_le_bytes()[0]
}

fn deflate(pack: &mut Vec<u8>, data: &[u8]) {
    let mut encoder = ZlibEncoder::new(pack, Compression::default());
    encoder.write_all(data).and_then(|()| encoder.finish().map(drop)).expect("writing to memory does not fail");
}

/// Makes the delta from `old` to `new`: it copies the equal bytes at both ends and inserts the
/// bytes between. Trees and settings mostly differ in one place, and for those no delta is smaller.
fn delta(old: &[u8], new: &[u8]) -> Vec<u8> {
    let prefix = old.iter().zip(new).take_while(|(one, other)| one == other).count();
    let (old_rest, new_rest) = (&old[prefix..], &new[prefix..]);
    let suffix = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(one, other)| one == other).count();
    let mut delta = Vec::new();
    push_size(&mut delta, old.len());
    push_size(&mut delta, new.len());
    push_copy(&mut delta, 0, prefix);
    for part in new_rest[..new_rest.len() - suffix].chunks(0x7f) {
        delta.push(low_byte(part.len()));
        delta.extend_from_slice(part);
    }
    push_copy(&mut delta, old.len() - suffix, suffix);
    delta
}

fn push_size(delta: &mut Vec<u8>, mut size: usize) {
    while size > 0x7f {
        delta.push(low_byte(size & 0x7f) | 0x80);
        size >>= 7;
    }
    delta.push(low_byte(size));
}

/// Copies at most 65,535 bytes at a time: a larger size has another form in old readers.
fn push_copy(delta: &mut Vec<u8>, mut offset: usize, mut length: usize) {
    while length > 0 {
        let part = length.min(0xffff);
        let at = delta.len();
        delta.push(0x80);
        let mut push = |bits: std::ops::Range<usize>, number: usize| {
            for (place, bit) in bits.enumerate() {
                let byte = low_byte(number >> (8 * place));
                if byte != 0 {
                    delta[at] |= 1 << bit;
                    delta.push(byte);
                }
            }
        };
        // Four bytes of offset reach far beyond the largest object here; two bytes of length hold
        // `part`.
        push(0..4, offset);
        push(4..6, part);
        offset += part;
        length -= part;
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
    answer.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::git::pktline::{Packet, PacketReader};

    /// Applies a delta as gitformat-pack(5) says.
    fn apply(old: &[u8], delta: &[u8]) -> Vec<u8> {
        let mut bytes = delta.iter().copied();
        let mut size = || {
            let (mut size, mut shift) = (0_usize, 0);
            loop {
                let byte = bytes.next().unwrap();
                size |= usize::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    return size;
                }
            }
        };
        let (old_size, new_size) = (size(), size());
        assert_eq!(old_size, old.len());
        let mut new = Vec::new();
        while let Some(order) = bytes.next() {
            if order & 0x80 == 0 {
                assert_ne!(order, 0);
                new.extend(bytes.by_ref().take(usize::from(order)));
                continue;
            }
            let mut number = |bits: std::ops::Range<u8>| {
                bits.clone().filter(|bit| order & 1 << bit != 0).fold(0_usize, |number, bit| {
                    number | usize::from(bytes.next().unwrap()) << (8 * (bit - bits.start))
                })
            };
            let (offset, length) = (number(0..4), number(4..7));
            new.extend_from_slice(&old[offset..offset + length]);
        }
        assert_eq!(new.len(), new_size);
        new
    }

    proptest! {
        #[test]
        fn a_delta_gives_the_new_bytes(
            head in prop::collection::vec(any::<u8>(), 0..300),
            tail in prop::collection::vec(any::<u8>(), 0..300),
            one in prop::collection::vec(any::<u8>(), 0..300),
            other in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let old = [&head[..], &one, &tail].concat();
            let new = [&head[..], &other, &tail].concat();
            prop_assert_eq!(apply(&old, &delta(&old, &new)), new);
        }
    }

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

    #[test]
    fn large_objects_are_copied_in_parts() {
        let old: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut new = old.clone();
        new[400_000] ^= 1;
        assert_eq!(apply(&old, &delta(&old, &new)), new);
        assert!(delta(&old, &new).len() < 200);
    }
}
