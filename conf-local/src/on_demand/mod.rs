//! Sequences on demand: the folder that was this datacenter's newest at a change, for operations that are pinned to it.
//!
//! In order: what is exported; what is kept or can be made from the repository (`known`); else conf-slave and then
//! conf-master are asked which snapshot it is (`ask`). A newer one than the exported is taken as if the pointer had named it;
//! an older one is fetched and rendered beside the export (`bring`). What was asked for is kept for the whole time of the
//! retention.
//!
//! Always true:
//! - An answer is proven: by the chain of what this host has verified, by the signed snapshot that follows, or, where none
//!   follows, by a watermark, signed too. A server whose answer fails its proof is not believed again for this change.
//! - That there was nothing so old is proven too: by the signed snapshot that follows none.
//! - What fails on this host, or on the way, is no answer and nobody's lie: it is tried again.
//! - `current` is never touched by an older snapshot.

mod ask;
mod bring;
mod callers;
mod known;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use conf_core::{api::Pointer, git::RepositoryPool, retry::Backoff, sign::TrustedKeys, upstream::Upstreams};
use libconf::name::{CommitId, Sequence};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Semaphore, watch},
    task::spawn_blocking,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::on_demand::{
    ask::Doubts,
    callers::{Caller, Callers, MOST_OF_USER, MOST_WAITING},
    known::Known,
};
use crate::{
    export::{self, Asking},
    snapshot::fetching::Fetching,
    state::{Agent, Exported},
};

/// Looks that may follow each other at once: what was brought is found at the next one; if it is not, no haste will help.
const AT_ONCE: u32 = 3;

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
    #[error(
        "too many wait for a sequence already: {MOST_WAITING}, or {MOST_OF_USER} of one user; try again in a moment"
    )]
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
    /// This host's disk failed until time was up.
    #[error("{0}; run `conf-local verify --repair`")]
    Broken(String),
}

/// What is still missing, told when time is up.
#[derive(Clone, Debug)]
enum Missing {
    /// From servers.
    Answer(String),
    /// What they have named.
    Snapshot(String),
    /// What is on this host's disk, as it should be.
    Disk(String),
}

/// Why one attempt did not find the folder.
enum Short {
    /// No other attempt will.
    Final(Unavailable),
    /// The next one may.
    ForNow(Missing),
}

impl From<Unavailable> for Short {
    fn from(error: Unavailable) -> Self {
        match error {
            // A disk that fails now may not fail at the next try.
            Unavailable::Broken(words) => Short::ForNow(Missing::Disk(words)),
            other => Short::Final(other),
        }
    }
}

impl From<Missing> for Short {
    fn from(missing: Missing) -> Self {
        Short::ForNow(missing)
    }
}

/// Whether the folder is here.
enum AtHand {
    Folder(Available),
    /// What the disk knows of the change.
    Not(Known),
}

/// What all share who ask for one change.
#[derive(Clone, Debug)]
struct Turn {
    missing: Missing,
    done: Option<Result<Available, Unavailable>>,
}

/// Who finds and brings what is asked for.
#[derive(Debug)]
pub struct Demand {
    agent: Agent,
    repository: RepositoryPool,
    surrogates: Upstreams,
    central: Upstreams,
    keys: TrustedKeys,
    callers: Callers,
    /// One for each change that is being brought: who comes later waits for the same.
    turns: Mutex<BTreeMap<Sequence, watch::Receiver<Turn>>>,
    /// Entered while objects are fetched and used beside the one who writes the repository.
    fetching: Arc<Fetching>,
    fetches: Semaphore,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Demand {
    /// Answers from `agent`'s export and the repository, and asks these servers, until `stop`; believes what `keys` signed.
    pub fn new(
        agent: Agent,
        repository: RepositoryPool,
        fetching: Arc<Fetching>,
        (surrogates, central): (Upstreams, Upstreams),
        keys: TrustedKeys,
        stop: CancellationToken,
    ) -> Self {
        let (callers, turns, fetches) = (Callers::default(), Mutex::default(), Semaphore::new(bring::MOST_FETCHES));
        let tasks = TaskTracker::new();
        Demand { agent, repository, surrogates, central, keys, callers, turns, fetching, fetches, tasks, stop }
    }

    /// The folder that was the newest at `change`, at the latest after `patience`. Each `user` has a share of those who may wait.
    ///
    /// Cancel: dropping the future loses nothing; an attempt that is under way is ended for whoever asks next.
    pub async fn at(
        self: &Arc<Self>,
        change: Sequence,
        patience: Duration,
        user: Option<u32>,
    ) -> Result<Available, Unavailable> {
        // What is at hand is there for those too who cannot wait.
        match self.at_hand(change).await {
            Ok(AtHand::Folder(found)) => return Ok(found),
            Err(Unavailable::Nothing) => return Err(Unavailable::Nothing),
            Ok(AtHand::Not(_)) | Err(_) => {}
        }
        let caller = Arc::new(self.callers.enter(user).ok_or(Unavailable::Busy)?);
        let mut turn = self.turn(change, &caller);
        // That time is up, and that its task ended, is seen in what was said last.
        let _ = timeout(patience, turn.wait_for(|turn| turn.done.is_some())).await;
        let Turn { missing, done } = turn.borrow().clone();
        done.unwrap_or(Err(match missing {
            Missing::Answer(missing) => Unavailable::Late { change, missing },
            Missing::Snapshot(missing) => Unavailable::Nobody { change, missing },
            Missing::Disk(missing) => Unavailable::Broken(missing),
        }))
    }

    /// Waits for everything that is under way, once it was told to stop.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Joins those who ask for this change already, or begins to bring it.
    fn turn(self: &Arc<Self>, change: Sequence, caller: &Arc<Caller>) -> watch::Receiver<Turn> {
        let mut turns = self.turns();
        if let Some(turn) = turns.get(&change) {
            return turn.clone();
        }
        let servers = self.surrogates.in_order().into_iter().chain(self.central.in_order());
        let servers: Vec<String> = servers.map(|server| server.url().to_string()).collect();
        let missing = Missing::Answer(format!("no answer yet from {}", servers.join(", ")));
        let (say, turn) = watch::channel(Turn { missing, done: None });
        turns.insert(change, turn.clone());
        // Counted as its first caller's own, however soon that one goes.
        let (demand, caller) = (Arc::clone(self), Arc::clone(caller));
        self.tasks.spawn(async move {
            let done = tokio::select! {
                done = demand.bring(change, &say) => done,
                () = demand.stop.cancelled() => Some(Err(Unavailable::Stopping)),
            };
            if done.is_some() {
                demand.turns().remove(&change);
                say.send_modify(|turn| turn.done = done);
            }
            drop(caller);
        });
        turn
    }

    fn turns(&self) -> MutexGuard<'_, BTreeMap<Sequence, watch::Receiver<Turn>>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries until it is found. Nothing when nobody waits for it any more: then its entry is gone too.
    async fn bring(&self, change: Sequence, say: &watch::Sender<Turn>) -> Option<Result<Available, Unavailable>> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let (mut doubts, mut looks) = (Doubts::default(), 0);
        loop {
            looks += 1;
            match self.attempt(change, &mut doubts).await {
                Ok(Some(found)) => return Some(Ok(found)),
                Ok(None) if looks <= AT_ONCE => continue,
                Ok(None) => {
                    let words = "what was brought is not found on this host's disk again";
                    say.send_modify(|turn| turn.missing = Missing::Disk(words.to_owned()));
                }
                Err(Short::Final(error)) => return Some(Err(error)),
                Err(Short::ForNow(missing)) => say.send_modify(|turn| turn.missing = missing),
            }
            tokio::time::sleep(backoff.next_wait()).await;
            // Under the lock, so that nobody joins what is ending. The other one is the entry itself.
            let mut turns = self.turns();
            if say.receiver_count() <= 1 {
                turns.remove(&change);
                return None;
            }
        }
    }

    /// One look, and one try to bring what it did not find. Nothing: what was brought is found at the next look.
    async fn attempt(&self, change: Sequence, doubts: &mut Doubts) -> Result<Option<Available>, Short> {
        let known = match self.at_hand(change).await? {
            AtHand::Folder(found) => return Ok(Some(found)),
            AtHand::Not(known) => known,
        };
        // A folder that was kept before says nothing of what follows it: what was proven just now does.
        let (snapshot, through) = match known {
            // It went in this moment.
            Known::Kept { .. } => return Ok(None),
            Known::TooOld => return Err(Short::Final(Unavailable::TooOld(change))),
            Known::Objects { snapshot, through } => {
                let rendered = self.render(snapshot, through, None).await;
                rendered.map_err(|undone| Missing::Snapshot(undone.to_string()))?;
                (snapshot, through)
            }
            Known::Nothing => match self.ask_and_bring(change, doubts).await? {
                Some(older) => older,
                None => return Ok(None),
            },
        };
        Ok(self.keep(snapshot, through).await?)
    }

    /// The folder, where it is exported or kept.
    async fn at_hand(&self, change: Sequence) -> Result<AtHand, Unavailable> {
        if let Some(found) = self.exported(change).await? {
            return Ok(AtHand::Folder(found));
        }
        let known = self.look(change).await?;
        if let Known::Kept { snapshot, through } = known
            && let Some(found) = self.keep(snapshot, through).await?
        {
            return Ok(AtHand::Folder(found));
        }
        Ok(AtHand::Not(known))
    }

    /// What is exported, where it covers the change.
    async fn exported(&self, change: Sequence) -> Result<Option<Available>, Unavailable> {
        let view = self.agent.view();
        let exported = view.exported.as_ref().ok_or(Unavailable::Nothing)?;
        if change < exported.sequence || change > view.status.central {
            return Ok(None);
        }
        let snapshot = Pointer { sequence: exported.sequence, commit: exported.commit };
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
    async fn keep(&self, snapshot: Pointer, through: Sequence) -> Result<Option<Available>, Unavailable> {
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
}
