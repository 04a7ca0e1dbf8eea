//! Folders and files that a daemon makes.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
};

use rustix::fs::Mode;

/// Makes a folder with these permission bits where it is missing, whatever the umask is. Folders
/// that lead to it and are missing are made for every user to pass: others may use them too. Those
/// that are there stay as they are.
pub fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    path.parent().map_or(Ok(()), |above| make_folder(above, 0o755))?;
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(mode)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Decides who may use what this process and its children make, whatever umask it was started with:
/// its user alone may change it, and all others may read what is not made for its user alone. Where
/// its group may write into `folder`, the group may change it too.
///
/// For a program that has Git write for it. A program that runs commands of its host leaves them
/// the umask that they expect.
pub fn fix_umask(folder: Option<&Path>) {
    let about = folder.and_then(|folder| fs::metadata(folder).ok());
    let is_of_group = about.is_some_and(|about| about.permissions().mode() & 0o020 != 0);
    rustix::process::umask(Mode::from_raw_mode(if is_of_group { 0o002 } else { 0o022 }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_folder_itself_is_closed_to_others() {
        let above = tempfile::tempdir().unwrap();
        let bits = |path: &str| fs::metadata(above.path().join(path)).unwrap().permissions().mode() & 0o777;
        make_folder(&above.path().join("shared/own"), 0o700).unwrap();
        assert_eq!((bits("shared"), bits("shared/own")), (0o755, 0o700));
        fs::set_permissions(above.path().join("shared"), Permissions::from_mode(0o711)).unwrap();
        make_folder(&above.path().join("shared/other"), 0o700).unwrap();
        assert_eq!((bits("shared"), bits("shared/other")), (0o711, 0o700));
    }
}
