//! Fetching a snapshot's objects from a conf-slave, or else from conf-master.

use std::time::Duration;

use conf_core::{
    daemon::chain,
    git::{Depth, RepositoryPool, Step},
    upstream::{self, FetchError, Hedge, Upstream},
};
use libconf::name::CommitId;
use tokio::time::timeout_at;

use crate::{snapshot::SnapshotServers, state::Agent};

/// 5 s: if a fetch takes longer, the next server is asked too. The first good answer counts.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same for a first fetch, which brings a whole snapshot.
const PATIENCE_AT_FIRST: Duration = Duration::from_secs(60);

/// Why the wanted snapshot is not in place, and when to try again.
pub(crate) enum Failure {
    /// A server is away, and may be back in a moment.
    Soon(String),
    /// The cause takes longer, such as a full disk, or a snapshot that no server has.
    Later(String),
    /// This host's disk has no room for it.
    NoRoom(String),
    /// The repository on this host cannot be used.
    Repository(String),
    /// The snapshot can never be used.
    Never(String),
    /// An answer was corrupt: perhaps a snapshot that the fetch builds on is damaged here. May pass
    /// soon.
    Corrupt(String),
}

impl Failure {
    pub(crate) fn words(self) -> String {
        match self {
            Failure::Soon(words)
            | Failure::Later(words)
            | Failure::NoRoom(words)
            | Failure::Repository(words)
            | Failure::Never(words)
            | Failure::Corrupt(words) => words,
        }
    }
}

/// Asks conf-slaves in order, then conf-master, and the next one too if one is slow, within `limit`
/// if there is one. The fetch builds on the snapshot `have`.
pub(crate) async fn fetch(
    agent: &Agent,
    servers: &SnapshotServers,
    repository: RepositoryPool,
    have: Option<CommitId>,
    (want, depth): (CommitId, Depth),
    limit: Option<Duration>,
) -> Result<(), Failure> {
    let step = Step { have: have.filter(|have| *have != want), want, depth };
    let patience = if step.have.is_some() { PATIENCE } else { PATIENCE_AT_FIRST };
    let servers = servers.in_order();
    // Each server gets its turn within the limit.
    let turns = u32::try_from(servers.len()).unwrap_or(u32::MAX).saturating_add(1);
    let patience = limit.map_or(patience, |limit| patience.min(limit / turns));
    let hedge = Hedge::new(servers, patience, move |server| {
        let repository = repository.clone();
        async move { upstream::fetch(&server, repository, step).await }
    });
    let mut hedge = hedge.putting_slow_ones_last();
    let until = limit.map(|limit| tokio::time::Instant::now() + limit);
    let (mut any_away, mut corrupt, mut words) = (false, false, Vec::new());
    let describe = |words: &[String]| format!("snapshot {} cannot be fetched: {}", want.short(), words.join("; "));
    loop {
        // The first good answer counts. Questions that are still open then are dropped.
        let answer = match until {
            None => hedge.next().await,
            Some(until) => timeout_at(until, hedge.next()).await.map_err(|_| {
                words.push("no good answer in time".to_owned());
                Failure::Soon(describe(&words))
            })?,
        };
        let Some((server, result)) = answer else { break };
        let error = match result {
            Ok(fetched) => {
                let (wire_bytes, requests) = (fetched.wire_bytes, fetched.requests);
                tracing::debug!(server = %server.url(), wire_bytes, requests, "fetched");
                if requests > 0 {
                    set_reachable(agent, &server);
                }
                return Ok(());
            }
            Err(error) => error,
        };
        let reason = chain(&error);
        match error {
            FetchError::Repository { .. } if error.is_for_room() => return Err(Failure::NoRoom(reason)),
            FetchError::Repository { .. } => return Err(Failure::Repository(reason)),
            FetchError::NotFound { .. } => set_reachable(agent, &server),
            FetchError::Corrupt { .. } | FetchError::Unreachable(_) | FetchError::Refused(_) => {
                let is_corrupt = matches!(error, FetchError::Corrupt { .. });
                (corrupt, any_away) = (corrupt || is_corrupt, any_away || !is_corrupt);
                server.report(false);
                agent.set_away(server.url().as_str(), &reason);
            }
        }
        words.push(reason);
    }
    Err(match (corrupt, any_away) {
        (true, _) => Failure::Corrupt(describe(&words)),
        (false, true) => Failure::Soon(describe(&words)),
        (false, false) => Failure::Later(describe(&words)),
    })
}

fn set_reachable(agent: &Agent, server: &Upstream) {
    server.report(true);
    agent.set_back(server.url().as_str());
}
