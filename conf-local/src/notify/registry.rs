//! All watchers of this host.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use conf_core::suspect::CommandWords;
use libconf::name::{ComponentName, ComponentSelector, ComponentVersion, Sequence};
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::now,
    export::ChangeKind,
    notify::{
        entry::{WatchEntry, WatchTarget},
        outbox::{Concerned, Outbox, WatcherId, Watchers},
        registrations::{self, Registration},
        tell::Teller,
        watcher::{Recipient, Relay, Watcher, WatcherState, WatcherStatus},
    },
    process::{Process, ProcessError},
    state::Agent,
};

/// 2,048 registered processes on this host: each holds one file descriptor and one task.
const MOST_REGISTRATIONS: usize = 2048;

/// 128 registered processes of one user other than root, so that no user takes all of them.
pub const MOST_OF_ONE_USER: usize = 128;

/// 1,024 components in one registration. [`ComponentName`] bounds the length of their names.
const MOST_COMPONENTS: usize = 1024;

/// All watchers of this host.
pub struct Registry {
    pub(crate) watchers: Mutex<BTreeMap<WatcherId, Watcher>>,
    /// The file of the registrations.
    pub(crate) file: PathBuf,
    /// Held while the file is written, and until `watchers` has what was written.
    pub(crate) turn: Arc<tokio::sync::Mutex<()>>,
    /// The file is behind `watchers`.
    pub(crate) is_unwritten: AtomicBool,
    pub(crate) outbox: Arc<Outbox>,
    agent: Agent,
    /// There are new notices or new watchers.
    woken: Notify,
    /// No watcher is told, and none can register.
    observes: bool,
}

/// Why a process is not registered.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The process cannot be named, or not by this user.
    #[error(transparent)]
    Process(ProcessError),
    /// The agent tells no watcher.
    #[error("this agent only observes and tells no process; start it without --observe")]
    Observing,
    /// The request names too many components, or none.
    #[error("name between 1 and {MOST_COMPONENTS} components")]
    Components,
    /// The host, or this user, has as many registrations as it may.
    #[error("{0} processes are registered already{1}; a registration ends with its process")]
    TooMany(usize, String),
    /// The registration would not survive a restart of the agent.
    #[error("cannot keep the registration in {}", .0.display())]
    Keep(PathBuf, #[source] io::Error),
}

/// A request to signal a process on a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchRequest {
    /// The components to watch.
    pub components: BTreeSet<ComponentSelector>,
    /// The process.
    pub pid: i32,
    /// The time of its start, if the caller knows it: clock ticks after the machine started.
    pub start: Option<u64>,
    /// The signal to send.
    pub signal: Signal,
    /// The longest random delay before that.
    pub delay: Duration,
}

impl Registry {
    /// Takes the configured watchers, and those that registered before a restart of the agent and
    /// still run. With `observes`, takes no registered ones.
    pub fn open(
        state: &Path,
        configured: &[WatchEntry],
        outbox: Arc<Outbox>,
        agent: Agent,
        observes: bool,
    ) -> Arc<Self> {
        let file = state.join("watchers.json");
        let mut watchers: BTreeMap<WatcherId, Watcher> = BTreeMap::new();
        let sequence = agent.view().status.sequence;
        // Several may look alike without their secrets.
        let mut commands: BTreeMap<String, Vec<CommandWords>> = BTreeMap::new();
        for WatchEntry { components, target, delay } in configured {
            let (recipient, id) = match target.clone() {
                WatchTarget::Pidfile { path, signal } => {
                    let id = format!("pidfile {} {signal}", path.display());
                    (Recipient::Pidfile { path, signal }, id)
                }
                WatchTarget::Command(words) => {
                    let shown = words.to_string();
                    let alike = commands.entry(shown.clone()).or_default();
                    let known = alike.iter().position(|one| *one == words);
                    let number = known.unwrap_or_else(|| {
                        alike.push(words.clone());
                        alike.len() - 1
                    });
                    let number = if number == 0 { String::new() } else { format!(" ({})", number + 1) };
                    (Recipient::Command(words), format!("command {shown}{number}"))
                }
            };
            let id = WatcherId(id);
            let new = || Watcher::new(id.clone(), BTreeSet::new(), recipient, *delay, sequence);
            // Two equal entries would tell twice: they are one watcher of the components of both.
            let watcher = watchers.entry(id.clone()).or_insert_with(new);
            watcher.status.lock().components.extend(components.iter().cloned());
        }
        let registered = if observes { Vec::new() } else { registrations::load(&file) };
        for registration in registered {
            if let Ok(process) = Process::reopen(&registration.identity, registration.owner()) {
                let watcher = Watcher::registered(registration, process);
                let id = watcher.status.lock().id.clone();
                if watcher.counts() {
                    outbox.count(&id);
                }
                watchers.insert(id, watcher);
            }
        }
        let registry = Registry {
            watchers: Mutex::new(watchers),
            file,
            turn: Arc::default(),
            is_unwritten: AtomicBool::new(false),
            outbox,
            agent,
            woken: Notify::new(),
            observes,
        };
        registry.recall();
        Arc::new(registry)
    }

    /// Shows what failed before the agent was started again. If that is lost, owes every watcher a
    /// notice of all its components.
    fn recall(&self) {
        if let Some(exported) = self.agent.view().exported.as_ref().filter(|_| self.outbox.is_lost()) {
            let all = exported.components.keys().map(|one| (one.clone(), ChangeKind::Changed)).collect();
            let before = Sequence(exported.sequence.0.saturating_sub(1));
            self.outbox.switched(exported.snapshot(), before, self.concerned(&all));
        }
        let pending = self.outbox.pending();
        for (id, watcher) in self.watchers.lock().iter() {
            if let Some(why) = pending.get(id).and_then(|notice| notice.failed.clone()) {
                let mut status = watcher.status.lock();
                (status.state, status.error) = (WatcherState::Failed, Some(why));
            }
        }
    }

    /// Runs every watcher's task until `stop`, and writes down what they did. The stop ends a
    /// running command, which runs again after the next start.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let told = CancellationToken::new();
        let telling = async {
            Arc::clone(&self).tell_all(stop).await;
            told.cancel();
        };
        tokio::join!(telling, self.write_all(&told));
    }

    async fn tell_all(self: Arc<Self>, stop: CancellationToken) {
        let mut tellers = JoinSet::new();
        loop {
            self.start_new(&mut tellers, &stop);
            self.hand_out();
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.woken.notified() => {}
                Some(ended) = tellers.join_next() => {
                    // A task that ends with the agent returns nothing: its watcher stays
                    // registered.
                    if let Ok(Some(id)) = ended {
                        self.remove(&id);
                    }
                }
            }
        }
        while tellers.join_next().await.is_some() {}
    }

    /// Has a process signalled at every change from the next switch on. `caller` is the user who
    /// asks. The same process and signal again adds components.
    ///
    /// Cancel: the file may have the registration, and loses it with the next write.
    pub async fn register(&self, request: WatchRequest, caller: u32) -> Result<WatcherStatus, RegisterError> {
        let WatchRequest { components, pid, start, signal, delay } = request;
        if self.observes {
            return Err(RegisterError::Observing);
        }
        let check = |components: &BTreeSet<_>| match components.len() {
            1..=MOST_COMPONENTS => Ok(()),
            _ => Err(RegisterError::Components),
        };
        check(&components)?;
        let owner = (caller != 0).then_some(caller);
        let process = Process::open(pid, start, owner).map_err(RegisterError::Process)?;
        let (identity, signal) = (process.identity.clone(), signal.as_str().to_owned());
        let sequence = self.agent.view().status.sequence;
        let mut registration =
            Registration { identity, user: caller, signal, components, delay, sequence, when: now() };
        let new = Watcher::registered(registration.clone(), process);
        let id = new.status.lock().id.clone();

        let turn = Arc::clone(&self.turn).lock_owned().await;
        let all = {
            let watchers = self.watchers.lock();
            if let Some(known) = watchers.get(&id) {
                let status = known.status.lock();
                registration.components.extend(status.components.iter().cloned());
                check(&registration.components)?;
                if registration.components == status.components {
                    return Ok(status.clone());
                }
            } else {
                check_bounds(&watchers, caller)?;
            }
            let others = watchers.iter().filter(|(known, _)| **known != id);
            let others = others.filter_map(|(_, watcher)| watcher.registration.clone());
            others.chain([registration.clone()]).collect()
        };
        // If this is cancelled, the file has one too many.
        self.is_unwritten.store(true, Ordering::Relaxed);
        let (saved, _turn) = self.save(all, turn).await;
        saved.map_err(|source| RegisterError::Keep(self.file.clone(), source))?;
        let mut watchers = self.watchers.lock();
        // The task of a known watcher goes on.
        let watcher = watchers.entry(id.clone()).or_insert_with(|| {
            tracing::info!(watcher = %id.0, target = %new.recipient, user = caller, "registered");
            new
        });
        watcher.set_registration(registration);
        if watcher.counts() {
            self.outbox.count(&id);
        }
        let status = watcher.status.lock().clone();
        drop(watchers);
        self.woken.notify_one();
        Ok(status)
    }

    /// Notes what a registered process says of another one that it tells.
    pub(crate) fn relay(&self, id: &WatcherId, relay: Relay) -> Option<WatcherStatus> {
        let watchers = self.watchers.lock();
        let mut status = watchers.get(id)?.status.lock();
        status.relayed(relay);
        self.outbox.relaying(id, status.not_passed_on(self.agent.view().status.sequence));
        let shown = status.clone();
        drop(status);
        drop(watchers);
        self.agent.update(|view| view.status.untold = self.outbox.untold());
        Some(shown)
    }

    /// Returns the state of every watcher, in order of name.
    pub fn status(&self) -> Vec<WatcherStatus> {
        self.watchers.lock().values().map(|watcher| watcher.status.lock().clone()).collect()
    }

    /// Starts the task of each watcher that has none.
    fn start_new(self: &Arc<Self>, tellers: &mut JoinSet<Option<WatcherId>>, stop: &CancellationToken) {
        for (id, watcher) in self.watchers.lock().iter_mut().filter(|(_, watcher)| !watcher.started) {
            watcher.started = true;
            let teller = Teller {
                id: id.clone(),
                recipient: watcher.recipient.clone(),
                delay: watcher.delay,
                counts: watcher.counts(),
                status: Arc::clone(&watcher.status),
                outbox: Arc::clone(&self.outbox),
                agent: self.agent.clone(),
                stop: stop.clone(),
            };
            let mut inbox = watcher.notice.subscribe();
            // A notice that came before the task is new to it.
            inbox.mark_changed();
            tellers.spawn(teller.run(inbox));
        }
    }

    /// Gives every watcher its newest notice. Drops notices of watchers that do not exist any more.
    fn hand_out(&self) {
        // An agent that observes leaves its notices to a later one that tells.
        if self.observes {
            return;
        }
        let pending = self.outbox.pending();
        let watchers = self.watchers.lock();
        for (id, notice) in pending {
            match watchers.get(&id) {
                Some(watcher) => drop(watcher.notice.send_if_modified(|before| {
                    let differs = before.as_ref().is_none_or(|before| !before.is_same(&notice));
                    *before = Some(notice);
                    differs
                })),
                None => self.forget(&id),
            }
        }
    }

    /// Removes a watcher whose process has ended, or may not be signalled any more.
    fn remove(&self, id: &WatcherId) {
        let mut watchers = self.watchers.lock();
        let Some(watcher) = watchers.remove(id) else { return };
        tracing::info!(watcher = %id.0, target = %watcher.recipient, "its process has ended; no longer registered");
        drop(watchers);
        // Until it is written, the next start drops the registration: its process does not exist.
        self.is_unwritten.store(true, Ordering::Relaxed);
        self.outbox.write_soon();
        self.forget(id);
    }

    fn forget(&self, id: &WatcherId) {
        self.outbox.forget(id);
        self.agent.update(|view| view.status.untold = self.outbox.untold());
    }
}

impl Watchers for Registry {
    fn gone(&self) -> Option<PathBuf> {
        let any = self.watchers.lock().values().any(|watcher| watcher.registration.is_some());
        (any && !self.file.exists()).then(|| self.file.clone())
    }

    fn keep(&self) {
        if self.gone().is_none() {
            return;
        }
        let _turn = self.turn.blocking_lock();
        let kept = self.registrations();
        if let Err(error) = self.outbox.expect_held().and_then(|()| registrations::save(&self.file, &kept)) {
            tracing::warn!(path = %self.file.display(), %error, "registered processes cannot be written down");
        }
    }

    /// Returns the snapshot that each registered process was last told of, or began with.
    fn held(&self) -> BTreeSet<Sequence> {
        let watchers = self.watchers.lock();
        let registered = watchers.values().filter(|watcher| watcher.registration.is_some());
        registered.map(|watcher| watcher.status.lock().sequence).collect()
    }

    fn concerned(&self, changed: &BTreeMap<ComponentVersion, ChangeKind>) -> Concerned {
        let mut versions: BTreeMap<&ComponentName, Vec<&ComponentVersion>> = BTreeMap::new();
        for component in changed.keys() {
            versions.entry(&component.component).or_default().push(component);
        }
        let concerned = |watcher: &Watcher| -> BTreeSet<ComponentVersion> {
            let status = watcher.status.lock();
            let named = status.components.iter().filter_map(|one| Some((one, versions.get(&one.component)?)));
            named
                .flat_map(|(one, versions)| versions.iter().filter(|version| one.matches(version)))
                .copied()
                .cloned()
                .collect()
        };
        let watchers = self.watchers.lock();
        let all = watchers.iter().map(|(id, watcher)| (id.clone(), concerned(watcher)));
        all.filter(|(_, components)| !components.is_empty()).collect()
    }

    fn tell(&self) {
        self.woken.notify_one();
    }
}

fn check_bounds(watchers: &BTreeMap<WatcherId, Watcher>, caller: u32) -> Result<(), RegisterError> {
    let registrations = || watchers.values().filter_map(|watcher| watcher.registration.as_ref());
    if registrations().count() >= MOST_REGISTRATIONS {
        return Err(RegisterError::TooMany(MOST_REGISTRATIONS, String::new()));
    }
    let own = registrations().filter(|registration| registration.user == caller).count();
    if caller != 0 && own >= MOST_OF_ONE_USER {
        return Err(RegisterError::TooMany(MOST_OF_ONE_USER, format!(" for user {caller}")));
    }
    Ok(())
}
