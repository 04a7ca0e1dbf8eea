//! Files and folders that survive a power cut.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

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
    let mut name = OsString::from("tmp_");
    name.push(path.file_name().unwrap_or_default());
    let staged = path.with_file_name(name);
    // A file that a crash left may have other permission bits.
    let _ = fs::remove_file(&staged);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&staged)?;
    file.write_all(content)?;
    if durability != Durability::None {
        file.sync_all()?;
    }
    fs::rename(&staged, path)?;
    if durability == Durability::Full { sync_folder(folder_of(path)) } else { Ok(()) }
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
