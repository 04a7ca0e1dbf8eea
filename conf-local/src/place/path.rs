//! The way to a folder that the agent writes into: never through a link, and never through a folder
//! in which another user may replace entries.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustix::fs::Stat;

use crate::fs::{Entry, Folder, Owner};

/// The users and groups whose folders and files the agent trusts: root, the agent's own, and those
/// of an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trusted {
    users: [Option<u32>; 3],
    groups: [Option<u32>; 3],
}

impl Trusted {
    pub(crate) fn new(owner: Owner) -> Self {
        let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Trusted { users: [Some(0), Some(user), owner.user], groups: [Some(0), Some(group), owner.group] }
    }

    pub(crate) fn owns(&self, user: u32) -> bool {
        self.users.contains(&Some(user))
    }

    /// Refuses a folder in which another user could replace entries.
    pub(crate) fn check(&self, folder: &Stat) -> Result<(), String> {
        if !self.owns(folder.st_uid) {
            return Err(format!("belongs to user {}, who could replace what is in it", folder.st_uid));
        }
        let sticky = folder.st_mode & 0o1000 != 0;
        let by_group = folder.st_mode & 0o020 != 0 && !self.groups.contains(&Some(folder.st_gid));
        let by_all = folder.st_mode & 0o002 != 0;
        if !sticky && (by_group || by_all) {
            let mode = folder.st_mode & 0o7777;
            return Err(format!("may be written by others (mode {mode:04o}); take that from them"));
        }
        Ok(())
    }
}

/// How to create a folder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewFolder {
    pub(crate) mode: u32,
    pub(crate) owner: Owner,
}

/// Opens the folder at `path`, which is absolute and plain. With `new`, creates it and the folders
/// that lead to it where needed; without, `None` means that it does not exist.
pub(crate) fn open(path: &Path, trusted: &Trusted, new: Option<NewFolder>) -> Result<Option<Folder>, String> {
    let root = if path.parent().is_none() { Folder::existing(path) } else { Folder::root() };
    let mut here = root.map_err(|error| format!("/ cannot be opened: {error}"))?;
    let mut way = PathBuf::from("/");
    for part in path.iter().skip(1).filter_map(|part| part.to_str()) {
        way.push(part);
        let shown = way.display();
        let failed = |act: &str, error: io::Error| format!("{shown} cannot be {act}: {error}");
        let stat = |here: &Folder| here.stat(part).map_err(|error| failed("inspected", error));
        let stat = if let Some(stat) = stat(&here)? {
            stat
        } else {
            let Some(new) = new else { return Ok(None) };
            let new = if way == path { new } else { NewFolder { mode: 0o755, owner: Owner::default() } };
            make(&here, part, new).map_err(|error| failed("made", error))?;
            stat(&here)?.ok_or_else(|| format!("{shown} was made and does not exist"))?
        };
        match Entry::of(&stat) {
            Entry::Folder => {}
            Entry::Link => return Err(format!("{shown} is a link; name the folder itself")),
            Entry::File | Entry::Other => return Err(format!("{shown} is not a folder")),
        }
        trusted.check(&stat).map_err(|why| format!("{shown} {why}"))?;
        // Only the last one is read: others on the way may let the agent through and no more.
        let next = if way == path { here.enter(part) } else { here.pass(part) };
        here = next.map_err(|error| failed("opened", error))?;
    }
    Ok(Some(here))
}

/// Creates a folder. It gets its name when it has its mode and owner, so that a crash leaves no
/// folder that keeps its readers out.
fn make(here: &Folder, name: &str, NewFolder { mode, owner }: NewFolder) -> io::Result<()> {
    let new = format!(".{name}.conf-local");
    here.remove_one(&new, true)?;
    here.make_owned(&new, mode, owner)?;
    here.rename(&new, here, name)?;
    here.enter(".")?.sync()
}
