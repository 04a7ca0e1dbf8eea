//! Bringing what a server has named, and seeing that it is what it was said to be.

use std::time::Duration;

use conf_core::{
    api::Pointer,
    daemon::chain,
    git::{Depth, Step},
    upstream::{self, Hedge},
};
use libconf::name::Sequence;
use tokio::{sync::OwnedRwLockReadGuard, time::timeout};

use crate::on_demand::{
    Demand, Missing, Short, Unavailable,
    ask::{Asked, Doubts, Found},
    known,
};
use crate::state::{Older, Undone};

/// Older snapshots that are fetched at once.
pub(crate) const MOST_FETCHES: usize = 4;

/// A server that takes longer for an older snapshot is not waited for alone.
const PATIENCE: Duration = Duration::from_secs(5);
/// And no longer than this at all.
const FETCH: Duration = Duration::from_secs(20);

impl Demand {
    /// Asks which snapshot it is, and brings that: an older one and up to which change it is the newest, or a newer one, which
    /// the next look will find.
    pub(crate) async fn ask_and_bring(
        &self,
        change: Sequence,
        doubts: &mut Doubts,
    ) -> Result<Option<(Pointer, Sequence)>, Short> {
        let exported = self.now().ok_or(Unavailable::Nothing)?;
        let have = Pointer { sequence: exported.sequence, commit: exported.commit };
        let (server, found) = match self.ask(change, have, doubts).await {
            Asked::Found(server, found) => (server, found),
            Asked::Nobody(words) => return Err(Missing::Answer(words).into()),
        };
        match self.follow(found, have).await {
            Ok(older) => match found {
                Found::TooOld { .. } => Err(Unavailable::TooOld(change).into()),
                Found::At { .. } | Found::Newest(_) => Ok(older),
            },
            Err(Undone::Wrong(words)) => {
                tracing::warn!(server, %change, reason = words, "what a server says of a change is not proven; others are asked");
                let missing = Missing::Snapshot(format!("{server}: {words}"));
                doubts.refute(server, words);
                Err(missing.into())
            }
            Err(Undone::Failed(words)) => {
                doubts.put_last(server);
                Err(Missing::Snapshot(words).into())
            }
        }
    }

    /// Does what an answer asks for, which proves it.
    async fn follow(&self, found: Found, have: Pointer) -> Result<Option<(Pointer, Sequence)>, Undone> {
        match found {
            Found::TooOld { first } => {
                let fetching = self.fetch(Step { have: None, want: first.commit, depth: Depth::One }).await?;
                self.agent.begins_with(first, fetching).await?;
            }
            // The newest that was named is wanted now; the chain between proves the rest.
            Found::At { at, next: Some(next) } if at.sequence >= have.sequence => self.take(next).await?,
            Found::At { at, next: Some(next) } => {
                let through = known::before(next.sequence);
                self.render(at, through, Some(next)).await?;
                return Ok(Some((at, through)));
            }
            Found::At { at, next: None } => self.take(at).await?,
            Found::Newest(watermark) => {
                if watermark.snapshot != have {
                    self.take(watermark.snapshot).await?;
                }
                self.agent.hear(watermark);
            }
        }
        Ok(None)
    }

    /// Has a newer snapshot taken, as if the pointer had named it.
    async fn take(&self, snapshot: Pointer) -> Result<(), Undone> {
        self.agent.take(Pointer { sequence: snapshot.sequence, commit: snapshot.commit }).await
    }

    /// Fetches an older snapshot, where its objects are not here, and has it rendered beside the export.
    pub(crate) async fn render(
        &self,
        snapshot: Pointer,
        through: Sequence,
        next: Option<Pointer>,
    ) -> Result<(), Undone> {
        let (want, depth) = next.map_or((snapshot.commit, Depth::One), |next| (next.commit, Depth::Two));
        let fetching = self.fetch(Step { have: None, want, depth }).await?;
        self.agent.render(Older { snapshot, through, next, fetching }).await
    }

    /// What keeps the fetched objects here while it is held.
    async fn fetch(&self, step: Step) -> Result<OwnedRwLockReadGuard<()>, Undone> {
        let stopping = |_| Undone::Failed(Unavailable::Stopping.to_string());
        let _one_of_few = self.fetches.acquire().await.map_err(stopping)?;
        if let Some(alone) = self.fetching.alone_when_due().await {
            self.agent.tidy(alone).await;
        }
        let fetching = self.fetching.enter().await;
        let repository = self.repository.clone();
        let servers = self.surrogates.in_order().into_iter().chain(self.central.in_order());
        let hedge = Hedge::new(servers, PATIENCE, move |server| {
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
        let mut hedge = hedge.putting_slow_ones_last();
        let mut words = Vec::new();
        while let Some((_, fetched)) = hedge.next().await {
            match fetched {
                Ok(()) => return Ok(fetching),
                Err(error) => words.push(error),
            }
        }
        Err(Undone::Failed(words.join("; ")))
    }
}
