//! Bringing the snapshot that a server has named, and verifying that the server was right.

use std::{sync::Arc, time::Duration};

use conf_core::{
    api::Pointer,
    daemon::chain,
    git::{Depth, RepositoryPool, Step},
    sign::TrustedKeys,
    upstream::{self, Hedge},
};
use libconf::name::Sequence;
use tokio::{
    sync::{OwnedRwLockReadGuard, Semaphore},
    time::timeout,
};

use crate::{
    on_demand::{
        ask::{Answer, Doubts},
        lookup::before,
        unavailable::Unavailable,
    },
    snapshot::{CollectionLock, SnapshotServers},
    state::{Agent, OlderSnapshot, RequestError, WriterRequest},
};

/// 4 older snapshots are fetched at once: each fetch holds a pack in memory.
pub(crate) const MOST_FETCHES: usize = 4;

/// 5 s: if a server takes longer for an older snapshot, the next one is asked too.
const PATIENCE: Duration = Duration::from_secs(5);
/// 20 s: then its answer is not awaited any more.
const FETCH: Duration = Duration::from_secs(20);

/// Finds out which snapshot is meant, and brings it.
pub(crate) struct Bringer {
    pub(crate) agent: Agent,
    pub(crate) repository: RepositoryPool,
    /// Held while objects are fetched and used, which the task that writes the repository does not
    /// know of.
    pub(crate) collection: Arc<CollectionLock>,
    pub(crate) servers: SnapshotServers,
    pub(crate) keys: TrustedKeys,
    pub(crate) fetches: Semaphore,
}

impl Bringer {
    /// Asks which snapshot it is, and brings it. Returns an older one with the last change for
    /// which it is the newest. `None` for a newer one, which the next lookup finds.
    pub(crate) async fn ask_and_bring(
        &self,
        change: Sequence,
        doubts: &mut Doubts,
    ) -> Result<Option<(Pointer, Sequence)>, Unavailable> {
        let have = self.agent.view().exported.as_ref().ok_or(Unavailable::Nothing)?.snapshot();
        let datacenter = self.agent.view().status.datacenter.clone();
        let asked = doubts.ask(&self.servers, (&datacenter, &self.keys), change, have).await;
        let (server, answer) = asked.map_err(|missing| Unavailable::Late { change, missing })?;
        match self.follow(answer, have).await {
            Ok(_) if matches!(answer, Answer::TooOld { .. }) => Err(Unavailable::TooOld(change)),
            Ok(older) => Ok(older),
            Err(RequestError::Wrong(words)) => {
                tracing::warn!(server, %change, reason = words, "a server's answer for a change is not proven; others are asked");
                let missing = format!("{server}: {words}");
                doubts.refute(server, words);
                Err(Unavailable::Nobody { change, missing })
            }
            Err(RequestError::Failed(missing)) => {
                doubts.put_last(server);
                Err(Unavailable::Nobody { change, missing })
            }
        }
    }

    /// Takes or renders the named snapshot, which proves the answer.
    async fn follow(&self, answer: Answer, have: Pointer) -> Result<Option<(Pointer, Sequence)>, RequestError> {
        match answer {
            Answer::TooOld { first } => {
                let guard = self.fetch(Step { have: None, want: first.commit, depth: Depth::One }).await?;
                self.agent.ask(|reply| WriterRequest::First { snapshot: first, guard, reply }).await?;
            }
            // The newest named snapshot is taken. The chain between proves the rest.
            Answer::At { at, next: Some(next) } if at.sequence >= have.sequence => self.take(next).await?,
            Answer::At { at, next: Some(next) } => {
                let through = before(next.sequence);
                self.render(at, through, Some(next)).await?;
                return Ok(Some((at, through)));
            }
            Answer::At { at, next: None } => self.take(at).await?,
            Answer::Newest(watermark) => {
                if watermark.snapshot != have {
                    self.take(watermark.snapshot).await?;
                }
                self.agent.record(watermark);
            }
        }
        Ok(None)
    }

    /// Has a newer snapshot taken. If it is not newer any more, that is no error.
    async fn take(&self, snapshot: Pointer) -> Result<(), RequestError> {
        self.agent.ask(|reply| WriterRequest::Take { snapshot, reply }).await
    }

    /// Fetches an older snapshot if its objects are not here, and has it rendered beside the
    /// export.
    pub(crate) async fn render(
        &self,
        snapshot: Pointer,
        through: Sequence,
        next: Option<Pointer>,
    ) -> Result<(), RequestError> {
        let (want, depth) = next.map_or((snapshot.commit, Depth::One), |next| (next.commit, Depth::Two));
        let guard = self.fetch(Step { have: None, want, depth }).await?;
        let older = OlderSnapshot { snapshot, through, next, guard };
        self.agent.ask(|reply| WriterRequest::Render { older, reply }).await
    }

    /// Fetches objects. The guard keeps them here while it is held.
    async fn fetch(&self, step: Step) -> Result<OwnedRwLockReadGuard<()>, RequestError> {
        let stopping = |_| RequestError::Failed(Unavailable::Stopping.to_string());
        let _one_of_few = self.fetches.acquire().await.map_err(stopping)?;
        if let Some(guard) = self.collection.collect_if_due().await {
            // There is nothing to do if the agent is stopping.
            let _ = self.agent.request(|reply| WriterRequest::Tidy { guard, reply }).await;
        }
        let guard = self.collection.fetch().await;
        let repository = self.repository.clone();
        let hedge = Hedge::new(self.servers.in_order(), PATIENCE, move |server| {
            let repository = repository.clone();
            async move {
                let Ok(fetched) = timeout(FETCH, upstream::fetch(&server, repository, step)).await else {
                    server.report(false);
                    return Err(format!("{} gave no snapshot within {} s", server.url(), FETCH.as_secs()));
                };
                if fetched.as_ref().is_ok_and(|fetched| fetched.requests > 0) {
                    server.report(true);
                }
                fetched.map(drop).map_err(|error| chain(&error))
            }
        });
        let mut hedge = hedge.putting_silent_ones_last();
        let mut words = Vec::new();
        while let Some((_, fetched)) = hedge.next().await {
            match fetched {
                Ok(()) => return Ok(guard),
                Err(error) => words.push(error),
            }
        }
        Err(RequestError::Failed(words.join("; ")))
    }
}
