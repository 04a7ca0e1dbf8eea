//! Finding and bringing the snapshot of a change, once for all callers that ask for it.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use conf_core::{api::Pointer, git::RepositoryPool, retry::Backoff, sign::TrustedKeys};
use libconf::name::{CommitId, Sequence};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Semaphore, watch},
    task::spawn_blocking,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    export,
    on_demand::{
        ask::Doubts,
        bring::{Bringer, MOST_FETCHES},
        callers::{Caller, Callers},
        lookup::{self, Lookup},
        unavailable::Unavailable,
    },
    snapshot::{CollectionLock, SnapshotServers},
    state::Agent,
};

/// 3 lookups without a pause: the next one finds what was brought. If it does not, haste does not
/// help.
const AT_ONCE: u32 = 3;

/// A folder, and the changes for which it is the datacenter's newest: the answer to `GET
/// /v1/at/<w>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Available {
    /// The change that made the snapshot.
    sequence: Sequence,
    commit: CommitId,
    /// Its own folder, absolute.
    directory: PathBuf,
    /// The first change for which it is the newest: its own.
    from: Sequence,
    /// The last change for which it is known to be the newest.
    through: Sequence,
    /// This host's central sequence.
    central: Sequence,
}

/// Whether the folder is on this host.
enum AtHand {
    Folder(Available),
    /// What the disk knows about the change.
    Not(Lookup),
}

/// The state that all callers for one change share.
#[derive(Clone)]
struct Turn {
    /// Until it is done: what is still missing.
    answer: Result<Available, Unavailable>,
    done: bool,
}

/// Finds and brings the snapshots that callers ask for.
pub struct Demand {
    bringer: Bringer,
    callers: Callers,
    /// One for each change that is being brought. Later callers wait for the same.
    turns: Mutex<BTreeMap<Sequence, watch::Receiver<Turn>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Demand {
    /// Answers from the agent's export and the repository, and asks these servers, until `stop`.
    /// Trusts what `keys` have signed.
    pub fn new(
        agent: Agent,
        repository: RepositoryPool,
        collection: Arc<CollectionLock>,
        servers: SnapshotServers,
        keys: TrustedKeys,
        stop: CancellationToken,
    ) -> Self {
        let fetches = Semaphore::new(MOST_FETCHES);
        let bringer = Bringer { agent, repository, collection, servers, keys, fetches };
        let (callers, turns, tasks) = (Callers::default(), Mutex::default(), TaskTracker::new());
        Demand { bringer, callers, turns, tasks, stop }
    }

    /// Returns the folder that was the newest at `change`, within `patience`. The number of waiting
    /// callers is bounded, for each `user` too.
    ///
    /// Cancel: dropping the future loses nothing. The next caller gets the result of a running
    /// attempt.
    pub(crate) async fn at(
        self: &Arc<Self>,
        change: Sequence,
        patience: Duration,
        user: Option<u32>,
    ) -> Result<Available, Unavailable> {
        // A folder that is here is for callers too that cannot wait.
        match self.at_hand(change).await {
            Ok(AtHand::Folder(found)) => return Ok(found),
            Err(Unavailable::Nothing) => return Err(Unavailable::Nothing),
            Ok(AtHand::Not(_)) | Err(_) => {}
        }
        let caller = Arc::new(self.callers.enter(user).ok_or(Unavailable::Busy)?);
        let mut turn = self.turn(change, &caller);
        // If the time is up, or the task ended, the last state says why there is no folder.
        let _ = timeout(patience, turn.wait_for(|turn| turn.done)).await;
        let turn = turn.borrow();
        turn.answer.clone()
    }

    /// Waits for everything that runs, once it was told to stop.
    pub(crate) async fn stopped(&self) {
        self.stop.cancelled().await;
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Joins the callers that ask for this change already, or begins to bring it.
    fn turn(self: &Arc<Self>, change: Sequence, caller: &Arc<Caller>) -> watch::Receiver<Turn> {
        let mut turns = self.turns.lock();
        if let Some(turn) = turns.get(&change) {
            return turn.clone();
        }
        let servers: Vec<String> =
            self.bringer.servers.in_order().iter().map(|server| server.url().to_string()).collect();
        let missing = format!("no answer yet from {}", servers.join(", "));
        let (state, turn) = watch::channel(Turn { answer: Err(Unavailable::Late { change, missing }), done: false });
        turns.insert(change, turn.clone());
        // Counts for its first caller, even if that one goes.
        let (demand, caller) = (Arc::clone(self), Arc::clone(caller));
        self.tasks.spawn(async move {
            let answer = tokio::select! {
                answer = demand.bring(change, &state) => answer,
                () = demand.stop.cancelled() => Some(Err(Unavailable::Stopping)),
            };
            if let Some(answer) = answer {
                demand.turns.lock().remove(&change);
                state.send_replace(Turn { answer, done: true });
            }
            drop(caller);
        });
        turn
    }

    /// Tries until the folder is found. `None` if no caller waits for it any more: then its entry
    /// is gone too.
    async fn bring(&self, change: Sequence, state: &watch::Sender<Turn>) -> Option<Result<Available, Unavailable>> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let (mut doubts, mut attempts) = (Doubts::default(), 0);
        loop {
            attempts += 1;
            let missing = match self.attempt(change, &mut doubts).await {
                Ok(Some(found)) => return Some(Ok(found)),
                Ok(None) if attempts <= AT_ONCE => continue,
                Ok(None) => Unavailable::Broken("the snapshot was brought, but is not on this host's disk".to_owned()),
                Err(error) if error.is_passing() => error,
                Err(error) => return Some(Err(error)),
            };
            state.send_modify(|turn| turn.answer = Err(missing));
            tokio::time::sleep(backoff.next_wait()).await;
            // Under the lock, so that no caller joins an attempt that ends. The entry itself is one
            // receiver.
            let mut turns = self.turns.lock();
            if state.receiver_count() <= 1 {
                turns.remove(&change);
                return None;
            }
        }
    }

    /// Looks once, and tries once to bring what is missing. `None`: the next attempt finds what was
    /// brought.
    async fn attempt(&self, change: Sequence, doubts: &mut Doubts) -> Result<Option<Available>, Unavailable> {
        let lookup = match self.at_hand(change).await? {
            AtHand::Folder(found) => return Ok(Some(found)),
            AtHand::Not(lookup) => lookup,
        };
        // A folder that was kept before says nothing about what follows it. What was just proven
        // does.
        let (snapshot, through) = match lookup {
            // It was removed at this moment.
            Lookup::Kept { .. } => return Ok(None),
            Lookup::TooOld => return Err(Unavailable::TooOld(change)),
            Lookup::Objects { snapshot, through } => {
                let rendered = self.bringer.render(snapshot, through, None).await;
                rendered.map_err(|error| Unavailable::Nobody { change, missing: error.to_string() })?;
                (snapshot, through)
            }
            Lookup::Unknown => match self.bringer.ask_and_bring(change, doubts).await? {
                Some(older) => older,
                None => return Ok(None),
            },
        };
        self.keep(snapshot, through).await
    }

    /// Returns the folder if it is exported or kept.
    async fn at_hand(&self, change: Sequence) -> Result<AtHand, Unavailable> {
        if let Some(found) = self.exported(change).await? {
            return Ok(AtHand::Folder(found));
        }
        let lookup = self.look(change).await?;
        if let Some((last, first)) = self.bringer.keys.gap(change)
            // A folder of the history that was replaced is kept for those who began with it.
            && !matches!(lookup, Lookup::Kept { snapshot, .. } if snapshot.sequence > last)
        {
            return Err(Unavailable::Replaced { change, last, first });
        }
        if let Lookup::Kept { snapshot, through } = lookup
            && let Some(found) = self.keep(snapshot, through).await?
        {
            return Ok(AtHand::Folder(found));
        }
        Ok(AtHand::Not(lookup))
    }

    /// Returns the exported folder if it covers the change.
    async fn exported(&self, change: Sequence) -> Result<Option<Available>, Unavailable> {
        let view = self.bringer.agent.view();
        let exported = view.exported.as_ref().ok_or(Unavailable::Nothing)?;
        if change < exported.sequence || change > view.status.central {
            return Ok(None);
        }
        self.keep(exported.snapshot(), view.status.central).await
    }

    /// Returns what the disk knows about the change.
    async fn look(&self, change: Sequence) -> Result<Lookup, Unavailable> {
        let view = self.bringer.agent.view();
        let newest = view.exported.as_ref().ok_or(Unavailable::Nothing)?.snapshot();
        if change >= newest.sequence {
            return Ok(Lookup::Unknown);
        }
        let repository = self.bringer.repository.clone();
        let found = spawn_blocking(move || {
            lookup::look(&view.status.export, &view.status.host, &repository, newest.commit, change)
        });
        found.await.map_err(|error| Unavailable::Broken(error.to_string()))
    }

    /// Returns the folder once it is sure to stay; `None` if it is gone.
    async fn keep(&self, snapshot: Pointer, through: Sequence) -> Result<Option<Available>, Unavailable> {
        let view = self.bringer.agent.view();
        let Pointer { sequence, commit } = snapshot;
        let directory = export::directory(&view.status.export, sequence);
        let renewed = spawn_blocking(move || export::renew(&view.status.export, sequence, SystemTime::now())).await;
        let header = renewed
            .map_err(|error| Unavailable::Broken(error.to_string()))?
            .map_err(|error| Unavailable::Broken(format!("cannot keep {}: {error}", directory.display())))?;
        let central = self.bringer.agent.view().status.central;
        let available = Available { sequence, commit, directory, from: sequence, through, central };
        Ok(header.filter(|header| header.commit == commit).map(|_| available))
    }
}
