//! Files that are replaced in one step.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

/// Makes a folder's entries durable: what was created, renamed or removed in it.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Replaces a file in one step: whoever reads it, after a power cut too, sees the old content or the new.
pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut name = std::ffi::OsString::from("tmp_");
    name.push(path.file_name().unwrap_or_default());
    let staged = folder.join(name);
    let mut file = File::create(&staged)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&staged, path)?;
    sync_folder(folder)
}
