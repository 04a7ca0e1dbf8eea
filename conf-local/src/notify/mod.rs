//! Who is told of changes: processes by signal, commands by running them. Each once per change that concerns it.
//!
//! [`Registry`] knows the watchers and hands each the duties that the journal holds for it; every watcher has one task
//! (`tell`), so that nobody is told twice at once. `process` holds and checks a process, `registrations` keeps what was
//! registered over a restart of the agent.
//!
//! Always true:
//! - A process is signalled through a descriptor that was verified: never another that got its number.
//! - A signal is sent only to a process that handles it; until it does, the duty waits and `status` says so.
//! - A user other than root has only processes of its own signalled.

pub mod duties;

mod registrations;
mod tell;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use libconf::name::{ComponentName, ComponentSelector, ComponentVersion, Sequence};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

pub use crate::process::handle::ProcessError;
use crate::{
    cli::config::{WatchEntry, WatchTarget},
    notify::duties::{Duties, Duty, WatcherId, Watchers},
    state::{Agent, ChangeKind},
};
use crate::{
    notify::{
        registrations::{Registration, Registrations},
        tell::{Report, Target, Teller},
    },
    process::handle::Process,
};

/// All registered processes of this host. Each holds one file descriptor and one task.
pub const MOST_REGISTRATIONS: usize = 2048;

/// Those of one user other than root.
pub const MOST_OF_ONE_USER: usize = 128;

/// The components of one registration, and the characters of their names are bounded by [`ComponentName`].
pub const MOST_COMPONENTS: usize = 1024;

/// Everyone who is told of changes on this host.
pub struct Registry {
    watchers: Mutex<BTreeMap<WatcherId, Watcher>>,
    registrations: Registrations,
    duties: Arc<Duties>,
    agent: Agent,
    /// There are new duties, or new watchers.
    woken: Notify,
    /// Nobody is told, and nobody registered.
    observes: bool,
}

/// One who is told.
struct Watcher {
    components: BTreeSet<ComponentSelector>,
    target: Target,
    delay: Duration,
    /// The newest duty; an older one that was not begun is joined in it already.
    duty: watch::Sender<Option<Duty>>,
    report: Arc<Mutex<Report>>,
    /// What a registered process is kept as on disk; none for an entry of the configuration.
    registration: Option<Registration>,
    /// Its task runs.
    started: bool,
}

/// Why a process is not registered.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The process cannot be named, or not by this user; mend the request.
    #[error(transparent)]
    Process(ProcessError),
    /// The agent tells nobody.
    #[error("this agent only observes and tells nobody; start it without --observe")]
    Observing,
    /// The request names too many components, or none.
    #[error("name between 1 and {MOST_COMPONENTS} components")]
    Components,
    /// The host, or this user, has as many as it may; registrations end with their processes.
    #[error("{most} processes are registered already{}; a registration ends with its process", of(*.user))]
    TooMany {
        /// The bound.
        most: usize,
        /// Whose bound, where it is not the host's.
        user: Option<u32>,
    },
    /// The registration would not survive a restart of the agent.
    #[error("cannot keep the registration in {}", .path.display())]
    Keep {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn of(user: Option<u32>) -> String {
    user.map_or_else(String::new, |user| format!(" for user {user}"))
}

/// A process that wants to be signalled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The components whose changes matter.
    pub components: BTreeSet<ComponentSelector>,
    /// The process.
    pub pid: i32,
    /// When it started, where the caller knows: clock ticks after the machine did.
    pub start: Option<u64>,
    /// The signal to send.
    pub signal: Signal,
    /// A random delay of at most this long before telling.
    pub delay: Duration,
}

/// How one watcher fares: an entry of `watchers` in `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatcherStatus {
    /// Its name in the journal.
    pub id: WatcherId,
    /// Whom it tells, for people.
    pub target: String,
    /// The components whose changes matter.
    pub components: BTreeSet<ComponentSelector>,
    /// Who registered it; none for an entry of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
    /// The process, where it is one and runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// `idle` (never told yet), `told`, `waiting` (it is to be told and cannot be yet), `telling`, `failed`.
    pub state: WatcherState,
    /// The newest change that it was told of, or that it began with.
    pub sequence: Sequence,
    /// When it was told or came last, RFC 3339, UTC.
    pub when: String,
    /// Why it is waiting or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a watcher does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WatcherState {
    /// Nothing of its components changed since it came.
    Idle,
    /// It was told of the newest change that concerns it.
    Told,
    /// It is to be told, and cannot be yet.
    Waiting,
    /// It is being told.
    Telling,
    /// It could not be told, or its command failed; the next change is told again.
    Failed,
}

impl Registry {
    /// Takes the configured watchers, and those registered before the agent was started again whose processes still run.
    /// With `observes`, none.
    pub fn open(
        state: &std::path::Path,
        configured: &[WatchEntry],
        duties: Arc<Duties>,
        agent: Agent,
        observes: bool,
    ) -> Arc<Self> {
        let registrations = Registrations::in_directory(state);
        let mut watchers = BTreeMap::new();
        let sequence = agent.view().status.sequence;
        for entry in configured {
            let (target, id) = match &entry.target {
                WatchTarget::Pidfile { path, signal } => {
                    let id = format!("pidfile {} {signal}", path.display());
                    (Target::Pidfile { path: path.clone(), signal: *signal }, id)
                }
                WatchTarget::Command(words) => (Target::Command(words.clone()), format!("command {}", words.join(" "))),
            };
            let watcher = Watcher::new(entry.components.iter().cloned().collect(), target, entry.delay, sequence);
            // Two entries alike would tell twice; with other components they are one that cares for all.
            watchers.entry(WatcherId(id)).or_insert(watcher).components.extend(entry.components.iter().cloned());
        }
        let registered_before = if observes { Vec::new() } else { registrations.load() };
        for registration in registered_before {
            if let Ok(process) = Process::reopen(&registration.identity, registration.guard()) {
                let (id, watcher) = registered(registration, process);
                watchers.insert(id, watcher);
            }
        }
        let watchers = Mutex::new(watchers);
        Arc::new(Registry { watchers, registrations, duties, agent, woken: Notify::new(), observes })
    }

    /// Runs every watcher's task until `stop`; then a command that runs is ended, and told again after the next start.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut tellers = JoinSet::new();
        loop {
            self.start_new(&mut tellers, &stop);
            self.hand_out();
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.woken.notified() => {}
                Some(ended) = tellers.join_next() => {
                    // One that ends with the agent is still registered.
                    if let Ok(Some(id)) = ended {
                        self.remove(&id);
                    }
                }
            }
        }
        while tellers.join_next().await.is_some() {}
    }

    /// Has a process signalled from now on. `caller` is the user who asks.
    ///
    /// The same process and signal again adds components. What changes from the next switch on is told.
    pub fn register(&self, wish: Wish, caller: u32) -> Result<WatcherStatus, RegisterError> {
        if self.observes {
            return Err(RegisterError::Observing);
        }
        if wish.components.is_empty() || wish.components.len() > MOST_COMPONENTS {
            return Err(RegisterError::Components);
        }
        let guard = (caller != 0).then_some(caller);
        let process = Process::open(wish.pid, wish.start, guard).map_err(RegisterError::Process)?;
        let sequence = self.agent.view().status.sequence;
        let registration = Registration {
            identity: process.identity.clone(),
            user: caller,
            signal: wish.signal.as_str().to_owned(),
            components: wish.components,
            delay: wish.delay,
            sequence,
            when: now(),
        };
        let mut watchers = self.lock();
        let (id, mut watcher) = registered(registration, process);
        if let Some(before) = watchers.get(&id) {
            let mut components = watcher.components.clone();
            components.extend(before.components.iter().cloned());
            if components.len() > MOST_COMPONENTS {
                return Err(RegisterError::Components);
            }
            if components == before.components {
                return Ok(before.status(&id));
            }
            watcher.components.clone_from(&components);
            if let Some(registration) = &mut watcher.registration {
                registration.components = components;
            }
        } else {
            check_bounds(&watchers, caller)?;
        }
        let kept = watchers.iter().filter(|(known, _)| **known != id);
        let kept = kept.filter_map(|(_, watcher)| watcher.registration.as_ref()).chain(&watcher.registration);
        self.registrations.save(kept).map_err(|(path, source)| RegisterError::Keep { path, source })?;
        let watcher = if let Some(before) = watchers.remove(&id) {
            // Its task goes on.
            Watcher { components: watcher.components, registration: watcher.registration, ..before }
        } else {
            tracing::info!(watcher = %id.0, target = %watcher.target, user = caller, "registered");
            watcher
        };
        let status = watcher.status(&id);
        watchers.insert(id, watcher);
        drop(watchers);
        self.woken.notify_one();
        Ok(status)
    }

    /// How every watcher fares, in order of name.
    pub fn status(&self) -> Vec<WatcherStatus> {
        self.lock().iter().map(|(id, watcher)| watcher.status(id)).collect()
    }

    /// The snapshots that registered processes may still read in: the one that each was last told of, or began with.
    pub fn held(&self) -> BTreeSet<Sequence> {
        let watchers = self.lock();
        let registered = watchers.values().filter(|watcher| watcher.registration.is_some());
        registered.map(|watcher| watcher.report().sequence).collect()
    }

    /// Starts the task of each watcher that has none.
    fn start_new(self: &Arc<Self>, tellers: &mut JoinSet<Option<WatcherId>>, stop: &CancellationToken) {
        for (id, watcher) in self.lock().iter_mut().filter(|(_, watcher)| !watcher.started) {
            watcher.started = true;
            let teller = Teller {
                id: id.clone(),
                target: watcher.target.clone(),
                delay: watcher.delay,
                report: Arc::clone(&watcher.report),
                duties: Arc::clone(&self.duties),
                agent: self.agent.clone(),
                stop: stop.clone(),
            };
            let mut inbox = watcher.duty.subscribe();
            // A duty that came before the task is new to it.
            inbox.mark_changed();
            tellers.spawn(teller.run(inbox));
        }
    }

    /// Gives every watcher its newest duty. Duties of those that are no more are dropped.
    fn hand_out(&self) {
        let owed = self.duties.owed();
        let watchers = self.lock();
        // Whoever observes leaves duties to an agent that tells.
        for (id, duty) in owed.into_iter().filter(|_| !self.observes) {
            match watchers.get(&id) {
                Some(watcher) => drop(watcher.duty.send_if_modified(|before| {
                    let differs = before.as_ref() != Some(&duty);
                    *before = Some(duty);
                    differs
                })),
                None => self.forget(&id),
            }
        }
    }

    /// The process of this watcher has ended, or may not be signalled any more.
    fn remove(&self, id: &WatcherId) {
        let mut watchers = self.lock();
        let Some(watcher) = watchers.remove(id) else { return };
        tracing::info!(watcher = %id.0, target = %watcher.target, "its process has ended; no longer registered");
        let kept = watchers.values().filter_map(|watcher| watcher.registration.as_ref());
        if let Err((path, error)) = self.registrations.save(kept) {
            // What is left in the file is dropped at the next start, when its process is not there.
            tracing::warn!(path = %path.display(), %error, "cannot drop a registration");
        }
        drop(watchers);
        self.forget(id);
    }

    fn forget(&self, id: &WatcherId) {
        if let Err(error) = self.duties.forget(id) {
            tracing::warn!(watcher = %id.0, %error, "cannot drop a duty from the journal");
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<WatcherId, Watcher>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watchers for Registry {
    fn held(&self) -> BTreeSet<Sequence> {
        Registry::held(self)
    }

    fn concerned(
        &self,
        changed: &BTreeMap<ComponentVersion, ChangeKind>,
    ) -> BTreeMap<WatcherId, BTreeSet<ComponentVersion>> {
        let mut versions: BTreeMap<&ComponentName, Vec<&ComponentVersion>> = BTreeMap::new();
        for component in changed.keys() {
            versions.entry(&component.component).or_default().push(component);
        }
        let concerned = |watcher: &Watcher| -> BTreeSet<ComponentVersion> {
            let named = watcher.components.iter().filter_map(|one| Some((one, versions.get(&one.component)?)));
            named
                .flat_map(|(one, versions)| versions.iter().filter(|version| one.matches(version)))
                .copied()
                .cloned()
                .collect()
        };
        let watchers = self.lock();
        let all = watchers.iter().map(|(id, watcher)| (id.clone(), concerned(watcher)));
        all.filter(|(_, components)| !components.is_empty()).collect()
    }

    fn tell(&self) {
        self.woken.notify_one();
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("watchers", &self.lock().len()).finish_non_exhaustive()
    }
}

impl Watcher {
    fn new(components: BTreeSet<ComponentSelector>, target: Target, delay: Duration, sequence: Sequence) -> Self {
        let report = Arc::new(Mutex::new(Report::new(sequence)));
        let duty = watch::Sender::new(None);
        Watcher { components, target, delay, duty, report, registration: None, started: false }
    }

    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self, id: &WatcherId) -> WatcherStatus {
        let report = self.report();
        WatcherStatus {
            id: id.clone(),
            target: self.target.to_string(),
            components: self.components.clone(),
            user: self.registration.as_ref().map(|registration| registration.user),
            pid: self.registration.as_ref().map(|registration| registration.identity.pid).or(report.pid),
            state: report.state,
            sequence: report.sequence,
            when: report.when.clone(),
            error: report.error.clone(),
        }
    }
}

fn check_bounds(watchers: &BTreeMap<WatcherId, Watcher>, caller: u32) -> Result<(), RegisterError> {
    let registrations = || watchers.values().filter_map(|watcher| watcher.registration.as_ref());
    if registrations().count() >= MOST_REGISTRATIONS {
        return Err(RegisterError::TooMany { most: MOST_REGISTRATIONS, user: None });
    }
    let own = registrations().filter(|registration| registration.user == caller).count();
    if caller != 0 && own >= MOST_OF_ONE_USER {
        return Err(RegisterError::TooMany { most: MOST_OF_ONE_USER, user: Some(caller) });
    }
    Ok(())
}

/// A watcher for a process that is held.
fn registered(registration: Registration, process: Process) -> (WatcherId, Watcher) {
    let signal = registration.signal.parse().unwrap_or(Signal::SIGHUP);
    let id = WatcherId(format!("process {}.{} {signal}", process.identity.pid, process.identity.start));
    let name = process.name();
    let target = Target::Process { process, signal, owner: registration.guard(), name };
    let components = registration.components.clone();
    let mut watcher = Watcher::new(components, target, registration.delay, registration.sequence);
    watcher.registration = Some(registration);
    (id, watcher)
}

/// RFC 3339, UTC, to the millisecond.
pub(crate) fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}
