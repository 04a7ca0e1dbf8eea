//! Git's lock of `packed-refs`: a file that is made exclusively, and that a killed Git leaves.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use tracing::warn;

use crate::store::lock::patiently;

/// A lock that is so old was left by a program that was killed: Git holds it for seconds.
const STALE: Duration = Duration::from_secs(600);

/// Which file a lock is, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(lock: &Path) -> Option<Self> {
        let found = fs::symlink_metadata(lock).ok()?;
        Some(Stamp { inode: found.ino(), modified: found.modified().ok() })
    }

    fn is_stale(self) -> bool {
        self.modified.and_then(|since| since.elapsed().ok()).is_some_and(|age| age > STALE)
    }
}

/// Makes the lock. One that another program holds is waited for once: `outlasted` remembers it, and
/// nothing waits for it again. One that a killed program left is removed.
pub(crate) fn take(lock: &Path, outlasted: &mut Option<Stamp>) -> io::Result<File> {
    let open = || OpenOptions::new().write(true).create_new(true).mode(0o664).open(lock);
    let is_held = |error: &io::Error| error.kind() == io::ErrorKind::AlreadyExists;
    let opened = match open() {
        Err(error) if is_held(&error) => {
            let found = Stamp::of(lock);
            if found.is_some_and(Stamp::is_stale) {
                warn!(lock = %lock.display(), "a program of Git was killed and left its lock, which is removed");
                fs::remove_file(lock)?;
                open()
            } else if found.is_some() && found == *outlasted {
                Err(error)
            } else {
                patiently(open, is_held)
            }
        }
        opened => opened,
    };
    *outlasted = if opened.as_ref().is_err_and(is_held) { Stamp::of(lock) } else { None };
    opened
}
