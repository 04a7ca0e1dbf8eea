//! Files and folders that were written and are not durable yet.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::fs;

use crate::fs::{file::read_proc, injected};

/// Written files and folders that are not durable yet.
#[derive(Debug, Default)]
pub(crate) struct Unsynced {
    files: Vec<OwnedFd>,
    /// A file of each file system that was left out of `files`, by the number of its device.
    left_out: BTreeMap<u64, OwnedFd>,
}

/// 128 files and folders: beyond that no more descriptors are held open, and only the whole file
/// system can be made durable.
const MOST_FILES: usize = 128;

/// 16 MiB that programs have written and no disk has yet. With more, `syncfs`, which waits for what
/// others wrote too, can take longer than making each file durable by itself.
const MUCH_UNWRITTEN: u64 = 16 << 20;

impl Unsynced {
    /// Remembers a file or folder that was written.
    pub(crate) fn add(&mut self, file: impl Into<OwnedFd>) {
        let file = file.into();
        if self.files.len() < MOST_FILES {
            self.files.push(file);
        } else if let Ok(stat) = fs::fstat(&file) {
            self.left_out.entry(stat.st_dev).or_insert(file);
        }
    }

    /// Makes all of it and then `last` durable, such as the folders that lead to it: in one wait
    /// for the disk, unless other programs write much.
    pub(crate) fn flush(&mut self, last: &[BorrowedFd<'_>]) -> io::Result<()> {
        injected::point()?;
        let result = if self.left_out.is_empty() && is_much_unwritten() {
            self.sync_each(last)
        } else {
            // It also fails for files of other programs; then only each file tells of itself.
            self.sync_whole(last)
                .or_else(|error| if self.left_out.is_empty() { self.sync_each(last) } else { Err(error) })
        };
        *self = Unsynced::default();
        result
    }

    /// Syncs every file system that holds any of it.
    fn sync_whole(&self, last: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut places = BTreeMap::new();
        let all = self.files.iter().chain(self.left_out.values()).map(AsFd::as_fd);
        for file in all.chain(last.iter().copied()) {
            places.entry(fs::fstat(file)?.st_dev).or_insert(file);
        }
        Ok(places.values().try_for_each(fs::syncfs)?)
    }

    /// Syncs the content first, then the folders that lead to it.
    fn sync_each(&self, last: &[BorrowedFd<'_>]) -> io::Result<()> {
        let all = self.files.iter().map(AsFd::as_fd).chain(last.iter().copied());
        for file in all {
            fs::fsync(file)?;
        }
        Ok(())
    }
}

/// True if programs of this machine have written much that no disk has yet.
fn is_much_unwritten() -> bool {
    if let Some(chosen) = injected::is_much_unwritten() {
        return chosen;
    }
    let Ok(text) = read_proc("/proc/meminfo") else { return true };
    let kib = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let unwritten = kib("Dirty").zip(kib("Writeback")).map(|(dirty, writing)| (dirty + writing) << 10);
    unwritten.is_none_or(|bytes| bytes > MUCH_UNWRITTEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Folder;

    #[test]
    fn however_much_was_written_few_descriptors_are_held() {
        let folder = tempfile::tempdir().unwrap();
        let root = Folder::existing(folder.path()).unwrap();
        for busy in [Some(false), Some(true), None] {
            injected::set_much_unwritten(busy);
            let mut unsynced = Unsynced::default();
            for count in [3, 2 * MOST_FILES] {
                (0..count).for_each(|_| unsynced.add(std::fs::File::open(folder.path()).unwrap()));
                assert!(unsynced.files.len() + unsynced.left_out.len() <= MOST_FILES + 1);
                unsynced.flush(&[root.as_fd()]).unwrap();
                assert!(unsynced.files.is_empty() && unsynced.left_out.is_empty());
            }
        }
    }
}
