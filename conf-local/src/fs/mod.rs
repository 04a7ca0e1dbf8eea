//! A folder held open: everything below it is reached from it and never through a link, so that no path that somebody
//! replaced can lead a write out of it.

mod lease;

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{self, AtFlags, Dir, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat, StatxFlags, Uid},
    io::Errno,
};

/// An open folder. Names are relative to it; `a/b` is fine, a way out or through a link is an error.
#[derive(Debug)]
pub(crate) struct Folder(OwnedFd);

/// What stands in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    File,
    Folder,
    Link,
    Other,
}

impl Entry {
    /// What a stat tells of.
    pub(crate) fn of(stat: &Stat) -> Self {
        FileType::from_raw_mode(stat.st_mode).into()
    }
}

/// Whose something is to be; `None` as the system has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) user: Option<u32>,
    pub(crate) group: Option<u32>,
}

impl Owner {
    fn ids(self) -> Option<(Option<Uid>, Option<Gid>)> {
        let ids = (self.user.map(Uid::from_raw), self.group.map(Gid::from_raw));
        (ids != (None, None)).then_some(ids)
    }
}

/// A file system where it is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    device: (u32, u32),
    number: u64,
}

impl Folder {
    /// Opens a folder that is there.
    pub(crate) fn existing(path: &Path) -> io::Result<Self> {
        Ok(Folder(fs::open(path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// Opens a folder by its path, and makes it first where needed. This path may lead through links.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        Folder::existing(path)
    }

    /// A folder in it.
    pub(crate) fn enter(&self, name: &str) -> io::Result<Self> {
        Ok(Folder(self.open_beneath(name, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?))
    }

    /// A folder in it, made where needed.
    pub(crate) fn enter_or_make(&self, name: &str) -> io::Result<Self> {
        match self.enter(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.make(name),
            other => other,
        }
    }

    /// A new folder in it.
    pub(crate) fn make(&self, name: &str) -> io::Result<Self> {
        fault::point()?;
        // Unlike opening, making a folder follows the links on its way: so the way is opened first.
        let inner =
            name.rsplit_once('/').map(|(way, last)| Ok::<_, io::Error>((self.enter(way)?, last))).transpose()?;
        let (parent, last) = inner.as_ref().map_or((self, name), |(parent, last)| (parent, *last));
        fs::mkdirat(parent.parent_checked(last)?, last, Mode::from_raw_mode(0o755))?;
        let made = parent.enter(last)?;
        // Whatever the umask is, readers of other users must get in.
        fs::fchmod(&made.0, Mode::from_raw_mode(0o755))?;
        Ok(made)
    }

    /// A new file in it, whole.
    pub(crate) fn write(&self, name: &str, bytes: &[u8], mode: u32) -> io::Result<OwnedFd> {
        fault::point()?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        let mut file = File::from(self.open_beneath(name, flags, Mode::from_raw_mode(0o600))?);
        file.write_all(bytes)?;
        fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        Ok(file.into())
    }

    /// A new folder in it, with these permission bits; nobody else gets in before it has its owner. `name` is plain.
    pub(crate) fn make_owned(&self, name: &str, mode: u32, owner: Owner) -> io::Result<Self> {
        fault::point()?;
        fs::mkdirat(self.parent_checked(name)?, name, Mode::from_raw_mode(0o700))?;
        let made = self.enter(name)?;
        made.own(mode, owner)?;
        Ok(made)
    }

    /// Gives this folder an owner and these permission bits.
    pub(crate) fn own(&self, mode: u32, owner: Owner) -> io::Result<()> {
        if let Some((user, group)) = owner.ids() {
            fs::fchown(&self.0, user, group)?;
        }
        Ok(fs::fchmod(&self.0, Mode::from_raw_mode(mode))?)
    }

    /// A new file in it, whole; nobody else may read it before it has its owner.
    pub(crate) fn write_owned(&self, name: &str, bytes: &[u8], mode: u32, owner: Owner) -> io::Result<OwnedFd> {
        fault::point()?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        let mut file = File::from(self.open_beneath(name, flags, Mode::from_raw_mode(0o600))?);
        file.write_all(bytes)?;
        if let Some((user, group)) = owner.ids() {
            fs::fchown(&file, user, group)?;
        }
        fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        Ok(file.into())
    }

    /// Gives a link in it an owner; `name` is plain.
    pub(crate) fn own_link(&self, name: &str, owner: Owner) -> io::Result<()> {
        let Some((user, group)) = owner.ids() else { return Ok(()) };
        Ok(fs::chownat(self.parent_checked(name)?, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// What the system says of an entry, links not followed; `None` when there is none. `name` is plain.
    pub(crate) fn stat(&self, name: &str) -> io::Result<Option<Stat>> {
        match fs::statat(self.parent_checked(name)?, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// In which mount an entry is, links not followed; what is in another one cannot be renamed to. `name` is plain.
    pub(crate) fn mount(&self, name: &str) -> io::Result<Mount> {
        let found = fs::statx(self.parent_checked(name)?, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID)?;
        // Before Linux 5.8 all have the number 0, and only another file system is found.
        Ok(Mount { device: (found.stx_dev_major, found.stx_dev_minor), number: found.stx_mnt_id })
    }

    /// Removes a file or a link, or with `folder` an empty folder; one that is not there is no error. `name` is plain.
    pub(crate) fn remove_one(&self, name: &str, folder: bool) -> io::Result<()> {
        fault::removal()?;
        let flags = if folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match fs::unlinkat(self.parent_checked(name)?, name, flags) {
            Err(Errno::NOENT) => Ok(()),
            other => Ok(other?),
        }
    }

    /// The content of a file in it, at most `most` bytes, and its permission bits.
    pub(crate) fn read(&self, name: &str, most: u64) -> io::Result<(Vec<u8>, u32)> {
        let file = File::from(self.open_beneath(name, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?);
        let stat = fs::fstat(&file)?;
        let mut bytes = Vec::new();
        file.take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{name} is larger than {most} bytes")));
        }
        Ok((bytes, stat.st_mode & 0o7777))
    }

    /// A new symbolic link in it.
    pub(crate) fn link(&self, name: &str, target: &str) -> io::Result<()> {
        fault::point()?;
        Ok(fs::symlinkat(target, self.parent_checked(name)?, name)?)
    }

    /// The symbolic link `name` of `other`, here too: one more name of the same link, which costs half of a new one.
    pub(crate) fn share(&self, other: &Folder, name: &str) -> io::Result<()> {
        fault::point()?;
        Ok(fs::linkat(&other.0, name, &self.0, name, AtFlags::empty())?)
    }

    /// Where a symbolic link leads.
    pub(crate) fn read_link(&self, name: &str) -> io::Result<String> {
        let target = fs::readlinkat(&self.0, name, Vec::new())?;
        target.into_string().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a link's target is not UTF-8"))
    }

    /// Moves an entry, over whatever is there.
    pub(crate) fn rename(&self, name: &str, to: &Folder, new: &str) -> io::Result<()> {
        fault::point()?;
        Ok(fs::renameat(&self.0, name, &to.0, new)?)
    }

    /// Lets two entries change places in one step.
    pub(crate) fn exchange(&self, one: &str, other: &str) -> io::Result<()> {
        fault::point()?;
        Ok(fs::renameat_with(&self.0, one, &self.0, other, RenameFlags::EXCHANGE)?)
    }

    /// What `name` is; `None` when there is no such entry.
    pub(crate) fn entry(&self, name: &str) -> io::Result<Option<Entry>> {
        match fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode).into())),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Everything in it, unordered. Names that are not UTF-8 are shown as such, and match nothing of ours.
    pub(crate) fn entries(&self) -> io::Result<Vec<(String, Entry)>> {
        let mut entries = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => self.entry(&name)?.unwrap_or(Entry::Other),
                known => known.into(),
            };
            entries.push((name, kind));
        }
        Ok(entries)
    }

    /// Removes an entry with all that is in it; one that is not there is no error.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        match self.entry(name)? {
            None => Ok(()),
            Some(Entry::Folder) => {
                let inner = self.enter(name)?;
                for (name, _) in inner.entries()? {
                    inner.remove(&name)?;
                }
                fault::removal()?;
                Ok(fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
            }
            Some(_) => {
                fault::removal()?;
                Ok(fs::unlinkat(&self.0, name, AtFlags::empty())?)
            }
        }
    }

    /// Makes durable which entries it has.
    pub(crate) fn sync(&self) -> io::Result<()> {
        fault::point()?;
        Ok(fs::fsync(&self.0)?)
    }

    fn open_beneath(&self, name: &str, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(fs::openat2(&self.0, name, flags | OFlags::CLOEXEC, mode, resolve)?)
    }

    /// For calls that resolve a path by themselves: only plain names, which cannot lead anywhere.
    fn parent_checked(&self, name: &str) -> io::Result<&OwnedFd> {
        if name.contains('/') || name == ".." {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name} is not a plain name")));
        }
        Ok(&self.0)
    }
}

impl From<FileType> for Entry {
    fn from(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => Entry::File,
            FileType::Directory => Entry::Folder,
            FileType::Symlink => Entry::Link,
            _ => Entry::Other,
        }
    }
}

/// What was written and is not durable yet.
#[derive(Debug, Default)]
pub(crate) struct Unsynced {
    files: Vec<OwnedFd>,
    many: bool,
}

/// Beyond so many files and folders one `syncfs` is cheaper than syncing each, and fewer are held open.
const SYNC_EACH: usize = 128;

impl Unsynced {
    /// Remembers a file or folder that was written.
    pub(crate) fn add(&mut self, file: impl Into<OwnedFd>) {
        if !self.many {
            self.files.push(file.into());
        }
        if self.files.len() > SYNC_EACH {
            self.many = true;
            self.files.clear();
        }
    }

    /// Makes all of it durable; `place` is anywhere on the same file system.
    pub(crate) fn flush(&mut self, place: &Folder) -> io::Result<()> {
        fault::point()?;
        if self.many {
            fs::syncfs(&place.0)?;
        }
        for file in &self.files {
            fs::fsync(file.as_fd())?;
        }
        *self = Unsynced::default();
        Ok(())
    }
}

impl From<Folder> for OwnedFd {
    fn from(folder: Folder) -> Self {
        folder.0
    }
}

/// Where tests let the next step of this thread fail; nothing in a real build.
#[cfg(test)]
pub(crate) mod fault {
    use std::{cell::Cell, io};

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Mode {
        /// The process is dead from here on: nothing is done any more.
        Dead,
        /// Nothing can be written any more, but still removed.
        Full,
    }

    thread_local! {
        static AT: Cell<Option<(u64, Mode)>> = const { Cell::new(None) };
        static DONE: Cell<u64> = const { Cell::new(0) };
    }

    /// Lets everything from the `step`-th step on fail; `None` ends it. Answers how many steps were done since.
    pub(crate) fn set(at: Option<(u64, Mode)>) -> u64 {
        AT.set(at);
        DONE.replace(0)
    }

    fn step(removal: bool) -> io::Result<()> {
        let done = DONE.get();
        DONE.set(done + 1);
        match AT.get() {
            Some((at, Mode::Dead)) if done >= at => Err(io::Error::other("the process is dead")),
            Some((at, Mode::Full)) if done >= at && !removal => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    pub(crate) fn point() -> io::Result<()> {
        step(false)
    }

    pub(crate) fn removal() -> io::Result<()> {
        step(true)
    }
}

#[cfg(not(test))]
mod fault {
    use std::io;

    #[expect(clippy::unnecessary_wraps, reason = "tests let it fail")]
    pub(crate) fn point() -> io::Result<()> {
        Ok(())
    }

    #[expect(clippy::unnecessary_wraps, reason = "tests let it fail")]
    pub(crate) fn removal() -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_out() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        let folder = Folder::open(inside.path()).unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.path().join("way-out")).unwrap();
        for name in ["way-out/sentinel", "../sentinel", "/tmp/sentinel-of-conf", "a/../../sentinel"] {
            assert!(folder.write(name, b"x", 0o444).is_err(), "{name}");
        }
        assert!(folder.enter("way-out").is_err());
        assert!(folder.make("way-out/sub").is_err());
        folder.remove("way-out").unwrap();
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
