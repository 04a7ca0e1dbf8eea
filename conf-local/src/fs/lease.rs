//! How long a folder stays: while a reader holds its lock, and for a while after a reader asked for
//! it.
//!
//! A reader opens the folder and takes its lock (flock) together with other readers. The agent
//! takes the lock exclusively before it removes the folder. The system releases the lock when the
//! reader ends, in whatever way. Any user may take the lock, exclusively too: then the folder
//! stays, which does no other harm. The folder's modification time holds the time of the last
//! question.

use std::{
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::{
    fs::{self, FlockOperation, Timespec, Timestamps},
    io::Errno,
};

use crate::fs::folder::Folder;

impl Folder {
    /// Takes the folder's lock exclusively, until this value is dropped. False while a reader holds
    /// it.
    pub(crate) fn lock_alone(&self) -> io::Result<bool> {
        match fs::flock(self, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Sets the modification time, in whole seconds.
    pub(crate) fn stamp(&self, time: SystemTime) -> io::Result<()> {
        let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let time = Timespec { tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX), tv_nsec: 0 };
        Ok(fs::futimens(self, &Timestamps { last_access: time, last_modification: time })?)
    }

    /// Returns the modification time, in whole seconds.
    pub(crate) fn stamped(&self) -> io::Result<SystemTime> {
        let stat = fs::fstat(self)?;
        Ok(UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or_default()))
    }

    /// True if `other` is the same folder, not a new one under the same name.
    pub(crate) fn is_same(&self, other: &Folder) -> io::Result<bool> {
        let (one, other) = (fs::fstat(self)?, fs::fstat(other)?);
        Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
    }
}
