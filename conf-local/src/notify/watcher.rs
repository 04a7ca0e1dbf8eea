//! One watcher: what it watches, what it does on a change, and its state.

use std::{collections::BTreeSet, fmt, path::PathBuf, sync::Arc, time::Duration};

use conf_core::{settings::one_line, suspect::CommandWords};
use libconf::name::{ComponentSelector, Sequence};
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    clock::now,
    notify::{
        outbox::{Notice, REGISTERED, WatcherId},
        registrations::Registration,
    },
    process::Process,
    state::{Changes, Untold},
};

/// One watcher.
pub(crate) struct Watcher {
    pub(crate) recipient: Recipient,
    pub(crate) delay: Duration,
    /// The newest notice. One that was not begun is part of it already.
    pub(crate) notice: watch::Sender<Option<Notice>>,
    pub(crate) status: Arc<Mutex<WatcherStatus>>,
    /// A registered process as it is on disk; `None` for an entry of the configuration.
    pub(crate) registration: Option<Registration>,
    /// Its task runs.
    pub(crate) started: bool,
}

/// The process or command that a watcher tells.
#[derive(Clone)]
pub(crate) enum Recipient {
    Process { process: Process, signal: Signal, owner: Option<u32>, name: String },
    Pidfile { path: PathBuf, signal: Signal },
    Command(CommandWords),
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Recipient::Process { process, signal, name, .. } => {
                write!(f, "{signal} to {} ({name})", process.identity.pid)
            }
            Recipient::Pidfile { path, signal } => write!(f, "{signal} to {}", path.display()),
            Recipient::Command(words) => write!(f, "command {words}"),
        }
    }
}

/// The state of one watcher: an element of `watchers` in `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatcherStatus {
    pub(crate) id: WatcherId,
    /// The process or command, for people.
    pub(crate) target: String,
    /// The components that it watches.
    pub components: BTreeSet<ComponentSelector>,
    /// The user who registered it; `None` for an entry of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<u32>,
    /// The process, if it is one and runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// What it does now.
    pub state: WatcherState,
    /// The newest change that it was told of, or the one that was exported when it came.
    pub sequence: Sequence,
    /// The time at which it was last told or came, RFC 3339, UTC.
    pub(crate) when: String,
    /// Why it waits or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it said last of another process that it tells.
    #[serde(skip)]
    relay: Option<Relay>,
    /// The change that it was told of, and has not passed on yet.
    #[serde(skip)]
    relaying: Option<Sequence>,
}

/// What a registered process says of another one that it tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Relay {
    /// The newest change that the other one was told of.
    pub(crate) told: Sequence,
    /// Why the other one cannot be told yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) waits: Option<String>,
}

/// 300 characters of a reason that a process gives.
const MOST_WORDS: usize = 300;

impl WatcherStatus {
    /// Notes that it was told, or, if it tells another process, that it has to do that.
    pub(crate) fn told(&mut self, sequence: Sequence) {
        self.error = None;
        let Some(relay) = self.relay.take() else {
            (self.state, self.sequence, self.when) = (WatcherState::Told, sequence, now());
            return;
        };
        (self.state, self.relaying) = (WatcherState::Telling, Some(sequence));
        // It may have said so already.
        self.relayed(relay);
    }

    /// Returns what it was told of and has not passed on. `exported` is the change that is in
    /// place.
    pub(crate) fn not_passed_on(&self, exported: Sequence) -> Option<Untold> {
        let relay = self.relay.as_ref()?;
        let through = self.relaying.or_else(|| relay.waits.as_ref().map(|_| exported))?;
        let after = relay.told.min(Sequence(through.0.saturating_sub(1)));
        let error = self.error.clone().filter(|_| relay.waits.is_some());
        Some(Untold { about: Changes { after, through }, error })
    }

    /// Notes what it says of the other process.
    pub(crate) fn relayed(&mut self, relay: Relay) {
        let passed_on = match self.relaying {
            Some(sequence) => relay.told >= sequence,
            None => self.state == WatcherState::Waiting,
        };
        if let Some(why) = &relay.waits {
            let short: String = why.chars().take(MOST_WORDS).collect();
            (self.state, self.error) = (WatcherState::Waiting, Some(one_line(&short)));
        } else if passed_on {
            self.relaying = None;
            let sequence = self.sequence.max(relay.told);
            (self.state, self.sequence, self.when, self.error) = (WatcherState::Told, sequence, now(), None);
        }
        self.relay = Some(relay);
    }
}

/// What a watcher does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WatcherState {
    /// None of its components has changed since it came.
    Idle,
    /// It was told of the newest change of its components.
    Told,
    /// It cannot be told yet.
    Waiting,
    /// It is being told.
    Telling,
    /// It could not be told, or its command failed. It is tried again.
    Failed,
}

impl Watcher {
    pub(crate) fn new(
        id: WatcherId,
        components: BTreeSet<ComponentSelector>,
        recipient: Recipient,
        delay: Duration,
        sequence: Sequence,
    ) -> Self {
        let (state, target) = (WatcherState::Idle, recipient.to_string());
        let (user, pid, error) = (None, None, None);
        let (relay, relaying, when) = (None, None, now());
        let status = WatcherStatus { id, target, components, user, pid, state, sequence, when, error, relay, relaying };
        let (status, notice) = (Arc::new(Mutex::new(status)), watch::Sender::new(None));
        Watcher { recipient, delay, notice, status, registration: None, started: false }
    }

    /// Creates a watcher for a registered process that is held.
    pub(crate) fn registered(registration: Registration, process: Process) -> Self {
        let signal = registration.signal.parse().unwrap_or(Signal::SIGHUP);
        let id = WatcherId(format!("{REGISTERED} {}.{} {signal}", process.identity.pid, process.identity.start));
        let name = process.name();
        let recipient = Recipient::Process { process, signal, owner: registration.owner(), name };
        let components = registration.components.clone();
        let mut watcher = Watcher::new(id, components, recipient, registration.delay, registration.sequence);
        watcher.set_registration(registration);
        watcher
    }

    /// True if a failure to tell it counts: it is of the configuration, or of root or the agent's
    /// own user. Any other user could hold up a wait for this host.
    pub(crate) fn counts(&self) -> bool {
        let own = rustix::process::geteuid().as_raw();
        self.registration.as_ref().is_none_or(|registration| registration.user == 0 || registration.user == own)
    }

    pub(crate) fn set_registration(&mut self, registration: Registration) {
        let mut status = self.status.lock();
        status.user = Some(registration.user);
        status.pid = Some(registration.identity.pid);
        status.components.clone_from(&registration.components);
        drop(status);
        self.registration = Some(registration);
    }
}
