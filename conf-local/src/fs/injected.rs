//! Where tests let the next file operation of this thread fail. A real build has nothing here.

#[cfg(not(test))]
use std::io;

#[cfg(test)]
pub(crate) use armed::{Mode, is_much_unwritten, point, removal, set, set_much_unwritten};

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
        static MUCH_UNWRITTEN: Cell<Option<bool>> = const { Cell::new(None) };
    }

    /// Chooses whether other programs of this machine have written much that no disk has yet.
    pub(crate) fn set_much_unwritten(much: Option<bool>) {
        MUCH_UNWRITTEN.set(much);
    }

    pub(crate) fn is_much_unwritten() -> Option<bool> {
        MUCH_UNWRITTEN.get()
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

#[cfg(not(test))]
pub(crate) fn is_much_unwritten() -> Option<bool> {
    None
}
