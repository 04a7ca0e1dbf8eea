//! Packs that a power cut has left torn. libgit2 and Git take a pack by the name of its index, and
//! fail only when they read in it.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
};

use sha1::{Digest as _, Sha1};

use crate::git::consolidate::packs;

/// The length of a checksum, in bytes.
const CHECKSUM: usize = 20;

/// Removes packs that end early, or not with the checksum that their index says: their objects
/// count as missing, and are fetched again. A pack that is damaged in another way stays, since most
/// of it can be read. Call it at the start, before anybody opens the repository.
pub fn remove_torn_packs(repo: &Path) -> io::Result<()> {
    for (pack, _) in packs(repo)? {
        let index = pack.with_extension("idx");
        // One that cannot be read at all is not torn: its readers get an error.
        if !index.exists() || is_whole(&pack, &index).unwrap_or(true) {
            continue;
        }
        tracing::warn!(pack = %pack.display(), "a pack was torn by a power cut; its objects are fetched again");
        // Git does not see a pack without an index.
        fs::remove_file(&index)?;
        fs::remove_file(&pack)?;
    }
    Ok(())
}

/// True if the index ends with the checksum of what is before it, and the pack with the one that
/// the index says.
fn is_whole(pack: &Path, index: &Path) -> io::Result<bool> {
    let (mut pack, index) = (File::open(pack)?, fs::read(index)?);
    let end_at = pack.metadata()?.len().checked_sub(CHECKSUM as u64);
    let (Some(_), Some(end_at)) = (checked(&index), end_at) else { return Ok(false) };
    let mut end = [0; CHECKSUM];
    pack.seek(SeekFrom::Start(end_at))?;
    pack.read_exact(&mut end)?;
    Ok(index[..index.len() - CHECKSUM].ends_with(&end))
}

/// Returns the checksum at the end, if it is right.
fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (content, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM)?)?;
    (Sha1::digest(content)[..] == *checksum).then_some(checksum)
}

#[cfg(test)]
mod tests {
    use git2::Repository;

    use super::*;

    #[test]
    fn a_torn_pack_counts_as_missing_and_a_whole_one_stays() {
        for (ending, zeros) in [("pack", false), ("pack", true), ("idx", false), ("idx", true)] {
            let folder = tempfile::tempdir().unwrap();
            let repo = Repository::init_bare(folder.path()).unwrap();
            let add = |text: &str| {
                let blob = repo.blob(text.as_bytes()).unwrap();
                let mut builder = repo.packbuilder().unwrap();
                builder.insert_object(blob, None).unwrap();
                builder.write(&folder.path().join("objects/pack"), 0).unwrap();
                fs::remove_dir_all(folder.path().join("objects").join(&blob.to_string()[..2])).unwrap();
                (blob, builder.name().unwrap().unwrap().to_owned())
            };
            let ((whole, _), (torn, name)) = (add("whole"), add("torn"));
            let has = |blob| Repository::open_bare(folder.path()).unwrap().find_blob(blob).is_ok();
            remove_torn_packs(folder.path()).unwrap();
            assert!(has(whole) && has(torn));
            // A power cut leaves a file empty, or as long as it was and full of zeros.
            let file = folder.path().join(format!("objects/pack/pack-{name}.{ending}"));
            let bytes = fs::read(&file).unwrap().len();
            fs::remove_file(&file).unwrap();
            fs::write(&file, vec![0; bytes * usize::from(zeros)]).unwrap();
            remove_torn_packs(folder.path()).unwrap();
            assert!(has(whole) && !has(torn), "{ending} {zeros}");
            assert_eq!(packs(folder.path()).unwrap().len(), 1, "{ending} {zeros}");
            // One that is damaged in the middle has other objects, which can be read.
            let (pack, _) = packs(folder.path()).unwrap().remove(0);
            let mut bytes = fs::read(&pack).unwrap();
            bytes[13] ^= 1;
            fs::remove_file(&pack).unwrap();
            fs::write(&pack, bytes).unwrap();
            remove_torn_packs(folder.path()).unwrap();
            assert_eq!(packs(folder.path()).unwrap().len(), 1, "{ending} {zeros}");
        }
    }
}
