//! What `exec` says of its command: the change that it was told of, and why it is not told of a
//! newer one. The agent told `exec`; whether the command was told, only `exec` knows.

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use libconf::name::Sequence;
use tokio::sync::Notify;

use crate::{
    agent::AgentSocket,
    cli::{exec::place::ExportPlace, socket::AskError},
    clock::random_up_to,
    notify::Relay,
    service::{RegisterRequest, Registered},
};

/// 60 s between two renewals of the registration: a restarted agent keeps it, but one that lost its
/// state does not.
const RENEW: Duration = Duration::from_secs(60);

/// 2 s while the agent does not answer.
const RENEW_WHEN_AWAY: Duration = Duration::from_secs(2);

/// What the loop and the registration share.
#[derive(Default)]
pub(crate) struct Relaying {
    relay: RefCell<Relay>,
    /// There is something new to say.
    news: Notify,
    /// The number of changes that this process was told of.
    pub(crate) changes: Cell<u64>,
    /// A change happened while this process was not registered.
    pub(crate) missed: Notify,
}

impl Relaying {
    /// Notes that the command was told of a change.
    pub(crate) fn told(&self, change: Sequence) {
        self.say(Relay { told: change, waits: None });
    }

    /// Notes why the command cannot be told yet.
    pub(crate) fn waits(&self, why: &str) {
        let told = self.relay.borrow().told;
        self.say(Relay { told, waits: Some(why.to_owned()) });
    }

    fn say(&self, relay: Relay) {
        self.relay.replace(relay);
        self.news.notify_one();
    }

    /// Renews the registration again and again, and whenever there is something new to say. Never
    /// ends.
    pub(crate) async fn keep_registered(&self, socket: &AgentSocket, request: &RegisterRequest, place: &ExportPlace) {
        let mut known = self.relay.borrow().told;
        let (mut registered, mut changes) = (place.registered, self.changes.get());
        loop {
            let pause = if registered { RENEW * 3 / 4 + random_up_to(RENEW / 4) } else { RENEW_WHEN_AWAY };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.news.notified() => {}
            }
            let answer = self.register(socket, request).await;
            registered = answer.is_ok();
            if let Ok(answer) = answer {
                // It rose although no signal came since the last renewal: the registration had been
                // lost.
                if answer.watcher.sequence > known && self.changes.get() == changes {
                    self.missed.notify_one();
                }
                known = known.max(answer.watcher.sequence);
                changes = self.changes.get();
            }
        }
    }

    async fn register(&self, socket: &AgentSocket, request: &RegisterRequest) -> Result<Registered, AskError> {
        let relay = Some(self.relay.borrow().clone());
        let told = RegisterRequest { relay, ..request.clone() };
        match socket.post("/v1/watchers", &told, Duration::ZERO).await {
            // An agent of before does not know `relay`.
            Err(error) if !error.is_passing() => socket.post("/v1/watchers", request, Duration::ZERO).await,
            other => other,
        }
    }
}
