//! Bringing a snapshot's objects: from a surrogate, or else the central repository.

use std::{sync::Arc, time::Duration};

use conf_core::{
    daemon::chain,
    git::{Depth, Step},
    upstream::{self, FetchError, Hedge, Upstream},
};
use libconf::name::CommitId;
use tokio::time::timeout_at;

use crate::follow::{Failure, Worker};

/// A step that takes longer is asked of the next server as well; the first answer counts.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same for a first fetch, which is long by nature.
const PATIENCE_AT_FIRST: Duration = Duration::from_secs(60);

impl Worker<'_> {
    /// Asks surrogates in order, then the central repository. One that is slow is not waited for alone. What is only wanted
    /// within a `limit` was named by a server alone, and is no reason to think that this repository is damaged.
    pub(crate) async fn fetch(&mut self, want: CommitId, limit: Option<Duration>) -> Result<(), Failure> {
        let repository = self.host().opened();
        let step = Step { have: self.last_have.filter(|have| *have != want), want, depth: Depth::One };
        let patience = if step.have.is_some() { PATIENCE } else { PATIENCE_AT_FIRST };
        let mut servers = self.sources.surrogates.in_order();
        servers.extend(self.sources.central.in_order());
        // Each has its turn within the limit.
        let turns = u32::try_from(servers.len()).unwrap_or(u32::MAX).saturating_add(1);
        let patience = limit.map_or(patience, |limit| patience.min(limit / turns));
        let hedge = Hedge::new(servers, patience, move |server| {
            let repository = repository.clone();
            async move { upstream::fetch(&server, repository, step).await }
        });
        let mut hedge = hedge.putting_slow_ones_last();
        let until = limit.map(|limit| tokio::time::Instant::now() + limit);
        let mut problems = Problems::default();
        loop {
            // Not the first answer but the first good one; those who are still asked then are dropped.
            let answer = match until {
                None => hedge.next().await,
                Some(until) => timeout_at(until, hedge.next()).await.map_err(|_| {
                    problems.words.push("no good answer in time".to_owned());
                    Failure::Soon(problems.told(want))
                })?,
            };
            let Some((server, result)) = answer else { break };
            if self.heard(&server, result, &mut problems)? {
                return Ok(());
            }
        }
        if problems.corrupt && limit.is_none() {
            // Perhaps what it builds on is damaged here.
            self.heal().await;
        }
        let words = problems.told(want);
        if problems.somebody_away || problems.corrupt { Err(Failure::Soon(words)) } else { Err(Failure::Later(words)) }
    }

    /// Takes note of one server's answer; true when it was good.
    fn heard(
        &self,
        server: &Arc<Upstream>,
        result: Result<upstream::Fetched, FetchError>,
        problems: &mut Problems,
    ) -> Result<bool, Failure> {
        let name = server.url().to_string();
        let error = match result {
            Ok(fetched) => {
                tracing::debug!(server = name, wire_bytes = fetched.wire_bytes, requests = fetched.requests, "fetched");
                if fetched.requests > 0 {
                    server.report(true);
                    self.audience.back(&name);
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
                self.audience.back(&name);
            }
            FetchError::Corrupt { .. } => {
                problems.corrupt = true;
                server.report(false);
                self.audience.away(&name, words.clone());
            }
            FetchError::Unreachable(_) | FetchError::Refused(_) => {
                problems.somebody_away = true;
                server.report(false);
                self.audience.away(&name, words.clone());
            }
        }
        problems.words.push(words);
        Ok(false)
    }
}

/// What one round of asking has met.
#[derive(Default)]
struct Problems {
    words: Vec<String>,
    somebody_away: bool,
    corrupt: bool,
}

impl Problems {
    fn told(&self, want: CommitId) -> String {
        format!("snapshot {} cannot be fetched: {}", want.short(), self.words.join("; "))
    }
}
