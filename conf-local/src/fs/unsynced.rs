//! Files and folders that were written and are not durable yet.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::fs;

use crate::fs::{folder::Folder, injected};

/// Written files and folders that are not durable yet.
#[derive(Debug, Default)]
pub(crate) struct Unsynced {
    files: Vec<OwnedFd>,
    many: bool,
}

/// 128 files and folders: beyond that one `syncfs` is cheaper than syncing each, and fewer
/// descriptors are held open.
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

    /// Makes all of it durable. `place` is any folder on the same file system.
    pub(crate) fn flush(&mut self, place: &Folder) -> io::Result<()> {
        injected::point()?;
        if self.many {
            fs::syncfs(place)?;
        }
        for file in &self.files {
            fs::fsync(file.as_fd())?;
        }
        *self = Unsynced::default();
        Ok(())
    }
}
