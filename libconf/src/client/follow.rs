//! The one thread that notices a new snapshot, reads it whole, and switches every handle to it.

use std::{
    collections::hash_map::RandomState,
    fmt,
    fs::{self, File},
    hash::{BuildHasher, Hasher},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, SyncSender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use event_listener::Event;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::{
    Error,
    acknowledge::{self, Acknowledge, Taken},
    agent::Agent,
    operation::resolve::Resolver,
    snapshot::Snapshot,
};
use crate::name::{ComponentSelector, Sequence};

/// A look without any event: the system may drop events, and an export on some file systems sends none.
const RECHECK: Duration = Duration::from_secs(30);

/// The same while the export directory cannot be watched (it is missing, or the system's inotify limits are used up),
/// or something in its snapshot could not be read.
const RECHECK_WHEN_BLIND: Duration = Duration::from_secs(1);

/// Snapshots are kept for a while after they were replaced, so a reading that meets one just removed is rare.
const TRIES: usize = 8;

/// Two numbers and their names.
const MOST_CENTRAL_BYTES: u64 = 4096;

/// What a reader does once the whole snapshot was read: under a lock, so it runs nothing of the program's own.
pub(super) type Switch<'a> = Box<dyn FnOnce() -> Tell<'a> + 'a>;

/// What it does when all have switched: wakes who waits for a change, and lets go of what was replaced.
pub(super) type Tell<'a> = Box<dyn FnOnce() + 'a>;

/// Wakes all who listen. Under no lock: their wakers are the program's own, and may poll at once, or panic.
pub(super) fn wake(event: &Event) {
    let _ = catch_unwind(AssertUnwindSafe(|| event.notify(usize::MAX)));
}

/// Drops what may hold values of the program's own. Under no lock: their ends may use the client, or panic, which the
/// program's hook has told then.
pub(super) fn let_go<T>(passed: T) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(passed)));
}

/// What is held, replaced as a whole.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// The newest snapshot of the export.
    pub(super) snapshot: Arc<Snapshot>,
    /// The highest change for which the agent said that `snapshot` is the datacenter's newest not above it.
    pub(super) central: Sequence,
}

/// One who follows the snapshots.
pub(super) trait Follow: Send + Sync {
    /// Reads what it needs from `snapshot`, and gives the step that shows it; nothing is shown before.
    ///
    /// What it cannot read or take is its own fault, and holds up no other: it keeps the last good value.
    fn prepare<'a>(&'a self, snapshot: &Arc<Snapshot>) -> Switch<'a>;

    /// What of the newest snapshot it could not take, while that is so. With [`Error::Read`] it is asked to
    /// [prepare](Follow::prepare) again at the next look.
    fn fault(&self) -> Option<Fault>;
}

/// What one who follows could not take.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    /// Of which component, where it is of one alone.
    pub(super) component: Option<ComponentSelector>,
    pub(super) error: Arc<Error>,
}

/// Owns the thread; ends it when dropped.
pub(super) struct Follower {
    shared: Arc<Shared>,
    wake: SyncSender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Reads the current snapshot and starts the thread.
    pub(super) fn start(export_dir: &Path, agent: Agent) -> Result<Self, Error> {
        // A relative path would change its meaning with the program's working directory.
        let no_export = |source| Error::NoExport { dir: export_dir.to_owned(), source };
        let export_dir = std::path::absolute(export_dir).map_err(no_export)?;
        let (wake, woken) = mpsc::sync_channel(1);
        // Watch first, read then: a switch in between is an event that is waiting.
        let watch = Watch::new(&export_dir, wake.clone());
        let snapshot = current(&export_dir)?;
        let shared = Arc::new(Shared {
            known: ArcSwap::from_pointee(Known { central: central_of(&export_dir, &snapshot), snapshot }),
            resolver: Resolver::new(export_dir.clone(), &agent),
            acknowledge: Arc::default(),
            followers: Mutex::default(),
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
            let taken = move || following.upgrade().map(|shared| shared.taken());
            acknowledge::start(&shared.acknowledge, socket, program, taken);
        }
        Ok(Follower { shared, wake, thread: Some(thread) })
    }

    /// What is held now: one atomic load.
    pub(super) fn known(&self) -> Guard<Arc<Known>> {
        self.shared.known.load()
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.known().snapshot)
    }

    /// Who finds the snapshots of older and newer changes.
    pub(super) fn resolver(&self) -> &Arc<Resolver> {
        &self.shared.resolver
    }

    pub(super) fn export_dir(&self) -> &Path {
        &self.shared.export_dir
    }

    pub(super) fn last_error(&self) -> Option<Arc<Error>> {
        self.shared.error.load_full()
    }

    /// Makes a follower from the current snapshot, which then sees every later one.
    pub(super) fn join<F: Follow + 'static>(
        &self,
        read: impl FnOnce(&Arc<Snapshot>) -> Result<F, Error>,
    ) -> Result<Arc<F>, Error> {
        // Under the lock that a switch takes, so that none falls between the reading and the joining.
        let mut followers = self.shared.followers();
        let joined = Arc::new(read(&self.shared.known.load().snapshot)?);
        let following: Arc<dyn Follow> = joined.clone();
        followers.retain(|follower| follower.strong_count() > 0);
        followers.push(Arc::downgrade(&following));
        Ok(joined)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.resolver.stop();
        self.shared.acknowledge.stop();
        // A full channel wakes the thread as well.
        let _ = self.wake.try_send(());
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != thread::current().id()) {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("known", &self.shared.known.load()).finish_non_exhaustive()
    }
}

/// What the thread and the handles share.
struct Shared {
    export_dir: PathBuf,
    known: ArcSwap<Known>,
    resolver: Arc<Resolver>,
    acknowledge: Arc<Acknowledge>,
    followers: Mutex<Vec<Weak<dyn Follow>>>,
    error: ArcSwapOption<Error>,
    stop: AtomicBool,
}

impl Shared {
    fn followers(&self) -> MutexGuard<'_, Vec<Weak<dyn Follow>>> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this process runs on.
    fn taken(&self) -> Taken {
        let following: Vec<Arc<dyn Follow>> = self.followers().iter().filter_map(Weak::upgrade).collect();
        let faults = following.iter().filter_map(|one| one.fault());
        // What it holds back the agent knows itself.
        let news = faults.filter(|fault| !matches!(*fault.error, Error::HeldBack { .. }));
        let faults = news.filter_map(|fault| Some((fault.component?, fault.error))).collect();
        Taken { sequence: self.known.load().snapshot.sequence, faults }
    }

    fn follow(&self, mut watch: Watch, woken: &Receiver<()>) {
        loop {
            watch.renew(&self.export_dir);
            // Whatever of the program's own code may run in here does not end this thread.
            let taken = catch_unwind(AssertUnwindSafe(|| {
                self.resolver.forget_unused();
                self.look()
            }));
            let taken = taken.unwrap_or(Err(Error::Panicked));
            let blind = !watch.sees() || !matches!(taken, Ok(Took::All));
            self.error.store(taken.err().map(Arc::new));
            // A closed channel cannot be: the owner of its other end ends this thread first.
            let _ = woken.recv_timeout(jittered(if blind { RECHECK_WHEN_BLIND } else { RECHECK }));
            if self.stop.load(Ordering::Acquire) {
                return;
            }
        }
    }

    /// Takes what `current` names now, when it is newer than what is held, and what the agent knows of it.
    fn look(&self) -> Result<Took, Error> {
        for _ in 1..TRIES {
            match self.look_once() {
                // It was replaced while it was read: the newer one is what is wanted.
                Err((seen, Error::Read { .. })) if seen != identity(&*current(&self.export_dir)?) => {}
                looked => return looked.map_err(|(_, error)| error),
            }
        }
        self.look_once().map_err(|(_, error)| error)
    }

    fn look_once(&self) -> Result<Took, (Identity, Error)> {
        let held = self.known.load_full();
        // Asked before anything is opened: most looks find nothing new, or a higher central sequence alone.
        let named = Snapshot::named(&self.export_dir).map_err(|error| (identity(&held.snapshot), error))?;
        let same = named.0 == held.snapshot.sequence
            && fs::metadata(&named.1).is_ok_and(|found| (found.dev(), found.ino()) == held.snapshot.identity);
        let snapshot = if same {
            Arc::clone(&held.snapshot)
        } else {
            current(&self.export_dir).map_err(|error| (identity(&held.snapshot), error))?
        };
        self.take(&held, &snapshot).map_err(|error| (identity(&snapshot), error))
    }

    fn take(&self, held: &Known, snapshot: &Arc<Snapshot>) -> Result<Took, Error> {
        if snapshot.sequence < held.snapshot.sequence {
            return Err(Error::WentBack { kept: held.snapshot.sequence, found: snapshot.sequence });
        }
        let mut central = central_of(&self.export_dir, snapshot);
        if snapshot.sequence == held.snapshot.sequence {
            central = central.max(held.central);
        }
        let same = Arc::ptr_eq(snapshot, &held.snapshot);
        if !same {
            self.resolver.replaced(held, snapshot);
        }
        let mut followers = self.followers();
        followers.retain(|follower| follower.strong_count() > 0);
        let following: Vec<Arc<dyn Follow>> = followers.iter().filter_map(Weak::upgrade).collect();
        // Of the snapshot that is held already, only what could not be read is tried again.
        let all = following.iter().map(|one| &**one);
        let asked: Vec<&dyn Follow> = all.filter(|one| !same || is_unread(*one)).collect();
        let switches: Vec<Switch<'_>> = asked.iter().map(|one| one.prepare(snapshot)).collect();
        if !snapshot.is_there() {
            drop(followers);
            let_go(switches);
            // What was not found in it says nothing.
            let source = io::Error::new(io::ErrorKind::NotFound, "the snapshot was removed while it was read");
            return Err(Error::Read { path: snapshot.dir.clone(), source });
        }
        // From here on nothing fails, and every handle is on the new snapshot within microseconds.
        if !same || central > held.central {
            self.known.store(Arc::new(Known { snapshot: Arc::clone(snapshot), central }));
        }
        let tell: Vec<Tell<'_>> = switches.into_iter().map(|switch| switch()).collect();
        drop(followers);
        tell.into_iter().for_each(|tell| tell());
        let unread = asked.iter().filter(|one| is_unread(**one)).count();
        if !same || central > held.central {
            self.resolver.heard();
        }
        if !same || unread < asked.len() {
            self.acknowledge.soon();
        }
        Ok(if unread == 0 { Took::All } else { Took::Part })
    }
}

/// How much of what the process follows was read.
enum Took {
    All,
    /// The rest is tried again.
    Part,
}

fn is_unread(one: &dyn Follow) -> bool {
    one.fault().is_some_and(|fault| matches!(*fault.error, Error::Read { .. }))
}

fn current(export_dir: &Path) -> Result<Arc<Snapshot>, Error> {
    let mut tries = 1;
    loop {
        match Snapshot::current(export_dir) {
            // Between the link and what it names the agent may have switched and removed.
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

/// What `export/central` says of `snapshot`; the file may be missing, or be of another snapshot for a moment.
pub(super) fn central_of(export_dir: &Path, snapshot: &Snapshot) -> Sequence {
    #[derive(serde::Deserialize)]
    struct Central {
        sequence: Sequence,
        central: Sequence,
    }
    let bytes = File::open(export_dir.join("central")).and_then(|file| {
        let mut bytes = Vec::new();
        file.take(MOST_CENTRAL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    let said = bytes.ok().and_then(|bytes| serde_json::from_slice::<Central>(&bytes).ok());
    let of_it = said.filter(|said| said.sequence == snapshot.sequence && said.central > snapshot.sequence);
    of_it.map_or(snapshot.sequence, |said| said.central)
}

/// The system's eyes on the export directory, renewed when that is another directory than before.
struct Watch {
    watcher: Option<RecommendedWatcher>,
    /// Device and inode of what is watched.
    watched: Option<(u64, u64)>,
}

impl Watch {
    fn new(export_dir: &Path, wake: SyncSender<()>) -> Self {
        // A full channel means that a look is due anyway, and one look sees all.
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if !event.is_ok_and(|event| event.kind.is_access()) {
                let _ = wake.try_send(());
            }
        });
        let mut watch = Watch { watcher: watcher.ok(), watched: None };
        watch.renew(export_dir);
        watch
    }

    fn renew(&mut self, export_dir: &Path) {
        let there = fs::metadata(export_dir).map(|found| (found.dev(), found.ino())).ok();
        let Some(watcher) = self.watcher.as_mut().filter(|_| there.is_none() || there != self.watched) else { return };
        // Of a directory that is gone the system has dropped the watch already.
        let _ = watcher.unwatch(export_dir);
        self.watched = there.filter(|_| watcher.watch(export_dir, RecursiveMode::NonRecursive).is_ok());
    }

    fn sees(&self) -> bool {
        self.watched.is_some()
    }
}

/// Between the whole time and three quarters of it, so that the processes of a host do not all look at once.
fn jittered(time: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    let share = u32::try_from(random % 256).unwrap_or_default();
    time.saturating_sub(time / 1024 * share)
}
