//! Hosts that join: those that come together land by one change.

use std::sync::Arc;
use std::time::Duration;

use conf_core::access::{AccessTable, Principal};
use conf_core::http::{Joining, NotJoined, Who};
use conf_core::session::Keyring;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::access::{AccessRequest, Binding};
use crate::landing::{Lander, Push, Pusher};
use crate::text::now;

/// The most hosts that wait to join, and those of one change.
const WAITING: usize = 1024;
/// 1 s from one such change to the next: the hosts that come meanwhile are one change.
const BETWEEN: Duration = Duration::from_secs(1);
/// 20 s for a host that joins; it asks again.
const PATIENCE: Duration = Duration::from_secs(20);

/// The way in for hosts that join.
#[derive(Clone, Debug)]
pub(crate) struct Joiner {
    sender: mpsc::Sender<Waiting>,
    tokens: watch::Receiver<Arc<AccessTable>>,
    /// The hosts that the inventories list.
    listed: watch::Receiver<Arc<Keyring>>,
}

/// The hosts that wait, for [`run`].
#[derive(Debug)]
pub(crate) struct WaitingHosts(mpsc::Receiver<Waiting>);

#[derive(Debug)]
struct Waiting {
    binding: Binding,
    reply: oneshot::Sender<Result<(), NotJoined>>,
}

impl Joiner {
    /// Makes the way in, and its other end.
    pub(crate) fn new(
        tokens: watch::Receiver<Arc<AccessTable>>,
        listed: watch::Receiver<Arc<Keyring>>,
    ) -> (Self, WaitingHosts) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Joiner { sender, tokens, listed }, WaitingHosts(receiver))
    }

    /// Has a host known by its key from now on, at most within 20 s. When the caller goes away, the
    /// host may join all the same.
    pub(crate) async fn join(&self, joining: Joining) -> Result<(), NotJoined> {
        let Joining { datacenter, host, key, token } = joining;
        let binding = Binding { datacenter, host, key, join: token.hash() };
        {
            let tokens = self.tokens.borrow();
            binding.join_token(&tokens, now()).map_err(NotJoined::Refused)?;
            if binding.is_made(&tokens, now()) {
                return Ok(());
            }
        }
        let Binding { datacenter, host, key, .. } = &binding;
        if !key.signs() {
            return Err(NotJoined::Refused("its key is none of SSH, and cannot sign".to_owned()));
        }
        if !self.listed.borrow().leaves_open(datacenter, host) {
            return Err(NotJoined::Refused(
                "the inventory names another key for it, or lists other hosts and not this one".to_owned(),
            ));
        }
        let (reply, joined) = oneshot::channel();
        let later = |words: &str| NotJoined::Later(words.to_owned());
        self.sender
            .try_send(Waiting { binding, reply })
            .map_err(|_| later(&format!("{WAITING} hosts wait to join already")))?;
        match timeout(PATIENCE, joined).await {
            Ok(Ok(joined)) => joined,
            Ok(Err(_)) => Err(later("the server stops")),
            Err(_) => Err(later("the change with it has not landed yet")),
        }
    }
}

/// Lands the hosts that wait, at most one change a second, until `stop`.
pub(crate) async fn run(lander: Lander, waiting: WaitingHosts, stop: CancellationToken) {
    let WaitingHosts(mut waiting) = waiting;
    let mut batch = Vec::new();
    while stop.run_until_cancelled(waiting.recv_many(&mut batch, WAITING)).await.is_some_and(|count| count > 0) {
        land(&lander, std::mem::take(&mut batch)).await;
        if stop.run_until_cancelled(sleep(BETWEEN)).await.is_none() {
            return;
        }
    }
}

async fn land(lander: &Lander, waiting: Vec<Waiting>) {
    let who = Who::User(nix::unistd::getuid().as_raw());
    let pusher = Pusher { principal: Principal::Server, through: "join tokens".to_owned(), who };
    let bindings = waiting.iter().map(|one| one.binding.clone()).collect();
    let outcome = lander.land(Push::access(AccessRequest::Bind(bindings), &pusher)).await;
    let tokens = lander.access.borrow().clone();
    let known = AccessTable::clone(&tokens).known_hosts(now());
    for Waiting { binding, reply } in waiting {
        let joined = match binding.objection(&tokens, &known, now()) {
            _ if binding.is_made(&tokens, now()) => Ok(()),
            Some(words) => Err(NotJoined::Refused(words)),
            // The landing itself was refused, or there was no room for this one.
            None => {
                let why = outcome.refusals.iter().flatten().next();
                let full = || "there is no room for more hosts that join".to_owned();
                Err(NotJoined::Later(why.map_or_else(full, ToString::to_string)))
            }
        };
        // A host that has gone asks again.
        let _ = reply.send(joined);
    }
}
