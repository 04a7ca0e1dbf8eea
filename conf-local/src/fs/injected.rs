//! Where tests let the next file operation of this thread fail. A real build has nothing here.

#[cfg(not(test))]
use std::io;

#[cfg(test)]
pub(crate) use armed::{Mode, point, removal, set};

#[cfg(test)]
mod armed {
    use std::{cell::Cell, io};

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Mode {
        /// The process is dead from here on: nothing happens any more.
        Dead,
        /// Nothing can be written any more, but entries can still be removed.
        Full,
    }

    thread_local! {
        static AT: Cell<Option<(u64, Mode)>> = const { Cell::new(None) };
        static DONE: Cell<u64> = const { Cell::new(0) };
    }

    /// Lets everything from the `step`-th step on fail; `None` ends that. Returns the number of
    /// steps since the last call.
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
#[expect(clippy::unnecessary_wraps, reason = "tests let it fail")]
pub(crate) fn point() -> io::Result<()> {
    Ok(())
}

#[cfg(not(test))]
pub(crate) use point as removal;
