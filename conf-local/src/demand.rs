//! Sequences on demand: the folder that was this datacenter's newest at a change, for operations that are pinned to it.
//!
//! In order: what is exported; what is kept or can be made from the repository (`known`); else conf-slave and then
//! conf-master are asked which snapshot it is (`ask`). A newer one than the exported is taken as if the pointer had named it;
//! an older one is fetched and rendered beside the export. What was asked for is kept for the whole time of the retention.
//!
//! Always true:
//! - An answer is proven: by the chain of what this host has verified, by the signed snapshot that follows, or, where none
//!   follows, by the watermark of a server. A server whose answer fails its proof is not believed again.
//! - `current` is never touched by an older snapshot.

mod ask;
mod known;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use libconf::{
    name::{CommitId, Sequence},
    tier::{
        api::SnapshotAt,
        pack::{self, Depth, Step},
        pointers::Pointer,
        upstream::{Backoff, Upstreams},
    },
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::Semaphore,
    task::spawn_blocking,
    time::{Instant, timeout, timeout_at},
};

use self::{ask::Asked, known::Known};
use crate::{
    central::Watermark,
    export::{self, Asking},
    state::{Agent, Exported, Older},
};

/// Callers that wait at once; more are turned away.
const MOST_WAITING: usize = 256;

/// One server is given so long for an older snapshot; then the next one is asked, so that one that hangs delays others little.
const FETCH: Duration = Duration::from_secs(20);

/// A folder, and for which changes it is the datacenter's newest: the answer to `GET /v1/at/<w>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Available {
    /// The change that made the snapshot.
    pub sequence: Sequence,
    /// The snapshot.
    pub commit: CommitId,
    /// Its own folder, absolute.
    pub directory: PathBuf,
    /// The first change at which it is the newest: its own.
    pub from: Sequence,
    /// The last change at which it is known to be the newest.
    pub through: Sequence,
    /// This host's central sequence.
    pub central: Sequence,
}

/// Why there is no folder for a change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The host has nothing at all.
    #[error("nothing is exported on this host yet; `conf-local status` says what the agent waits for")]
    Nothing,
    /// Too many wait.
    #[error("{MOST_WAITING} others wait for a sequence already; try again in a moment")]
    Busy,
    /// The agent ends.
    #[error("the agent is stopping; ask again when it runs")]
    Stopping,
    /// The datacenter began later.
    #[error("the datacenter had no configuration as old as change {0}")]
    TooOld(Sequence),
    /// Nobody knows yet, or can be asked.
    #[error("change {change} is not known here in time: {missing}")]
    Late {
        /// Which one.
        change: Sequence,
        /// What is missing.
        missing: String,
    },
    /// It is known which snapshot it is, and nobody gives it.
    #[error("nobody has the snapshot of change {change}: {missing}")]
    Nobody {
        /// Which one.
        change: Sequence,
        /// What each said.
        missing: String,
    },
    /// This host's disk.
    #[error("{0}; run `conf-local verify --repair`")]
    Broken(String),
}

/// What is still missing, told when time is up.
#[derive(Clone, Debug)]
enum Missing {
    Answer(String),
    Snapshot(String),
}

/// What all share who ask for one change.
#[derive(Debug)]
struct Turn {
    mine: tokio::sync::Mutex<()>,
    missing: Mutex<Missing>,
}

impl Turn {
    fn missing(&self) -> MutexGuard<'_, Missing> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who finds and brings what is asked for.
#[derive(Debug)]
pub struct Demand {
    agent: Agent,
    repository: PathBuf,
    surrogates: Upstreams,
    central: Upstreams,
    waiting: Semaphore,
    /// One at a time for each change: who comes later finds the answer there.
    turns: Mutex<BTreeMap<Sequence, Weak<Turn>>>,
    /// Held while objects are fetched and used beside the one who writes the repository.
    fetching: Arc<tokio::sync::Mutex<()>>,
}

impl Demand {
    /// Answers from `agent`'s export and the repository, and asks these servers.
    pub fn new(
        agent: Agent,
        repository: PathBuf,
        fetching: Arc<tokio::sync::Mutex<()>>,
        surrogates: Upstreams,
        central: Upstreams,
    ) -> Self {
        let (waiting, turns) = (Semaphore::new(MOST_WAITING), Mutex::default());
        Demand { agent, repository, surrogates, central, waiting, turns, fetching }
    }

    /// The folder that was the newest at `change`, at the latest after `patience`.
    ///
    /// Cancel: dropping the future loses nothing; what was fetched by then is found by the next one.
    pub async fn at(&self, change: Sequence, patience: Duration) -> Result<Available, Unavailable> {
        if let Some(found) = self.exported(change).await? {
            return Ok(found);
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| Unavailable::Busy)?;
        let turn = self.turn(change);
        match timeout_at(Instant::now() + patience, self.bring(change, &turn)).await {
            Ok(done) => done,
            Err(_) => Err(match turn.missing().clone() {
                Missing::Answer(missing) => Unavailable::Late { change, missing },
                Missing::Snapshot(missing) => Unavailable::Nobody { change, missing },
            }),
        }
    }

    async fn bring(&self, change: Sequence, turn: &Turn) -> Result<Available, Unavailable> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let (mut liars, mut rounds) = (BTreeSet::new(), 0_u32);
        let _mine = turn.mine.lock().await;
        loop {
            if let Some(found) = self.exported(change).await? {
                return Ok(found);
            }
            let brought = match self.look(change).await? {
                Known::Kept { snapshot, through } => match self.keep(snapshot, through).await? {
                    Some(found) => return Ok(found),
                    // It went in this moment.
                    None => continue,
                },
                Known::TooOld => return Err(Unavailable::TooOld(change)),
                Known::Objects { snapshot, through } => {
                    let rendered = self.render(snapshot, through, None).await;
                    rendered.map(|()| Some((snapshot, through))).map_err(Missing::Snapshot)
                }
                Known::Nothing => self.ask_and_take(change, &mut liars).await?,
            };
            rounds += 1;
            let failed = match brought {
                // A folder that was kept before says nothing of what follows it: what was proven just now does.
                Ok(Some((snapshot, through))) => match self.keep(snapshot, through).await? {
                    Some(found) => return Ok(found),
                    None => false,
                },
                Ok(None) => false,
                Err(what) => {
                    *turn.missing() = what;
                    true
                }
            };
            // What was brought is found at the next look; if it is not, no haste will help.
            if failed || rounds > 3 {
                tokio::time::sleep(backoff.next_wait()).await;
            }
        }
    }

    /// Asks which snapshot it is, and brings that: an older one and up to which change it is the newest, or a newer one, which
    /// the next look will find.
    async fn ask_and_take(
        &self,
        change: Sequence,
        liars: &mut BTreeSet<String>,
    ) -> Result<Result<Option<(SnapshotAt, Sequence)>, Missing>, Unavailable> {
        let exported = self.now().ok_or(Unavailable::Nothing)?;
        let have = SnapshotAt { sequence: exported.sequence, commit: exported.commit };
        let (server, found) = match ask::ask(&self.surrogates, &self.central, &self.agent, change, have, liars).await {
            Asked::Found(server, found) => (server, found),
            Asked::TooOld => return Err(Unavailable::TooOld(change)),
            Asked::Nobody(words) => return Ok(Err(Missing::Answer(words))),
        };
        let (brought, older) = match found.next {
            // The newest that was named is wanted now; the chain between proves the rest.
            _ if found.at.sequence > have.sequence => (self.take(found.next.unwrap_or(found.at)).await, None),
            Some(next) if found.at == have => (self.take(next).await, None),
            Some(next) => {
                let through = known::before(next.sequence);
                (self.render(found.at, through, Some(next)).await, Some((found.at, through)))
            }
            None => (Ok(()), None),
        };
        if let Err(words) = brought {
            tracing::warn!(server, %change, reason = words, "what a server says of a change is not proven; others are asked");
            liars.insert(server.clone());
            return Ok(Err(Missing::Snapshot(format!("{server}: {words}"))));
        }
        if found.next.is_none() {
            // Nothing follows, as far as it knows: that is what a watermark says.
            self.agent.hear(Watermark { snapshot: found.at.sequence, central: found.central });
        }
        Ok(Ok(older))
    }

    /// Has a newer snapshot taken, as if the pointer had named it.
    async fn take(&self, snapshot: SnapshotAt) -> Result<(), String> {
        let pointer = Pointer { sequence: snapshot.sequence, commit: snapshot.commit };
        self.agent.take(pointer).await.unwrap_or_else(|| Err(Unavailable::Stopping.to_string()))
    }

    /// Fetches an older snapshot, where its objects are not here, and has it rendered beside the export.
    async fn render(&self, snapshot: SnapshotAt, through: Sequence, next: Option<SnapshotAt>) -> Result<(), String> {
        let fetching = Arc::clone(&self.fetching).lock_owned().await;
        let (want, depth) = next.map_or((snapshot.commit, Depth::One), |next| (next.commit, Depth::Two));
        self.fetch(Step { have: None, want, depth }).await?;
        let older = Older { snapshot, through, next, fetching };
        self.agent.render(older).await.unwrap_or_else(|| Err(Unavailable::Stopping.to_string()))
    }

    async fn fetch(&self, step: Step) -> Result<(), String> {
        let mut words = Vec::new();
        for server in self.surrogates.in_order().into_iter().chain(self.central.in_order()) {
            match timeout(FETCH, pack::fetch(&server, self.repository.clone(), step)).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => words.push(libconf::tier::daemon::chain(&error)),
                Err(_) => words.push(format!("{} gave no snapshot within {} s", server.url(), FETCH.as_secs())),
            }
        }
        Err(words.join("; "))
    }

    /// What is exported, where it covers the change.
    async fn exported(&self, change: Sequence) -> Result<Option<Available>, Unavailable> {
        let view = self.agent.view();
        let exported = view.exported.as_ref().ok_or(Unavailable::Nothing)?;
        if change < exported.sequence || change > view.status.central {
            return Ok(None);
        }
        let snapshot = SnapshotAt { sequence: exported.sequence, commit: exported.commit };
        self.keep(snapshot, view.status.central).await
    }

    /// What the disk knows of the change.
    async fn look(&self, change: Sequence) -> Result<Known, Unavailable> {
        let view = self.agent.view();
        let newest = view.exported.as_ref().ok_or(Unavailable::Nothing)?.clone();
        let (export, host, repository) =
            (view.status.export.clone(), view.status.host.clone(), self.repository.clone());
        if change >= newest.sequence {
            return Ok(Known::Nothing);
        }
        let looked = spawn_blocking(move || known::look(&export, &host, &repository, newest.commit, change));
        looked.await.map_err(|error| Unavailable::Broken(error.to_string()))
    }

    /// The answer, once the folder is sure to stay; nothing when it is gone.
    async fn keep(&self, snapshot: SnapshotAt, through: Sequence) -> Result<Option<Available>, Unavailable> {
        let view = self.agent.view();
        let (export, broken) = (view.status.export.clone(), Unavailable::Broken);
        let directory = export::directory(&export, snapshot.sequence);
        let asked = spawn_blocking(move || export::ask(&export, snapshot.sequence, SystemTime::now()));
        let asked = asked.await.map_err(|error| broken(error.to_string()))?;
        match asked.map_err(|error| Unavailable::Broken(format!("cannot keep {}: {error}", directory.display())))? {
            Asking::Kept(header) if header.commit == snapshot.commit => Ok(Some(Available {
                sequence: snapshot.sequence,
                commit: snapshot.commit,
                directory,
                from: snapshot.sequence,
                through,
                central: self.agent.view().status.central,
            })),
            Asking::Kept(_) | Asking::Gone => Ok(None),
        }
    }

    fn now(&self) -> Option<Arc<Exported>> {
        self.agent.view().exported.clone()
    }

    fn turn(&self, change: Sequence) -> Arc<Turn> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(&change).and_then(Weak::upgrade) {
            return turn;
        }
        let servers = self.surrogates.in_order().into_iter().chain(self.central.in_order());
        let servers: Vec<String> = servers.map(|server| server.url().to_string()).collect();
        let missing = Missing::Answer(format!("no answer yet from {}", servers.join(", ")));
        let turn = Arc::new(Turn { mine: tokio::sync::Mutex::default(), missing: Mutex::new(missing) });
        turns.insert(change, Arc::downgrade(&turn));
        turn
    }
}
