//! Who mounts a folder, in the mount namespaces of all processes that the agent may look at.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use crate::fs::folder::{Folder, Mount};

/// One line of `mountinfo`.
struct MountLine {
    number: u64,
    device: (u32, u32),
    /// The folder of the file system that is mounted.
    root: PathBuf,
    /// Where it is mounted.
    point: PathBuf,
}

/// Describes a mount of the folder at `path`, of something in it, or onto something in it. `folder`
/// is that folder, opened.
///
/// The system does not say who mounts a folder: a mount is found by the file system and the path
/// in it. Without the right to look at other processes only the agent's own namespace counts.
/// Mounts of another user namespace do not count: anybody may make one. Where nobody can tell,
/// that is said in place of a mount.
pub(crate) fn mount_of(path: &Path, folder: &Folder) -> io::Result<Option<String>> {
    let (major, minor, number): Mount = folder.mount(".")?;
    let own = lines(Path::new("/proc/self/mountinfo"))?;
    if let Some(line) = own.iter().find(|line| line.point.starts_with(path)) {
        return Ok(Some(format!("{} is a mount", line.point.display())));
    }
    // Before Linux 5.8 no mount has a number.
    let holds = own.iter().find(|line| line.number == number);
    let Some(inside) = holds.and_then(|holds| Some(holds.root.join(path.strip_prefix(&holds.point).ok()?))) else {
        return Ok(Some("the system does not tell who mounts it (Linux can from 5.8 on)".to_owned()));
    };
    let shows = |lines: &[MountLine]| {
        let mut here = lines.iter().filter(|line| line.device == (major, minor) && line.root.starts_with(&inside));
        here.next().map(|line| line.point.display().to_string())
    };
    if let Some(point) = shows(&own) {
        return Ok(Some(format!("it is mounted at {point}")));
    }
    let mut seen = BTreeSet::from([fs::read_link("/proc/self/ns/mnt")?]);
    let users = fs::read_link("/proc/self/ns/user")?;
    for process in fs::read_dir("/proc")? {
        let process = process?.path();
        let mut read = || -> io::Result<Vec<MountLine>> {
            let namespace = fs::read_link(process.join("ns/mnt"))?;
            if seen.contains(&namespace) || fs::read_link(process.join("ns/user"))? != users {
                return Ok(Vec::new());
            }
            let found = lines(&process.join("mountinfo"))?;
            seen.insert(namespace);
            Ok(found)
        };
        let found = match read() {
            Err(error) if is_gone_or_closed(&error) => continue,
            found => found?,
        };
        if let Some(point) = shows(&found) {
            let process = process.file_name().unwrap_or_default().to_string_lossy();
            return Ok(Some(format!("process {process} has it mounted at {point}, as containers do")));
        }
    }
    Ok(None)
}

/// True if a process has ended, is none, or may not be looked at. The kernel has no mounts of one
/// that is ending, and says that the argument is not valid.
fn is_gone_or_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, NotADirectory, NotFound, PermissionDenied};
    let is_gone = error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error());
    is_gone || matches!(error.kind(), NotFound | NotADirectory | PermissionDenied | InvalidInput)
}

fn lines(file: &Path) -> io::Result<Vec<MountLine>> {
    Ok(fs::read(file)?.split(|byte| *byte == b'\n').filter_map(line).collect())
}

/// Reads `36 35 98:0 /mnt1 /mnt2 rw,noatime …`.
fn line(text: &[u8]) -> Option<MountLine> {
    let mut words = text.split(|byte| *byte == b' ');
    let number = str::from_utf8(words.next()?).ok()?.parse().ok()?;
    let (major, minor) = str::from_utf8(words.nth(1)?).ok()?.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let (root, point) = (unescaped(words.next()?), unescaped(words.next()?));
    Some(MountLine { number, device, root, point })
}

/// A path with blanks as they are: they stand as `\040` in `mountinfo`.
fn unescaped(text: &[u8]) -> PathBuf {
    let (mut path, mut at) = (Vec::new(), 0);
    while let Some(byte) = text.get(at) {
        let octal = text.get(at + 1..at + 4).filter(|_| *byte == b'\\').and_then(|digits| str::from_utf8(digits).ok());
        if let Some(escaped) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            path.push(escaped);
            at += 4;
        } else {
            path.push(*byte);
            at += 1;
        }
    }
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_whatever_bytes_it_has() {
        let read = line(b"36 35 98:0 /a\\040b\\134 /mnt/\xff rw,noatime - ext4 /dev/root rw").unwrap();
        assert_eq!((read.number, read.device), (36, (98, 0)));
        assert_eq!(
            (read.root, read.point),
            (PathBuf::from("/a b\\"), PathBuf::from(OsString::from_vec(b"/mnt/\xff".into())))
        );
        for bad in [&b""[..], b"36 35 98:0 /a", b"x 35 98:0 /a /b rw"] {
            assert!(line(bad).is_none());
        }
    }
}
