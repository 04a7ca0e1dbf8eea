//! The one thread that notices a new snapshot, reads it whole, and switches every handle to it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, SyncSender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};

use crate::client::{
    acknowledge::{self, Taken},
    agent::Agent,
    error::Error,
    known::{Known, central_of},
    lock::lock,
    release::let_go,
    resolve::Resolver,
    snapshot::Snapshot,
    watch::{ExportWatch, jittered},
};
use crate::name::{ComponentSelector, Sequence};

/// The time between two looks without an event: the system may drop events, and some file systems
/// send none.
const RECHECK: Duration = Duration::from_secs(30);

/// The same while the export directory cannot be watched, since it is missing or the system's
/// inotify limits are used up, or while something in its snapshot could not be read.
const RECHECK_WHEN_BLIND: Duration = Duration::from_secs(1);

/// Attempts to read a snapshot. The agent keeps a replaced one for a while, so reading rarely meets
/// a removed one.
const TRIES: usize = 8;

/// Shows a prepared snapshot, once the whole of it was read. Runs under a lock, so it runs no code
/// of the program.
pub(crate) type Switch<'a> = Box<dyn FnOnce() -> Notice<'a> + 'a>;

/// Wakes the waiting tasks and releases what was replaced, once all have switched.
pub(crate) type Notice<'a> = Box<dyn FnOnce() + 'a>;

/// A handle that follows the snapshots.
pub(crate) trait Follow: Send + Sync {
    /// Reads its part of `snapshot`, and returns the step that shows it.
    ///
    /// A part that cannot be read or does not fit holds up no other handle: this one keeps the last
    /// good value.
    fn prepare<'a>(&'a self, snapshot: &Arc<Snapshot>) -> Switch<'a>;

    /// Returns the present reason for not being on the newest snapshot. With [`Error::Read`] the
    /// next look calls [`Follow::prepare`] again.
    fn fault(&self) -> Option<Fault>;
}

/// The reason why a handle is not on the newest snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// The component, if it is about one alone.
    pub(crate) component: Option<ComponentSelector>,
    pub(crate) error: Arc<Error>,
}

/// The owner of the thread, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) shared: Arc<Shared>,
    wake: SyncSender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Reads the current snapshot and starts the thread.
    pub(crate) fn start(export_dir: &Path, agent: Agent) -> Result<Self, Error> {
        // A relative path would change its meaning with the program's working directory.
        let no_export = |source| Error::NoExport { dir: export_dir.to_owned(), source };
        let export_dir = std::path::absolute(export_dir).map_err(no_export)?;
        let (wake, woken) = mpsc::sync_channel(1);
        // Watches before it reads: a switch in between leaves an event waiting.
        let watch = ExportWatch::new(&export_dir, wake.clone());
        let snapshot = current(&export_dir)?;
        let (acknowledge, due) = mpsc::sync_channel(1);
        let shared = Arc::new(Shared {
            known: ArcSwap::from_pointee(Known { central: central_of(&export_dir, &snapshot), snapshot }),
            resolver: Resolver::new(export_dir.clone(), &agent),
            acknowledge,
            handles: Mutex::default(),
            error: ArcSwapOption::empty(),
            stop: AtomicBool::new(false),
            export_dir,
        });
        let thread = thread::Builder::new().name("libconf-follow".to_owned());
        let thread = thread
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.follow(watch, &woken)
            })
            .map_err(|source| Error::NoExport { dir: shared.export_dir.clone(), source })?;
        if let Some(socket) = agent.socket {
            let program = agent.program.unwrap_or_else(acknowledge::program);
            let following = Arc::downgrade(&shared);
            let taken = move || following.upgrade().and_then(|shared| shared.taken());
            acknowledge::start(due, socket, program, taken);
        }
        Ok(Follower { shared, wake, thread: Some(thread) })
    }

    /// Returns what is known now: one atomic load.
    pub(crate) fn known(&self) -> Guard<Arc<Known>> {
        self.shared.known.load()
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.known().snapshot)
    }

    /// Makes a handle from the current snapshot, which then sees every later one.
    pub(crate) fn join<F: Follow + 'static>(
        &self,
        read: impl FnOnce(&Arc<Snapshot>) -> Result<F, Error>,
    ) -> Result<Arc<F>, Error> {
        // Under the lock that a switch takes, so that none falls between reading and joining.
        let mut handles = lock(&self.shared.handles);
        let joined = Arc::new(read(&self.shared.known.load().snapshot)?);
        let handle: Arc<dyn Follow> = joined.clone();
        handles.retain(|handle| handle.strong_count() > 0);
        handles.push(Arc::downgrade(&handle));
        Ok(joined)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.resolver.stop();
        let _ = self.shared.acknowledge.try_send(());
        // A full channel wakes the thread as well.
        let _ = self.wake.try_send(());
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != thread::current().id()) {
            let _ = thread.join();
        }
    }
}

/// The state that the thread and the handles share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) export_dir: PathBuf,
    known: ArcSwap<Known>,
    /// Finds the snapshots of other changes.
    pub(crate) resolver: Arc<Resolver>,
    /// An item makes the thread of `acknowledge` send a message. A full channel has one waiting
    /// already.
    acknowledge: SyncSender<()>,
    handles: Mutex<Vec<Weak<dyn Follow>>>,
    /// The reason for not being on the newest snapshot.
    pub(crate) error: ArcSwapOption<Error>,
    stop: AtomicBool,
}

impl Shared {
    /// Returns the snapshot that this process runs on, with the faults that the agent does not know
    /// itself; `None` at the end.
    fn taken(&self) -> Option<Taken> {
        let handles: Vec<Arc<dyn Follow>> = lock(&self.handles).iter().filter_map(Weak::upgrade).collect();
        let faults = handles.iter().filter_map(|handle| handle.fault());
        let news = faults.filter(|fault| !matches!(*fault.error, Error::HeldBack { .. }));
        let faults = news.filter_map(|fault| Some((fault.component?, fault.error))).collect();
        let taken = Taken { sequence: self.known.load().snapshot.sequence, faults };
        (!self.stop.load(Ordering::Acquire)).then_some(taken)
    }

    fn follow(&self, mut watch: ExportWatch, woken: &Receiver<()>) {
        loop {
            watch.renew(&self.export_dir);
            // Code of the program that panics in here does not end this thread.
            let taken = catch_unwind(AssertUnwindSafe(|| {
                self.resolver.held.forget_unused();
                self.look()
            }));
            let taken = taken.unwrap_or(Err(Error::Panicked));
            let blind = !watch.sees() || !matches!(taken, Ok(Took::All));
            self.error.store(taken.err().map(Arc::new));
            // The channel cannot be closed: the owner of its other end ends this thread first.
            let _ = woken.recv_timeout(jittered(if blind { RECHECK_WHEN_BLIND } else { RECHECK }));
            if self.stop.load(Ordering::Acquire) {
                return;
            }
        }
    }

    /// Takes the snapshot that `current` names if it is newer than the known one, and the agent's
    /// word on it.
    fn look(&self) -> Result<Took, Error> {
        for _ in 1..TRIES {
            match self.look_once() {
                // It was replaced while it was read: the newer one is wanted.
                Err((seen, Error::Read { .. })) if seen != identity(&*current(&self.export_dir)?) => {}
                looked => return looked.map_err(|(_, error)| error),
            }
        }
        self.look_once().map_err(|(_, error)| error)
    }

    fn look_once(&self) -> Result<Took, (Identity, Error)> {
        let known = self.known.load_full();
        // Compares before it opens anything: most looks find nothing new, or only a higher central
        // sequence.
        let named = Snapshot::named(&self.export_dir).map_err(|error| (identity(&known.snapshot), error))?;
        let same = named.0 == known.snapshot.sequence
            && fs::metadata(&named.1).is_ok_and(|found| (found.dev(), found.ino()) == known.snapshot.identity);
        let snapshot = if same {
            Arc::clone(&known.snapshot)
        } else {
            current(&self.export_dir).map_err(|error| (identity(&known.snapshot), error))?
        };
        self.take(&known, &snapshot).map_err(|error| (identity(&snapshot), error))
    }

    fn take(&self, known: &Known, snapshot: &Arc<Snapshot>) -> Result<Took, Error> {
        if snapshot.sequence < known.snapshot.sequence {
            return Err(Error::WentBack { kept: known.snapshot.sequence, found: snapshot.sequence });
        }
        let mut central = central_of(&self.export_dir, snapshot);
        if snapshot.sequence == known.snapshot.sequence {
            central = central.max(known.central);
        }
        let same = Arc::ptr_eq(snapshot, &known.snapshot);
        if !same {
            self.resolver.held.replaced(known, snapshot);
        }
        let mut handles = lock(&self.handles);
        handles.retain(|handle| handle.strong_count() > 0);
        // Dropped after the lock, since the last owner of a handle drops values of the program.
        let following: Vec<Arc<dyn Follow>> = handles.iter().filter_map(Weak::upgrade).collect();
        // Of the known snapshot, only the unread parts are tried again.
        let asked = following.iter().map(|handle| &**handle).filter(|handle| !same || is_unread(*handle));
        let asked: Vec<&dyn Follow> = asked.collect();
        let switches: Vec<Switch<'_>> = asked.iter().map(|handle| handle.prepare(snapshot)).collect();
        if !snapshot.is_there() {
            drop(handles);
            let_go(switches);
            // It is no proof that a component is not in the snapshot.
            let source = io::Error::new(io::ErrorKind::NotFound, "the snapshot was removed while it was read");
            return Err(Error::Read { path: snapshot.dir.clone(), source });
        }
        // From here on nothing fails, and every handle is on the new snapshot within microseconds.
        let news = !same || central > known.central;
        if news {
            self.known.store(Arc::new(Known { snapshot: Arc::clone(snapshot), central }));
        }
        let notices: Vec<Notice<'_>> = switches.into_iter().map(|switch| switch()).collect();
        drop(handles);
        notices.into_iter().for_each(|notice| notice());
        let unread = asked.iter().filter(|handle| is_unread(**handle)).count();
        if news {
            self.resolver.heard();
        }
        if !same || unread < asked.len() {
            let _ = self.acknowledge.try_send(());
        }
        Ok(if unread == 0 { Took::All } else { Took::Part })
    }
}

/// How much of the snapshot the handles could read.
enum Took {
    All,
    /// The next look tries the rest again.
    Part,
}

fn is_unread(handle: &dyn Follow) -> bool {
    handle.fault().is_some_and(|fault| matches!(*fault.error, Error::Read { .. }))
}

fn current(export_dir: &Path) -> Result<Arc<Snapshot>, Error> {
    let mut tries = 1;
    loop {
        match Snapshot::current(export_dir) {
            // After the link was read, the agent may have switched and removed the folder.
            Err(Error::NoExport { source, .. }) if source.kind() == io::ErrorKind::NotFound && tries < TRIES => {
                tries += 1;
            }
            found => return found.map(Arc::new),
        }
    }
}

type Identity = (Sequence, (u64, u64));

fn identity(snapshot: &Snapshot) -> Identity {
    (snapshot.sequence, snapshot.identity)
}
