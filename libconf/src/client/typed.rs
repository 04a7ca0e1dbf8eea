//! The settings of one component, which follow the snapshots.

use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use event_listener::{Event, Listener};
use serde::de::DeserializeOwned;

use crate::client::{
    error::Error,
    follow::{Fault, Follow, Follower, Switch},
    release::{let_go, wake},
    snapshot::Snapshot,
};
use crate::name::{ComponentSelector, ComponentVersion, Sequence};

/// A component's settings as a `T`: always the newest ones that fit.
///
/// A clone follows the same component, and has its own record of the changes that it returned.
pub struct Typed<T> {
    cell: Arc<Cell<T>>,
    /// Keeps the following thread alive.
    follower: Arc<Follower>,
    /// The last [`Loaded::change`] that this handle returned.
    returned: u64,
}

impl<T: DeserializeOwned + Send + Sync + 'static> Typed<T> {
    pub(crate) fn start(follower: Arc<Follower>, selector: ComponentSelector) -> Result<Self, Error> {
        let cell = follower.join(|snapshot| Cell::read(selector, snapshot))?;
        Ok(Typed { cell, follower, returned: 0 })
    }
}

impl<T> Typed<T> {
    /// Returns the present value: one atomic load, no lock, no allocation.
    ///
    /// The result does not change while it is held. Call again for each piece of work.
    pub fn current(&self) -> Current<T> {
        Current(self.cell.loaded.load())
    }

    /// Returns the last snapshot that had this value. It rises with every snapshot, also when the
    /// value stays, but not while there is a [`Typed::last_error`]. If the handle was made while
    /// the component was held back, the value is older than this snapshot until that error is gone.
    pub fn sequence(&self) -> Sequence {
        self.cell.loaded.load().sequence
    }

    /// Waits until the settings differ from those when this handle was made or this last returned,
    /// and returns them.
    ///
    /// Changes that follow each other quickly may become one: the newest.
    ///
    /// - Errors: none. Settings that do not fit are no change, see [`Typed::last_error`].
    /// - Cancel: dropping the future loses nothing; the next call returns at once.
    /// - Runs on any async runtime, or none: it needs no timer and no reactor.
    pub async fn changed(&mut self) -> Current<T> {
        loop {
            let listener = self.cell.changed.listen();
            if let Some(current) = self.unreturned() {
                return current;
            }
            listener.await;
        }
    }

    /// As [`Typed::changed`], on this thread, for `timeout` at most; `None` when the time is up.
    pub fn changed_blocking(&mut self, timeout: Duration) -> Option<Current<T>> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let listener = self.cell.changed.listen();
            if let Some(current) = self.unreturned() {
                return Some(current);
            }
            match deadline {
                Some(deadline) => listener.wait_deadline(deadline)?,
                None => listener.wait(),
            }
        }
    }

    /// Returns the reason for not having taken the newest settings, if so. The value is then the
    /// last good one.
    ///
    /// [`Error::Shape`] when they are no `T`; [`Error::HeldBack`] when this host keeps older files
    /// of the component; [`Error::NotExported`] when it was removed; [`Error::Read`] when this
    /// process cannot read them, which it tries again (only root and the agent's own user can read
    /// settings with secrets).
    pub fn last_error(&self) -> Option<Arc<Error>> {
        self.cell.error.load_full()
    }

    fn unreturned(&mut self) -> Option<Current<T>> {
        let current = self.current();
        (current.0.change != self.returned).then(|| {
            self.returned = current.0.change;
            current
        })
    }
}

impl<T> Clone for Typed<T> {
    fn clone(&self) -> Self {
        Typed { cell: Arc::clone(&self.cell), follower: Arc::clone(&self.follower), returned: self.returned }
    }
}

impl<T> fmt::Debug for Typed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the value: settings may hold secrets.
        f.debug_struct("Typed")
            .field("component", &self.cell.selector)
            .field("sequence", &self.sequence())
            .finish_non_exhaustive()
    }
}

/// The value at the time of [`Typed::current`]; reads like a reference to it.
pub struct Current<T>(Guard<Arc<Loaded<T>>>);

impl<T> Current<T> {
    /// Returns the last snapshot that had this value.
    pub fn sequence(&self) -> Sequence {
        self.0.sequence
    }

    /// Returns the component with its version.
    pub fn component(&self) -> &ComponentVersion {
        &self.0.component
    }

    /// Returns the value, to keep for long or to give away.
    pub fn to_arc(&self) -> Arc<T> {
        Arc::clone(&self.0.value)
    }
}

impl<T> Deref for Current<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Current<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// The value of a cell, replaced as a whole.
struct Loaded<T> {
    value: Arc<T>,
    /// The text of `value`. An equal text is no change, and is not parsed again.
    bytes: Arc<[u8]>,
    component: ComponentVersion,
    sequence: Sequence,
    /// The number of changes since the cell was made.
    change: u64,
}

/// A component's value, shared by all clones of a handle and the following thread.
struct Cell<T> {
    selector: ComponentSelector,
    loaded: ArcSwap<Loaded<T>>,
    error: ArcSwapOption<Error>,
    changed: Event,
    /// The last [`Loaded::change`] that was used. Only the following thread raises it.
    changes: AtomicU64,
}

impl<T: DeserializeOwned> Cell<T> {
    fn read(selector: ComponentSelector, snapshot: &Snapshot) -> Result<Self, Error> {
        let (component, held_back) = snapshot.find(&selector, None)?;
        let bytes = snapshot.settings(&component)?;
        let value = Arc::new(snapshot.parse(&component, &bytes)?);
        let loaded = Loaded { value, bytes: bytes.into(), component, sequence: snapshot.sequence, change: 0 };
        Ok(Cell {
            selector,
            loaded: ArcSwap::from_pointee(loaded),
            error: ArcSwapOption::new(held_back.map(Arc::new)),
            changed: Event::new(),
            changes: AtomicU64::new(0),
        })
    }

    /// Reads the value for `snapshot`.
    fn next(&self, snapshot: &Snapshot) -> Result<Loaded<T>, Error> {
        let now = self.loaded.load();
        let component = match snapshot.find(&self.selector, Some(&now.component))? {
            (_, Some(held_back)) => return Err(held_back),
            (component, None) => component,
        };
        let bytes = snapshot.settings(&component)?;
        let (value, bytes, change) = if *bytes == *now.bytes {
            (Arc::clone(&now.value), Arc::clone(&now.bytes), now.change)
        } else {
            let value = snapshot.parse(&component, &bytes)?;
            (Arc::new(value), bytes.into(), self.changes.fetch_add(1, Ordering::Relaxed) + 1)
        };
        Ok(Loaded { value, bytes, component, sequence: snapshot.sequence, change })
    }
}

impl<T: DeserializeOwned + Send + Sync> Follow for Cell<T> {
    fn prepare<'a>(&'a self, snapshot: &Arc<Snapshot>) -> Switch<'a> {
        match self.next(snapshot) {
            Err(refused) => Box::new(move || {
                self.error.store(Some(Arc::new(refused)));
                Box::new(|| ())
            }),
            Ok(next) => Box::new(move || {
                let change = next.change;
                // First: who sees the new value must not see why the former one stayed.
                self.error.store(None);
                let before = self.loaded.swap(Arc::new(next));
                Box::new(move || {
                    if before.change != change {
                        wake(&self.changed);
                    }
                    let_go(before);
                })
            }),
        }
    }

    fn fault(&self) -> Option<Fault> {
        Some(Fault { component: Some(self.selector.clone()), error: self.error.load_full()? })
    }
}
