//! A small pack that arrives, completed in memory: each object whole, with an index.
//!
//! libgit2's indexer does the same for packs of any size, through a folder of its own, four names
//! and some 120 system calls. A step has a few KiB. Whatever is unusual here is left to the
//! indexer, which finds the words for what is wrong. Source: gitformat-pack(5).

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, Permissions},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use flate2::{Compression, Decompress, FlushDecompress, Status};
use git2::{ObjectType, Odb, Oid};
use sha1::{Digest as _, Sha1};
use tempfile::NamedTempFile;

use crate::git::{
    delta,
    pack::{IndexedPack, PackBytes},
};

/// 64 KiB: a longer pack is not read here.
pub(crate) const MOST_BYTES: usize = 64 << 10;
/// The most objects, with which the search for bases stays short.
const MOST_OBJECTS: usize = 512;
/// 4 MiB: the most that all objects have together, deltas and what they make included.
const MOST_INFLATED: usize = 4 << 20;
/// The length of a checksum and of an id, in bytes.
const CHECKSUM: usize = 20;

/// An object: what it is, and its content.
pub(crate) type Content = (ObjectType, Vec<u8>);

/// The objects of a small pack, each whole.
#[derive(Debug)]
pub(crate) struct SmallPack(BTreeMap<Oid, Content>);

/// An object as it stands in the pack.
struct Entry {
    offset: usize,
    form: Form,
    data: Vec<u8>,
}

/// How the data of an entry are to be read.
enum Form {
    Whole(ObjectType),
    /// A delta against the entry that begins there.
    AgainstOffset(usize),
    /// A delta against an object of the pack or of the repository.
    AgainstObject(Oid),
}

impl SmallPack {
    /// Reads a whole pack. `base` returns an object of the repository. `None` when the pack is too
    /// large, damaged, unusual, or thin against what is not there.
    pub(crate) fn read(pack: &[u8], base: impl Fn(Oid) -> Option<Content>) -> Option<SmallPack> {
        let (content, checksum) = pack.split_at_checked(pack.len().checked_sub(CHECKSUM)?)?;
        if pack.len() > MOST_BYTES || Sha1::digest(content)[..] != *checksum {
            return None;
        }
        let mut left = MOST_INFLATED;
        resolve(entries(content, &mut left)?, &mut left, base).map(SmallPack)
    }

    /// The objects, by id.
    pub(crate) fn objects(&self) -> &BTreeMap<Oid, Content> {
        &self.0
    }

    /// Puts pack and index into `objects/pack` of a repository, unless the same is there already.
    /// Returns what is to be made durable, both files and their folder, and the name if it is new.
    pub(crate) fn put(&self, objects: &Path) -> io::Result<(Vec<File>, Option<String>)> {
        let IndexedPack { pack, index, name } = self.indexed();
        let folder = objects.join("pack");
        let at = |ending: &str| folder.join(format!("pack-{name}.{ending}"));
        if at("idx").exists() {
            // It may have come a moment ago.
            let files = [at("pack"), at("idx"), folder].into_iter().map(File::open).collect::<io::Result<_>>();
            return Ok((files?, None));
        }
        let opened = match File::open(&folder) {
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&folder)?;
                File::open(&folder)?
            }
            opened => opened?,
        };
        let (pack, index) = (staged(objects, &pack)?, staged(objects, &index)?);
        // Git does not see a pack without an index; an index without its pack is an error.
        let pack = pack.persist(at("pack")).map_err(|failed| failed.error)?;
        let index = index.persist(at("idx")).map_err(|failed| failed.error)?;
        Ok((vec![pack, index, opened], Some(name)))
    }

    fn indexed(&self) -> IndexedPack {
        let mut pack = PackBytes::new(self.0.len(), Compression::fast());
        for (kind, data) in self.0.values() {
            pack.whole(*kind, data);
        }
        pack.indexed(self.0.keys())
    }
}

/// Reads an object of a repository, unless it is too large for a base of a small pack.
pub(crate) fn content(odb: &Odb<'_>, id: Oid) -> Option<Content> {
    let (size, kind) = odb.read_header(id).ok()?;
    let object = (size <= MOST_INFLATED).then(|| odb.read(id))?.ok()?;
    Some((kind, object.data().to_owned()))
}

/// Writes a file beside the packs. The next start removes it, if this program is killed.
fn staged(objects: &Path, content: &[u8]) -> io::Result<NamedTempFile> {
    let read_only = Permissions::from_mode(0o444);
    let mut file = tempfile::Builder::new().prefix("tmp_pack_").permissions(read_only).tempfile_in(objects)?;
    file.write_all(content)?;
    Ok(file)
}

/// Reads the entries of a pack without its checksum. `left` is how many bytes they may have, and is
/// lowered by them.
fn entries(content: &[u8], left: &mut usize) -> Option<Vec<Entry>> {
    let (header, _) = content.split_at_checked(12)?;
    let count = usize::try_from(u32::from_be_bytes(header[8..].try_into().ok()?)).ok()?;
    if !header.starts_with(b"PACK\0\0\0\x02") || !(1..=MOST_OBJECTS).contains(&count) {
        return None;
    }
    let mut inflater = Decompress::new(true);
    let mut at = header.len();
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let offset = at;
        let (kind, size) = object_header(content, &mut at)?;
        *left = left.checked_sub(size)?;
        let form = match kind {
            1 => Form::Whole(ObjectType::Commit),
            2 => Form::Whole(ObjectType::Tree),
            3 => Form::Whole(ObjectType::Blob),
            4 => Form::Whole(ObjectType::Tag),
            6 => Form::AgainstOffset(offset.checked_sub(distance(content, &mut at)?)?),
            7 => {
                let id = content.get(at..at + CHECKSUM)?;
                at += CHECKSUM;
                Form::AgainstObject(Oid::from_bytes(id).ok()?)
            }
            _ => return None,
        };
        entries.push(Entry { offset, form, data: inflate(&mut inflater, content, &mut at, size)? });
    }
    (at == content.len()).then_some(entries)
}

/// Reads type and size of an object: three bits of type, then the size in groups of 4, 7, 7, …
/// bits.
fn object_header(content: &[u8], at: &mut usize) -> Option<(u8, usize)> {
    let first = next(content, at)?;
    let (mut size, mut shift, mut byte) = (usize::from(first & 15), 4, first);
    while byte & 0x80 != 0 {
        byte = next(content, at)?;
        // More than 2^32 is no small object.
        size |= usize::from(byte & 0x7f).checked_shl(shift).filter(|_| shift < 32)?;
        shift += 7;
    }
    Some((first >> 4 & 7, size))
}

/// Reads how far before this entry its base begins.
fn distance(content: &[u8], at: &mut usize) -> Option<usize> {
    let mut byte = next(content, at)?;
    let mut distance = usize::from(byte & 0x7f);
    while byte & 0x80 != 0 {
        byte = next(content, at)?;
        distance = (distance + 1).checked_mul(128)? | usize::from(byte & 0x7f);
        if distance > MOST_BYTES {
            return None;
        }
    }
    Some(distance)
}

fn next(content: &[u8], at: &mut usize) -> Option<u8> {
    let byte = content.get(*at)?;
    *at += 1;
    Some(*byte)
}

/// Inflates exactly `size` bytes.
fn inflate(inflater: &mut Decompress, content: &[u8], at: &mut usize, size: usize) -> Option<Vec<u8>> {
    inflater.reset(true);
    // One more, so that an end in the right place is seen.
    let mut data = Vec::with_capacity(size + 1);
    loop {
        let before = (inflater.total_in(), data.len());
        let read = usize::try_from(before.0).ok()?;
        let status = inflater.decompress_vec(content.get(*at + read..)?, &mut data, FlushDecompress::Finish).ok()?;
        if status == Status::StreamEnd {
            *at += usize::try_from(inflater.total_in()).ok()?;
            return (data.len() == size).then_some(data);
        }
        if data.len() > size || (inflater.total_in(), data.len()) == before {
            return None;
        }
    }
}

/// Makes every object whole. `base` is asked only for what the pack itself does not have.
fn resolve(
    entries: Vec<Entry>,
    left: &mut usize,
    base: impl Fn(Oid) -> Option<Content>,
) -> Option<BTreeMap<Oid, Content>> {
    let (mut objects, mut begins): (BTreeMap<Oid, Content>, HashMap<usize, Oid>) = Default::default();
    let (mut waiting, mut asks) = (entries, false);
    while !waiting.is_empty() {
        let before = waiting.len();
        let mut later = Vec::new();
        for entry in waiting {
            let outside;
            let base = match entry.form {
                Form::Whole(_) => None,
                Form::AgainstOffset(offset) => begins.get(&offset).and_then(|id| objects.get(id)),
                Form::AgainstObject(id) => match objects.get(&id) {
                    None if asks => {
                        outside = base(id);
                        outside.as_ref()
                    }
                    found => found,
                },
            };
            let content = match (&entry.form, base) {
                (Form::Whole(kind), _) => (*kind, entry.data),
                (_, Some((kind, base))) => (*kind, delta::apply(base, &entry.data, left)?),
                (_, None) => {
                    later.push(entry);
                    continue;
                }
            };
            let id = Oid::hash_object(content.0, &content.1).ok()?;
            begins.insert(entry.offset, id);
            objects.insert(id, content);
        }
        if later.len() == before && std::mem::replace(&mut asks, true) {
            return None;
        }
        waiting = later;
    }
    Some(objects)
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use git2::Repository;

    use super::*;

    /// Two repositories: the first has two commits, the second the first of them.
    struct Step {
        from: Repository,
        to: Repository,
        first: Oid,
        second: Oid,
        _folder: tempfile::TempDir,
    }

    fn step() -> Step {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from.git", "to.git"].map(|name| Repository::init_bare(folder.path().join(name)).unwrap());
        let commit = |text: &str, parent: Option<Oid>| {
            let who = git2::Signature::now("a", "a@b").unwrap();
            let mut root = from.treebuilder(None).unwrap();
            let lines: Vec<String> = (0..2000).map(|line| format!("line {line} {}\n", line * 7919 % 1000)).collect();
            let long = lines.concat();
            for (name, content) in [("long", format!("{long}{text}")), ("short", text.to_owned())] {
                root.insert(name, from.blob(content.as_bytes()).unwrap(), 0o100_644).unwrap();
            }
            (0..300).for_each(|number| {
                root.insert(format!("same{number}"), from.blob(b"same").unwrap(), 0o100_644).unwrap();
            });
            let tree = from.find_tree(root.write().unwrap()).unwrap();
            let parents: Vec<_> = parent.into_iter().map(|parent| from.find_commit(parent).unwrap()).collect();
            from.commit(None, &who, &who, text, &tree, &parents.iter().collect::<Vec<_>>()).unwrap()
        };
        let first = commit("one", None);
        let second = commit("two", Some(first));
        Step { from, to, first, second, _folder: folder }
    }

    impl Step {
        /// A pack that Git makes.
        fn pack(&self, options: &[&str], wanted: &str) -> Vec<u8> {
            let mut git = crate::git::command(self.from.path());
            git.args(["pack-objects", "--quiet", "--stdout", "--revs"]).args(options);
            let mut git = git.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            git.stdin.take().unwrap().write_all(wanted.as_bytes()).unwrap();
            git.wait_with_output().unwrap().stdout
        }

        fn thin(&self) -> Vec<u8> {
            let pack = self.pack(&["--thin"], &format!("{}\n^{}\n", self.second, self.first));
            assert!(pack.len() < 2000, "it is thin: {} bytes", pack.len());
            pack
        }

        fn base(&self, id: Oid) -> Option<Content> {
            content(&self.from.odb().unwrap(), id)
        }
    }

    fn with_its_checksum(content: &[u8]) -> Vec<u8> {
        [content, &Sha1::digest(content)].concat()
    }

    #[test]
    fn what_git_packs_is_complete_and_git_reads_it() {
        let step = step();
        let objects = step.to.path().join("objects");
        let all = step.pack(&["--delta-base-offset"], &format!("{}\n", step.first));
        for (pack, least) in [(all, 4), (step.thin(), 3)] {
            let read = SmallPack::read(&pack, |id| step.base(id)).unwrap();
            assert!(read.objects().len() >= least, "{}", read.objects().len());
            for (id, (kind, data)) in read.objects() {
                let object = step.base(*id).unwrap();
                assert_eq!((*kind, data), (object.0, &object.1));
            }
            for is_new in [true, false] {
                let (files, new) = read.put(&objects).unwrap();
                assert_eq!((files.len(), new.is_some()), (3, is_new));
            }
        }
        step.to.reference("refs/heads/main", step.second, true, "").unwrap();
        let mut packs = 0;
        for entry in fs::read_dir(objects.join("pack")).unwrap().flatten() {
            let path = entry.path();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o444);
            if path.extension().is_some_and(|ending| ending == "idx") {
                let checked = crate::git::command(step.to.path()).arg("verify-pack").arg(&path).output().unwrap();
                assert!(checked.status.success(), "{checked:?}");
                packs += 1;
            }
        }
        assert_eq!(packs, 2);
        let checked = crate::git::command(step.to.path()).args(["fsck", "--full", "--strict"]).output().unwrap();
        assert!(checked.status.success(), "{checked:?}");
        let left = fs::read_dir(&objects).unwrap().flatten();
        assert!(left.into_iter().all(|entry| !entry.file_name().to_string_lossy().starts_with("tmp_")));
    }

    #[test]
    fn no_damage_gives_an_object() {
        let step = step();
        let pack = step.thin();
        let good = SmallPack::read(&pack, |id| step.base(id)).unwrap();
        assert!(SmallPack::read(&pack, |_| None).is_none(), "a base is not there");
        for end in 0..pack.len() {
            assert!(SmallPack::read(&pack[..end], |id| step.base(id)).is_none(), "cut at {end}");
        }
        let (content, _) = pack.split_at(pack.len() - CHECKSUM);
        for place in 0..content.len() {
            for bit in 0..8 {
                let mut bad = pack.clone();
                bad[place] ^= 1 << bit;
                assert!(SmallPack::read(&bad, |id| step.base(id)).is_none(), "bit {bit} of {place}");
                // One that makes the right checksum for it finds that no object is another one.
                let forged = with_its_checksum(&bad[..content.len()]);
                let Some(read) = SmallPack::read(&forged, |id| step.base(id)) else { continue };
                let same = read.objects().iter().filter(|(id, _)| good.objects().contains_key(*id));
                assert!(same.into_iter().all(|(id, content)| good.objects()[id] == *content));
            }
        }
    }

    #[test]
    fn bases_are_found_wherever_they_stand() {
        let delta_of = |old: &[u8], new: &[u8]| delta::delta(old, new);
        let texts = ["one text that is long enough", "one text that is long", "one text"].map(str::as_bytes);
        let ids = texts.map(|text| Oid::hash_object(ObjectType::Blob, text).unwrap());
        // A delta against what comes later, which is one against what the repository has.
        let mut pack = PackBytes::new(2, Compression::fast());
        pack.delta(ids[1], &delta_of(texts[1], texts[0]));
        pack.delta(ids[2], &delta_of(texts[2], texts[1]));
        let pack = pack.finish();
        let read =
            SmallPack::read(&pack, |id| (id == ids[2]).then(|| (ObjectType::Blob, texts[2].to_owned()))).unwrap();
        assert_eq!(read.objects().keys().copied().collect::<std::collections::BTreeSet<_>>(), [ids[0], ids[1]].into());
        // Two that are each other's base.
        let mut pack = PackBytes::new(2, Compression::fast());
        pack.delta(ids[1], &delta_of(texts[1], texts[0]));
        pack.delta(ids[0], &delta_of(texts[0], texts[1]));
        assert!(SmallPack::read(&pack.finish(), |_| None).is_none());
    }

    #[test]
    fn what_would_become_large_is_left_to_the_indexer() {
        let zeros = vec![0; MOST_INFLATED];
        let whole = |data: &[u8]| {
            let mut pack = PackBytes::new(1, Compression::best());
            pack.whole(ObjectType::Blob, data);
            pack.finish()
        };
        assert!(SmallPack::read(&whole(&zeros), |_| None).is_some());
        let more = [&zeros[..], &[0]].concat();
        assert!(whole(&more).len() < MOST_BYTES, "its bytes alone would not be too many");
        assert!(SmallPack::read(&whole(&more), |_| None).is_none());
        // Each of these deltas makes a MiB of one.
        let mut pack = PackBytes::new(5, Compression::best());
        let base = vec![7; 1 << 20];
        pack.whole(ObjectType::Blob, &base);
        let id = Oid::hash_object(ObjectType::Blob, &base).unwrap();
        for byte in 0..4 {
            pack.delta(id, &delta::delta(&base, &[&base[1..], &[byte]].concat()));
        }
        assert!(SmallPack::read(&pack.finish(), |_| None).is_none());
    }
}
