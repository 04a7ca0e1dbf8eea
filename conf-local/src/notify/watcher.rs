//! One watcher: what it watches, what it does on a change, and its state.

use std::{collections::BTreeSet, fmt, path::PathBuf, sync::Arc, time::Duration};

use libconf::name::{ComponentSelector, Sequence};
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    clock::now,
    notify::{
        outbox::{Notice, WatcherId},
        registrations::Registration,
    },
    process::{Process, shown},
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
    Command(Vec<String>),
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Recipient::Process { process, signal, name, .. } => {
                write!(f, "{signal} to {} ({name})", process.identity.pid)
            }
            Recipient::Pidfile { path, signal } => write!(f, "{signal} to {}", path.display()),
            Recipient::Command(words) => write!(f, "command {}", shown(words)),
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
    /// It could not be told, or its command failed. It will be told of the next change.
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
        let status = WatcherStatus { id, target, components, user, pid, state, sequence, when: now(), error };
        let (status, notice) = (Arc::new(Mutex::new(status)), watch::Sender::new(None));
        Watcher { recipient, delay, notice, status, registration: None, started: false }
    }

    /// Creates a watcher for a registered process that is held.
    pub(crate) fn registered(registration: Registration, process: Process) -> Self {
        let signal = registration.signal.parse().unwrap_or(Signal::SIGHUP);
        let id = WatcherId(format!("process {}.{} {signal}", process.identity.pid, process.identity.start));
        let name = process.name();
        let recipient = Recipient::Process { process, signal, owner: registration.owner(), name };
        let components = registration.components.clone();
        let mut watcher = Watcher::new(id, components, recipient, registration.delay, registration.sequence);
        watcher.set_registration(registration);
        watcher
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
