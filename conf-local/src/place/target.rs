//! The way to a folder that is to be written into: never through a link, never through what others may change.

use std::{fmt, io, path::Path};

use crate::fs::{Entry, Folder, Owner};

/// Why a path is not written to, in words.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whose folders and files are taken for the host's own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trusted {
    me: u32,
    my_group: u32,
    owner: Option<u32>,
    group: Option<u32>,
}

impl Trusted {
    /// Root, the agent's user, and those that an entry names.
    pub(crate) fn new(owner: Option<u32>, group: Option<u32>) -> Self {
        let (me, my_group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Trusted { me, my_group, owner, group }
    }

    pub(crate) fn owns(&self, user: u32) -> bool {
        user == 0 || user == self.me || Some(user) == self.owner
    }

    fn holds(&self, group: u32) -> bool {
        group == 0 || group == self.my_group || Some(group) == self.group
    }

    /// True when nobody else can put something else in place of what is in the folder.
    pub(crate) fn alone_writes(&self, stat: &rustix::fs::Stat) -> bool {
        let sticky = stat.st_mode & 0o1000 != 0;
        let by_group = stat.st_mode & 0o020 != 0 && !self.holds(stat.st_gid);
        let by_all = stat.st_mode & 0o002 != 0;
        sticky || !(by_group || by_all)
    }
}

/// What is wrong with a folder in which others may replace things.
pub(crate) fn open_to_others(stat: &rustix::fs::Stat) -> String {
    format!("may be written by others (mode {:04o}); take that from them", stat.st_mode & 0o7777)
}

/// How a folder is made that is not there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Making {
    pub(crate) mode: u32,
    pub(crate) owner: Owner,
}

/// Opens the folder at `path`, which is absolute and plain. With `make`, it and what leads to it are made where needed;
/// without, `None` says that it is not there.
pub(crate) fn open(path: &Path, trusted: &Trusted, make: Option<Making>) -> Result<Option<Folder>, Refusal> {
    let mut here = Folder::existing(Path::new("/")).map_err(|error| Refusal(format!("/ cannot be opened: {error}")))?;
    let mut way = std::path::PathBuf::from("/");
    let parts: Vec<&str> = path.iter().skip(1).filter_map(|part| part.to_str()).collect();
    for (number, part) in parts.iter().enumerate() {
        way.push(part);
        let shown = way.display();
        let failed = |act: &str, error: io::Error| Refusal(format!("{shown} cannot be {act}: {error}"));
        let found = here.stat(part).map_err(|error| failed("looked at", error))?;
        let stat = if let Some(stat) = found {
            stat
        } else {
            let Some(making) = make else { return Ok(None) };
            let last = number + 1 == parts.len();
            let (mode, owner) = if last { (making.mode, making.owner) } else { (0o755, Owner::default()) };
            // It has its name when it is as it should be, so that a crash leaves none that keeps its readers out.
            let make = || -> io::Result<()> {
                let new = format!(".{part}.conf-local");
                here.remove_one(&new, true)?;
                here.make_owned(&new, mode, owner)?;
                here.rename(&new, &here, part)?;
                here.sync()
            };
            make().map_err(|error| failed("made", error))?;
            let made = here.stat(part).map_err(|error| failed("looked at", error))?;
            made.ok_or_else(|| Refusal(format!("{shown} was made and is not there")))?
        };
        match Entry::of(&stat) {
            Entry::Folder => {}
            Entry::Link => return Err(Refusal(format!("{shown} is a link; name the folder itself"))),
            Entry::File | Entry::Other => return Err(Refusal(format!("{shown} is not a folder"))),
        }
        if !trusted.owns(stat.st_uid) {
            let whose = stat.st_uid;
            return Err(Refusal(format!("{shown} belongs to user {whose}, who could put something else in its place")));
        }
        if !trusted.alone_writes(&stat) {
            return Err(Refusal(format!("{shown} {}", open_to_others(&stat))));
        }
        here = here.enter(part).map_err(|error| failed("opened", error))?;
    }
    Ok(Some(here))
}
