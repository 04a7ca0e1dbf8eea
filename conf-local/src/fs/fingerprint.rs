//! What the system says of entries, in one number: noticing a change without reading anything.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use rustix::fs::Stat;

/// Grows by the stats of entries. Two are equal only if nobody has changed any of the entries in
/// between: their inodes, sizes, times, permission bits and owners are the same.
#[derive(Default)]
pub(crate) struct Fingerprint(DefaultHasher);

impl Fingerprint {
    /// Adds an entry; `None` if it is not there.
    pub(crate) fn add(&mut self, path: &str, stat: Option<&Stat>) {
        path.hash(&mut self.0);
        let told = stat.map(|stat| {
            let times = (stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec);
            (stat.st_dev, stat.st_ino, stat.st_size, times, stat.st_mode, stat.st_uid, stat.st_gid)
        });
        told.hash(&mut self.0);
    }

    pub(crate) fn number(&self) -> u64 {
        self.0.finish()
    }
}
