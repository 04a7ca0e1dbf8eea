//! Who mounts a folder, in the mount namespaces of all processes that the agent may look at.

use std::{
    collections::BTreeSet,
    fs, io,
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
/// The system does not say who mounts a folder: a mount is found by the file system and the path in
/// it. Without the right to look at other processes only the agent's own namespace counts.
pub(crate) fn mount_of(path: &Path, folder: &Folder) -> io::Result<Option<String>> {
    let (major, minor, number): Mount = folder.mount(".")?;
    let own = lines(Path::new("/proc/self/mountinfo"))?;
    if let Some(line) = own.iter().find(|line| line.point.starts_with(path)) {
        return Ok(Some(format!("{} is a mount", line.point.display())));
    }
    // Before Linux 5.8 no mount has a number.
    let Some(holds) = own.iter().find(|line| line.number == number) else { return Ok(None) };
    let Ok(below) = path.strip_prefix(&holds.point) else { return Ok(None) };
    let inside = holds.root.join(below);
    let shows = |lines: &[MountLine]| {
        let mut here = lines.iter().filter(|line| line.device == (major, minor) && line.root.starts_with(&inside));
        here.next().map(|line| line.point.display().to_string())
    };
    if let Some(point) = shows(&own) {
        return Ok(Some(format!("it is mounted at {point}")));
    }
    let mut seen = BTreeSet::from([fs::read_link("/proc/self/ns/mnt")?]);
    for process in fs::read_dir("/proc")?.flatten() {
        let process = process.path();
        let Ok(namespace) = fs::read_link(process.join("ns/mnt")) else { continue };
        if !seen.insert(namespace) {
            continue;
        }
        // The process may have ended.
        if let Some(point) = lines(&process.join("mountinfo")).ok().and_then(|lines| shows(&lines)) {
            let process = process.file_name().unwrap_or_default().to_string_lossy();
            return Ok(Some(format!("process {process} has it mounted at {point}, as containers do")));
        }
    }
    Ok(None)
}

fn lines(file: &Path) -> io::Result<Vec<MountLine>> {
    Ok(fs::read_to_string(file)?.lines().filter_map(line).collect())
}

/// Reads `36 35 98:0 /mnt1 /mnt2 rw,noatime …`.
fn line(text: &str) -> Option<MountLine> {
    let mut words = text.split(' ');
    let number = words.next()?.parse().ok()?;
    let (major, minor) = words.nth(1)?.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let (root, point) = (unescaped(words.next()?), unescaped(words.next()?));
    Some(MountLine { number, device, root, point })
}

/// A path with blanks as they are: they stand as `\040` in `mountinfo`.
fn unescaped(text: &str) -> PathBuf {
    let path = text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\");
    PathBuf::from(path)
}
