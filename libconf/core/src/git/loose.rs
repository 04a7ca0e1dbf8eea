//! Loose objects whose file ends too early. libgit2 reads such a file without end, so none may be
//! in a repository that a daemon opens, nor stay in one that it has open.

use std::{
    collections::HashMap,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use flate2::{Decompress, FlushDecompress, Status};
use git2::Oid;

/// The loose objects of a repository that were whole at the last look. There may be many: each
/// takes less than 50 bytes.
#[derive(Debug, Default)]
pub struct LooseObjects(HashMap<Oid, u64>);

impl LooseObjects {
    /// Takes the present ones for whole: [`lock`](crate::git::lock) has looked at them.
    pub fn locked(repo: &Path) -> io::Result<Self> {
        let files = loose(repo)?.into_iter();
        Ok(LooseObjects(files.filter_map(|(path, id)| Some((id, stamp(&path)?))).collect()))
    }

    /// Moves loose objects whose file ends too early to `<repo>/damaged/`, and returns their ids:
    /// no Git can read them, and without them they count as lost. Reads those that are not as they
    /// were at the last look. Blocks.
    pub fn set_cut_aside(&mut self, repo: &Path) -> io::Result<Vec<String>> {
        let (mut seen, mut cut) = (HashMap::new(), Vec::new());
        for (path, id) in loose(repo)? {
            let Some(now) = stamp(&path) else { continue };
            // One that cannot be read at all is not cut: its readers get an error.
            if self.0.get(&id) == Some(&now) || !fs::read(&path).is_ok_and(|bytes| is_cut(&bytes)) {
                seen.insert(id, now);
                continue;
            }
            let (id, aside) = (id.to_string(), repo.join("damaged"));
            let moved = fs::create_dir_all(&aside).and_then(|()| fs::rename(&path, aside.join(&id)));
            let now = if moved.is_ok() { aside.join(&id) } else { path.with_extension("damaged") };
            if moved.is_err() {
                // The disk that cut it short may be full still: a name beside it needs no room.
                fs::rename(&path, &now)?;
            }
            tracing::warn!(object = id, "a damaged object was moved to {}: its file was cut short", now.display());
            cut.push(id);
        }
        self.0 = seen;
        Ok(cut)
    }
}

/// Sums up what the system says of a file: inode, size, and the times of the last changes.
fn stamp(path: &Path) -> Option<u64> {
    let about = fs::symlink_metadata(path).ok()?;
    let mut sum = DefaultHasher::new();
    (about.ino(), about.len(), about.mtime(), about.mtime_nsec(), about.ctime(), about.ctime_nsec()).hash(&mut sum);
    Some(sum.finish())
}

/// Lists the files of loose objects, with the objects' ids.
fn loose(repo: &Path) -> io::Result<Vec<(PathBuf, Oid)>> {
    let mut found = Vec::new();
    let is_hex = |name: &str, length: usize| name.len() == length && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let listed = |folder: &Path| match fs::read_dir(folder) {
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed?.collect::<io::Result<Vec<_>>>(),
    };
    for folder in listed(&repo.join("objects"))? {
        let start = folder.file_name().to_string_lossy().into_owned();
        if !is_hex(&start, 2) {
            continue;
        }
        for entry in listed(&folder.path())? {
            let rest = entry.file_name().to_string_lossy().into_owned();
            if let Some(id) = Oid::from_str(&(start.clone() + &rest)).ok().filter(|_| is_hex(&rest, 38)) {
                found.push((entry.path(), id));
            }
        }
    }
    Ok(found)
}

/// Tells whether a compressed stream ends before its end. One that is damaged otherwise is not cut:
/// readers get an error.
fn is_cut(bytes: &[u8]) -> bool {
    let (mut stream, mut out) = (Decompress::new(true), vec![0; 64 << 10]);
    loop {
        let before = (stream.total_in(), stream.total_out());
        let rest = usize::try_from(before.0).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
        match stream.decompress(rest, &mut out, FlushDecompress::None) {
            Err(_) | Ok(Status::StreamEnd) => return false,
            Ok(Status::Ok | Status::BufError) if (stream.total_in(), stream.total_out()) == before => return true,
            Ok(Status::Ok | Status::BufError) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use git2::Repository;

    use super::*;

    #[test]
    fn what_was_cut_short_counts_as_lost_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path()).unwrap();
        let noise: Vec<u8> =
            (0..200_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let whole = [repo.blob(b"").unwrap(), repo.blob(b"small").unwrap(), repo.blob(&noise).unwrap()];
        let mut looked = LooseObjects::default();
        assert!(looked.set_cut_aside(folder.path()).unwrap().is_empty());
        assert!(!folder.path().join("damaged").exists());
        for id in whole {
            let id = id.to_string();
            let path = folder.path().join("objects").join(&id[..2]).join(&id[2..]);
            let bytes = fs::read(&path).unwrap();
            for length in [0, 1, 2, bytes.len() / 2, bytes.len() - 1] {
                // In place, as a disk does it.
                fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
                fs::File::options().write(true).open(&path).unwrap().set_len(length as u64).unwrap();
                assert_eq!(looked.set_cut_aside(folder.path()).unwrap(), std::slice::from_ref(&id));
                assert!(!path.exists(), "{length} bytes of {}", bytes.len());
                assert!(Repository::open_bare(folder.path()).unwrap().find_blob(id.parse().unwrap()).is_err());
                fs::write(&path, &bytes).unwrap();
                assert!(looked.set_cut_aside(folder.path()).unwrap().is_empty());
            }
            assert!(path.exists());
        }
        let kept = fs::read_dir(folder.path().join("damaged")).unwrap().count();
        assert_eq!(kept, 3);
        let mut locked = LooseObjects::locked(folder.path()).unwrap();
        assert!(locked.set_cut_aside(folder.path()).unwrap().is_empty());
    }
}
