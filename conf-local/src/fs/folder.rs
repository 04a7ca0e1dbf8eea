//! A folder held open. Everything below it is reached from it and never through a link, so no path
//! that another user has replaced can lead a write out of it.

use std::{
    fs::File,
    io::{self, Read, Write},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use conf_core::daemon::make_folder;
use rustix::{
    fs::{
        self, AtFlags, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, SeekFrom, Stat, StatxFlags, Uid,
    },
    io::Errno,
};

use crate::fs::injected;

/// An open folder. Names are relative to it: `a/b` is fine; a way out or through a link is an
/// error.
#[derive(Debug)]
pub(crate) struct Folder(OwnedFd);

/// The kind of an entry of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    File,
    Folder,
    Link,
    Other,
}

impl Entry {
    /// The kind that a stat reports.
    pub(crate) fn of(stat: &Stat) -> Self {
        FileType::from_raw_mode(stat.st_mode).into()
    }
}

/// The owner that an entry gets; `None` leaves the one that the system gives.
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

/// 4 KiB for names while a folder is listed: some fifty of them at once.
const LISTED_BYTES: usize = 4 << 10;

/// Identifies a mount: major and minor device number, and the mount's own number.
pub(crate) type Mount = (u32, u32, u64);

impl Folder {
    /// Opens a folder that exists.
    pub(crate) fn existing(path: &Path) -> io::Result<Self> {
        Ok(Folder(fs::open(path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// Opens the root folder, only to go on from there.
    pub(crate) fn root() -> io::Result<Self> {
        Ok(Folder(fs::open("/", OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// Opens a folder in it only to go on from there: entries can be inspected, made and entered,
    /// but not listed, and the agent needs no permission to read it.
    pub(crate) fn pass(&self, name: &str) -> io::Result<Self> {
        Ok(Folder(self.open_beneath(name, OFlags::DIRECTORY | OFlags::PATH, Mode::empty())?))
    }

    /// Opens a folder by its path, and creates it first where needed, for every user to read. The
    /// path may lead through links.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        make_folder(path, 0o755)?;
        Folder::existing(path)
    }

    /// Opens a folder in it.
    pub(crate) fn enter(&self, name: &str) -> io::Result<Self> {
        Ok(Folder(self.open_beneath(name, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?))
    }

    /// Opens a folder in it, which is created where needed.
    pub(crate) fn enter_or_make(&self, name: &str) -> io::Result<Self> {
        match self.enter(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.make(name),
            other => other,
        }
    }

    /// Creates a folder that every user may read.
    pub(crate) fn make(&self, path: &str) -> io::Result<Self> {
        match path.rsplit_once('/') {
            // Creating a folder follows the links on its way, opening does not: so the way is
            // opened first.
            Some((way, name)) => self.enter(way)?.make_with(name, 0o755, 0o755, Owner::default()),
            None => self.make_with(path, 0o755, 0o755, Owner::default()),
        }
    }

    /// Creates a file with this content.
    pub(crate) fn write(&self, name: &str, bytes: &[u8], mode: u32) -> io::Result<OwnedFd> {
        self.write_owned(name, bytes, mode, Owner::default())
    }

    /// Creates a folder with these permission bits, whatever the umask is. Only the agent's user
    /// can enter it before it has its owner. `name` is plain.
    pub(crate) fn make_owned(&self, name: &str, mode: u32, owner: Owner) -> io::Result<Self> {
        self.make_with(name, 0o700, mode, owner)
    }

    /// Creates a folder with the permission bits `first`, less the umask, and then gives it `mode`
    /// and its owner.
    fn make_with(&self, name: &str, first: u32, mode: u32, owner: Owner) -> io::Result<Self> {
        injected::point()?;
        fs::mkdirat(self.parent_checked(name)?, name, Mode::from_raw_mode(first))?;
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

    /// Creates a file with this content. Only the agent's user can read it before it has its owner.
    pub(crate) fn write_owned(&self, name: &str, bytes: &[u8], mode: u32, owner: Owner) -> io::Result<OwnedFd> {
        injected::point()?;
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

    /// Returns the stat of an entry, or of a link itself; `None` if there is no entry. `name` is
    /// plain.
    pub(crate) fn stat(&self, name: &str) -> io::Result<Option<Stat>> {
        match fs::statat(self.parent_checked(name)?, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the permission bits of an entry, or of a link itself.
    pub(crate) fn mode(&self, path: &str) -> io::Result<u32> {
        Ok(self.stat_below(path)?.st_mode & 0o7777)
    }

    /// Returns the stat of an entry anywhere below it, or of a link itself.
    pub(crate) fn stat_below(&self, path: &str) -> io::Result<Stat> {
        let entry = self.open_beneath(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
        Ok(fs::fstat(&entry)?)
    }

    /// Returns its own stat.
    pub(crate) fn own_stat(&self) -> io::Result<Stat> {
        Ok(fs::fstat(&self.0)?)
    }

    /// Returns the mount of an entry, or of a link itself. Renaming works only within one mount.
    /// `name` is plain.
    pub(crate) fn mount(&self, name: &str) -> io::Result<Mount> {
        let found = fs::statx(self.parent_checked(name)?, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID)?;
        // Before Linux 5.8 every mount has the number 0, so that only another file system differs.
        Ok((found.stx_dev_major, found.stx_dev_minor, found.stx_mnt_id))
    }

    /// Removes a file or a link, or with `folder` an empty folder. A missing entry is no error.
    /// `name` is plain.
    pub(crate) fn remove_one(&self, name: &str, folder: bool) -> io::Result<()> {
        injected::removal()?;
        let flags = if folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match fs::unlinkat(self.parent_checked(name)?, name, flags) {
            Err(Errno::NOENT) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Reads a file of at most `most` bytes, and returns its permission bits too.
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

    /// Creates a symbolic link.
    pub(crate) fn link(&self, name: &str, target: &str) -> io::Result<()> {
        injected::point()?;
        Ok(fs::symlinkat(target, self.parent_checked(name)?, name)?)
    }

    /// Gives the symbolic link `name` of `other` one more name here, which costs half of a new
    /// link.
    pub(crate) fn share(&self, other: &Folder, name: &str) -> io::Result<()> {
        injected::point()?;
        Ok(fs::linkat(&other.0, name, &self.0, name, AtFlags::empty())?)
    }

    /// Reads the target of a symbolic link.
    pub(crate) fn read_link(&self, path: &str) -> io::Result<String> {
        let target = if let Ok(folder) = self.parent_checked(path) {
            fs::readlinkat(folder, path, Vec::new())?
        } else {
            let link = self.open_beneath(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
            fs::readlinkat(&link, "", Vec::new())?
        };
        target.into_string().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a link's target is not UTF-8"))
    }

    /// Moves an entry, and replaces an entry of the new name.
    pub(crate) fn rename(&self, name: &str, to: &Folder, new: &str) -> io::Result<()> {
        injected::point()?;
        Ok(fs::renameat(&self.0, name, &to.0, new)?)
    }

    /// Moves an entry to a name that is free.
    pub(crate) fn rename_to_free(&self, name: &str, to: &Folder, new: &str) -> io::Result<()> {
        injected::point()?;
        Ok(fs::renameat_with(&self.0, name, &to.0, new, RenameFlags::NOREPLACE)?)
    }

    /// Exchanges an entry with one of another folder in one step.
    pub(crate) fn exchange_with(&self, one: &str, folder: &Folder, other: &str) -> io::Result<()> {
        injected::point()?;
        Ok(fs::renameat_with(&self.0, one, &folder.0, other, RenameFlags::EXCHANGE)?)
    }

    /// Exchanges two entries in one step.
    pub(crate) fn exchange(&self, one: &str, other: &str) -> io::Result<()> {
        self.exchange_with(one, self, other)
    }

    /// Returns the kind of an entry; `None` if there is no entry. `name` is plain.
    pub(crate) fn entry(&self, name: &str) -> io::Result<Option<Entry>> {
        Ok(self.stat(name)?.as_ref().map(Entry::of))
    }

    /// Lists all entries, in no order. Bytes of a name that are not UTF-8 are replaced, so that the
    /// name matches none of the agent's own.
    pub(crate) fn entries(&self) -> io::Result<Vec<(String, Entry)>> {
        let mut entries = Vec::new();
        // An earlier listing has left the descriptor at its end.
        fs::seek(&self.0, SeekFrom::Start(0))?;
        let mut buffer = [MaybeUninit::uninit(); LISTED_BYTES];
        let mut listing = RawDir::new(&self.0, &mut buffer);
        while let Some(entry) = listing.next() {
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

    /// Lists everything below it by path, in no order. Every folder comes before its entries.
    pub(crate) fn walk(&self) -> io::Result<Vec<(String, Entry)>> {
        let mut found: Vec<_> = self.entries()?;
        let mut next = 0;
        while let Some((path, kind)) = found.get(next).cloned() {
            if kind == Entry::Folder {
                let inner = self.enter(&path)?.entries()?;
                found.extend(inner.into_iter().map(|(name, kind)| (format!("{path}/{name}"), kind)));
            }
            next += 1;
        }
        Ok(found)
    }

    /// Removes an entry, a folder with everything in it. A missing entry is no error. `name` is
    /// plain.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        self.entry(name)?.map_or(Ok(()), |kind| self.remove_of_kind(name, kind))
    }

    fn remove_of_kind(&self, name: &str, kind: Entry) -> io::Result<()> {
        if kind == Entry::Folder {
            let inner = self.enter(name)?;
            for (name, kind) in inner.entries()? {
                inner.remove_of_kind(&name, kind)?;
            }
        }
        self.remove_one(name, kind == Entry::Folder)
    }

    /// Makes the list of its entries durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        injected::point()?;
        Ok(fs::fsync(&self.0)?)
    }

    fn open_beneath(&self, name: &str, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(fs::openat2(&self.0, name, flags | OFlags::CLOEXEC, mode, resolve)?)
    }

    /// Returns the descriptor for a call that resolves paths by itself, which may only get plain
    /// names: they cannot lead out of the folder.
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

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Folder> for OwnedFd {
    fn from(folder: Folder) -> Self {
        folder.0
    }
}
