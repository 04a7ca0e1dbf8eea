//! Loose objects whose file ends too early. libgit2 reads such a file without end, so none may be
//! in a repository that a daemon opens.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use flate2::{Decompress, FlushDecompress, Status};

/// Moves loose objects whose file ends too early to `<repo>/damaged/`: no Git can read them, and
/// without them they count as lost. Reads every loose object.
pub(crate) fn set_cut_aside(repo: &Path) -> io::Result<()> {
    for (path, id) in loose(repo)? {
        // One that cannot be read at all is not cut: its readers get an error.
        if fs::read(&path).is_ok_and(|bytes| is_cut(&bytes)) {
            let aside = repo.join("damaged");
            let moved = fs::create_dir_all(&aside).and_then(|()| fs::rename(&path, aside.join(&id)));
            let now = if moved.is_ok() { aside.join(&id) } else { path.with_extension("damaged") };
            if moved.is_err() {
                // The disk that cut it short may be full still: a name beside it needs no room.
                fs::rename(&path, &now)?;
            }
            tracing::warn!(object = id, "a damaged object was moved to {}: its file was cut short", now.display());
        }
    }
    Ok(())
}

/// Lists the files of loose objects, with the objects' ids.
fn loose(repo: &Path) -> io::Result<Vec<(PathBuf, String)>> {
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
            if is_hex(&rest, 38) {
                found.push((entry.path(), start.clone() + &rest));
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
        set_cut_aside(folder.path()).unwrap();
        assert!(!folder.path().join("damaged").exists());
        for id in whole {
            let id = id.to_string();
            let path = folder.path().join("objects").join(&id[..2]).join(&id[2..]);
            let bytes = fs::read(&path).unwrap();
            for length in [0, 1, 2, bytes.len() / 2, bytes.len() - 1] {
                fs::remove_file(&path).unwrap();
                fs::write(&path, &bytes[..length]).unwrap();
                set_cut_aside(folder.path()).unwrap();
                assert!(!path.exists(), "{length} bytes of {}", bytes.len());
                assert!(Repository::open_bare(folder.path()).unwrap().find_blob(id.parse().unwrap()).is_err());
                fs::write(&path, &bytes).unwrap();
            }
            set_cut_aside(folder.path()).unwrap();
            assert!(path.exists());
        }
        let kept = fs::read_dir(folder.path().join("damaged")).unwrap().count();
        assert_eq!(kept, 3);
    }
}
