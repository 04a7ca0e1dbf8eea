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

use super::{
    Error,
    follow::{Fault, Follow, Follower, Switch, let_go, wake},
    snapshot::Snapshot,
};
use crate::name::{ComponentSelector, ComponentVersion, Sequence};

/// A component's settings as a `T`: always the newest that fit.
///
/// A clone follows the same component, and counts the changes that it was told of on its own.
pub struct Typed<T> {
    cell: Arc<Cell<T>>,
    /// Keeps the following alive.
    follower: Arc<Follower>,
    /// The [`Loaded::change`] that this handle has told its owner of.
    told: u64,
}

impl<T: DeserializeOwned + Send + Sync + 'static> Typed<T> {
    pub(super) fn start(follower: Arc<Follower>, selector: ComponentSelector) -> Result<Self, Error> {
        let cell = follower.join(|snapshot| Cell::read(selector, snapshot))?;
        Ok(Typed { cell, follower, told: 0 })
    }
}

impl<T> Typed<T> {
    /// The value now: one atomic load, no lock, no allocation.
    ///
    /// It stays as it is while it is held; ask again for each piece of work.
    pub fn current(&self) -> Current<T> {
        Current(self.cell.loaded.load())
    }

    /// The snapshot in which the value was found last. It rises with every snapshot, also when the value stays, and not while
    /// there is a [`Typed::last_error`]. A handle that was made while the component was held back has an older value than this
    /// says, until that error is gone.
    pub fn sequence(&self) -> Sequence {
        self.cell.loaded.load().sequence
    }

    /// Waits until the settings are others than when this handle was made or last returned from here, and gives them.
    ///
    /// Changes that follow each other quickly may be told as one: the newest.
    ///
    /// - Errors: none; settings that do not fit are no change, see [`Typed::last_error`].
    /// - Cancel: dropping the future loses nothing; the next call returns at once.
    /// - Runs on any async runtime, or none: it needs no timer and no reactor.
    pub async fn changed(&mut self) -> Current<T> {
        loop {
            let listener = self.cell.changed.listen();
            if let Some(current) = self.untold() {
                return current;
            }
            listener.await;
        }
    }

    /// As [`Typed::changed`], on this thread, for `timeout` at most; none when the time is up.
    pub fn changed_blocking(&mut self, timeout: Duration) -> Option<Current<T>> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let listener = self.cell.changed.listen();
            if let Some(current) = self.untold() {
                return Some(current);
            }
            match deadline {
                Some(deadline) => listener.wait_deadline(deadline)?,
                None => listener.wait(),
            }
        }
    }

    /// Why the newest settings were not taken, while that is so; the value stays the last good one.
    ///
    /// [`Error::Shape`] when they are no `T`; [`Error::HeldBack`] when this host keeps older files of the component;
    /// [`Error::NotExported`] when it was removed; [`Error::Read`] when this process cannot read them (such as settings with
    /// secrets, which are for root and the agent's own user): that is tried again.
    pub fn last_error(&self) -> Option<Arc<Error>> {
        self.cell.error.load_full()
    }

    fn untold(&mut self) -> Option<Current<T>> {
        let current = self.current();
        (current.0.change != self.told).then(|| {
            self.told = current.0.change;
            current
        })
    }
}

impl<T> Clone for Typed<T> {
    fn clone(&self) -> Self {
        Typed { cell: Arc::clone(&self.cell), follower: Arc::clone(&self.follower), told: self.told }
    }
}

impl<T> fmt::Debug for Typed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the value: settings may hold what no log should.
        f.debug_struct("Typed")
            .field("component", &self.cell.selector)
            .field("sequence", &self.sequence())
            .finish_non_exhaustive()
    }
}

/// A value as it was when [`Typed::current`] was called; reads like a reference to it.
pub struct Current<T>(Guard<Arc<Loaded<T>>>);

impl<T> Current<T> {
    /// The snapshot in which the value was found last.
    pub fn sequence(&self) -> Sequence {
        self.0.sequence
    }

    /// Which version of the component it is.
    pub fn component(&self) -> &ComponentVersion {
        &self.0.component
    }

    /// The value, to be kept for long or given away.
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

/// What one `current()` sees, replaced as a whole.
struct Loaded<T> {
    value: Arc<T>,
    /// The settings that gave `value`: equal ones are no change, and are not parsed again.
    bytes: Arc<[u8]>,
    component: ComponentVersion,
    sequence: Sequence,
    /// How often the value changed since the cell was made.
    change: u64,
}

/// A component's value, shared by all clones of a handle and the following thread.
struct Cell<T> {
    selector: ComponentSelector,
    loaded: ArcSwap<Loaded<T>>,
    error: ArcSwapOption<Error>,
    changed: Event,
    /// The last [`Loaded::change`] given out; only the following thread raises it.
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

    /// What the cell is to hold in `snapshot`.
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
                let before = self.loaded.swap(Arc::new(next));
                self.error.store(None);
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
