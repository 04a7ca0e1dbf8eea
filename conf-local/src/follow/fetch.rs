//! Fetching a snapshot's objects from a conf-slave, or else from conf-master.

use std::{sync::Arc, time::Duration};

use conf_core::{
    daemon::chain,
    upstream::{
        Upstream, fetch as pack,
        fetch::{Depth, FetchError, Step},
        hedge::Hedge,
    },
};
use libconf::name::CommitId;
use tokio::time::timeout_at;

use crate::follow::worker::{Failure, Worker};

/// 5 s: if a fetch takes longer, the next server is asked too. The first good answer counts.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same for a first fetch, which brings a whole snapshot.
const PATIENCE_AT_FIRST: Duration = Duration::from_secs(60);

impl Worker<'_> {
    /// Asks conf-slaves in order, then conf-master, and the next one too if one is slow. A fetch with a `limit` is for
    /// a snapshot that only a server has named: if it fails, that does not suggest a damaged repository here.
    pub(crate) async fn fetch(&mut self, want: CommitId, limit: Option<Duration>) -> Result<(), Failure> {
        let repository = self.host().repository.pool.clone();
        let step = Step { have: self.last_have.filter(|have| *have != want), want, depth: Depth::One };
        let patience = if step.have.is_some() { PATIENCE } else { PATIENCE_AT_FIRST };
        let servers = self.sources.servers.in_order();
        // Each server gets its turn within the limit.
        let turns = u32::try_from(servers.len()).unwrap_or(u32::MAX).saturating_add(1);
        let patience = limit.map_or(patience, |limit| patience.min(limit / turns));
        let hedge = Hedge::new(servers, patience, move |server| {
            let repository = repository.clone();
            async move { pack::fetch(&server, repository, step).await }
        });
        let mut hedge = hedge.putting_slow_ones_last();
        let until = limit.map(|limit| tokio::time::Instant::now() + limit);
        let mut problems = Problems::default();
        loop {
            // The first good answer counts. Questions that are still open then are dropped.
            let answer = match until {
                None => hedge.next().await,
                Some(until) => timeout_at(until, hedge.next()).await.map_err(|_| {
                    problems.words.push("no good answer in time".to_owned());
                    Failure::Soon(problems.describe(want))
                })?,
            };
            let Some((server, result)) = answer else { break };
            if self.judge(&server, result, &mut problems)? {
                return Ok(());
            }
        }
        if problems.corrupt && limit.is_none() {
            // Perhaps a snapshot that the fetch builds on is damaged here.
            self.heal().await;
        }
        let words = problems.describe(want);
        if problems.any_away || problems.corrupt { Err(Failure::Soon(words)) } else { Err(Failure::Later(words)) }
    }

    /// Records the result of one server. True if it was good.
    fn judge(
        &self,
        server: &Arc<Upstream>,
        result: Result<pack::Fetched, FetchError>,
        problems: &mut Problems,
    ) -> Result<bool, Failure> {
        let name = server.url().to_string();
        let error = match result {
            Ok(fetched) => {
                tracing::debug!(server = name, wire_bytes = fetched.wire_bytes, requests = fetched.requests, "fetched");
                if fetched.requests > 0 {
                    server.report(true);
                    self.audience.agent.set_back(&name);
                }
                return Ok(true);
            }
            Err(error) => error,
        };
        let words = chain(&error);
        match error {
            FetchError::Repository { .. } => return Err(Failure::Later(words)),
            FetchError::NotFound { .. } => {
                server.report(true);
                self.audience.agent.set_back(&name);
            }
            FetchError::Corrupt { .. } => {
                problems.corrupt = true;
                server.report(false);
                self.audience.agent.set_away(&name, words.clone());
            }
            FetchError::Unreachable(_) | FetchError::Refused(_) => {
                problems.any_away = true;
                server.report(false);
                self.audience.agent.set_away(&name, words.clone());
            }
        }
        problems.words.push(words);
        Ok(false)
    }
}

/// The problems of one round of questions.
#[derive(Default)]
struct Problems {
    words: Vec<String>,
    any_away: bool,
    corrupt: bool,
}

impl Problems {
    fn describe(&self, want: CommitId) -> String {
        format!("snapshot {} cannot be fetched: {}", want.short(), self.words.join("; "))
    }
}
