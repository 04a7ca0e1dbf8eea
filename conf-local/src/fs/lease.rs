//! Who reads in a folder, and when it was last asked for: what decides how long it stays.
//!
//! A reader opens the folder and takes its lock (flock) with others; whoever removes it takes the lock alone first. The lock
//! ends with the reader, however that ends. Anybody may take it, alone too: then the folder stays, and nothing else comes of it.
//! The time of the last question is the folder's own time of change.

use std::{
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::{
    fs::{self, FlockOperation, Timespec, Timestamps},
    io::Errno,
};

use crate::fs::Folder;

impl Folder {
    /// Takes the folder for whoever removes it, until this value is dropped; false while somebody reads in it.
    pub(crate) fn lock_alone(&self) -> io::Result<bool> {
        match fs::flock(&self.0, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Sets its time of change, in whole seconds.
    pub(crate) fn stamp(&self, time: SystemTime) -> io::Result<()> {
        let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let time = Timespec { tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX), tv_nsec: 0 };
        Ok(fs::futimens(&self.0, &Timestamps { last_access: time, last_modification: time })?)
    }

    /// Its time of change, in whole seconds.
    pub(crate) fn stamped(&self) -> io::Result<SystemTime> {
        let stat = fs::fstat(&self.0)?;
        Ok(UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or_default()))
    }

    /// True while `other` is the same folder, not another one of its name.
    pub(crate) fn is_same(&self, other: &Folder) -> io::Result<bool> {
        let (one, other) = (fs::fstat(&self.0)?, fs::fstat(&other.0)?);
        Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
    }
}
