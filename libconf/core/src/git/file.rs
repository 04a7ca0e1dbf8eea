//! Files and folders that survive a power cut.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::fs::OFlags;

/// What is in place of a file is not waited for, and a link not followed.
const FILES_ALONE: i32 = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).bits().cast_signed();

/// What a power cut may undo of a replaced file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Everything: the file may be empty afterwards.
    None,
    /// The replacement alone: the file holds the old content or the new.
    Content,
    /// Nothing.
    Full,
}

/// Makes a folder's entries durable: files that were created, renamed or removed in it.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Replaces a file in one step: a reader sees the old content or the new one, never a part. `mode`
/// are the permission bits of the new file, less the process's umask.
pub fn replace_file(path: &Path, content: &[u8], mode: u32, durability: Durability) -> io::Result<()> {
    replace(path, content, mode, durability).map(drop)
}

/// 512 bytes, a sector: a disk writes it whole or not at all.
pub const SECTOR: usize = 512;

/// Gives a file a new content of at most a [`SECTOR`]. One of this length is written over, in one
/// write, which takes a fifth of the time of a replacement; any other file is replaced. Nothing is
/// durable before the caller syncs the file. A power cut before that leaves the old content or the
/// new, or a new file empty.
pub fn overwrite_file(path: &Path, content: &[u8], mode: u32) -> io::Result<File> {
    debug_assert!(content.len() <= SECTOR, "{} bytes could be written in part", content.len());
    let existing = OpenOptions::new().write(true).custom_flags(FILES_ALONE).open(path);
    let same = existing.and_then(|file| Ok((file.metadata()?.len() == content.len() as u64, file)));
    match same {
        Ok((true, mut file)) => file.write_all(content).map(|()| file),
        // Whatever is wrong with the present file, a replacement needs nothing of it.
        _ => replace(path, content, mode, Durability::None),
    }
}

fn replace(path: &Path, content: &[u8], mode: u32, durability: Durability) -> io::Result<File> {
    let mut name = OsString::from("tmp_");
    name.push(path.file_name().unwrap_or_default());
    let staged = path.with_file_name(name);
    let create = || OpenOptions::new().write(true).create_new(true).mode(mode).open(&staged);
    let mut file = match create() {
        // A file that a crash left may have other permission bits.
        Err(left) if left.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(&staged)?;
            create()?
        }
        created => created?,
    };
    file.write_all(content)?;
    if durability != Durability::None {
        file.sync_all()?;
    }
    fs::rename(&staged, path)?;
    if durability == Durability::Full {
        sync_folder(folder_of(path))?;
    }
    Ok(file)
}

/// Creates a file of these permissions, durably; an existing file is an error.
pub(crate) fn create_file(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content)?;
    file.sync_all()?;
    sync_folder(folder_of(path))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_file_of_the_same_length_is_written_over_and_any_other_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("file"), folder.path().join("other"));
        let inode = || fs::metadata(&path).unwrap().ino();
        let write = |content: &str| {
            let written = overwrite_file(&path, content.as_bytes(), 0o600).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(written.metadata().unwrap().ino(), inode());
            inode()
        };
        let first = write("one");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(write("two"), first);
        assert_ne!(write("three"), first);
        // Nothing is written through a link.
        fs::write(&other, "other").unwrap();
        fs::remove_file(&path).unwrap();
        symlink(&other, &path).unwrap();
        write("after");
        assert_eq!(fs::read_to_string(&other).unwrap(), "other");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
    }

    #[test]
    fn what_a_crash_left_beside_a_file_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(folder.path().join("tmp_file"), "left").unwrap();
        replace_file(&path, b"new", 0o600, Durability::Full).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
