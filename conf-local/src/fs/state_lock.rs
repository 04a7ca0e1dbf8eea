//! The lock of the state folder, which keeps a second agent out.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use conf_core::{
    daemon::make_folder,
    git::{self, LockError, RepositoryLock},
};
use parking_lot::Mutex;

/// The permission bits of the state folder: the processes of the host get through it to the export,
/// and find nothing else there.
const STATE_MODE: u32 = 0o711;

/// Makes the state folder where it is missing.
pub(crate) fn make_state_folder(path: &Path) -> io::Result<()> {
    make_folder(path, STATE_MODE)
}

/// The lock of the state folder. Clones are the same lock: all that write there ask it first.
#[derive(Clone, Debug)]
pub(crate) struct StateLock(Arc<Locked>);

#[derive(Debug)]
struct Locked {
    folder: PathBuf,
    lock: Mutex<RepositoryLock>,
}

impl StateLock {
    /// Locks the folder. Blocks.
    pub(crate) fn take(folder: &Path) -> Result<Self, LockError> {
        let lock = Mutex::new(git::lock_alone(folder)?);
        Ok(StateLock(Arc::new(Locked { folder: folder.to_owned(), lock })))
    }

    /// The locked folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// Locks the folder that is there now. Another agent that has locked it meanwhile keeps it.
    pub(crate) fn take_again(&self) -> Result<(), LockError> {
        let taken = git::lock_alone(&self.0.folder)?;
        *self.0.lock.lock() = taken;
        Ok(())
    }

    /// False when somebody has removed or replaced the folder or its lock file: then another agent
    /// may have locked it.
    pub(crate) fn is_held(&self) -> bool {
        self.0.lock.lock().is_of(&self.0.folder)
    }

    /// An error while it is not held.
    pub(crate) fn expect_held(&self) -> io::Result<()> {
        if self.is_held() {
            return Ok(());
        }
        let folder = self.0.folder.display();
        Err(io::Error::other(format!(
            "{folder} was removed or replaced, and another agent may have it; nothing is written"
        )))
    }
}
