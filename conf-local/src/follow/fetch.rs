//! Fetching a snapshot's objects from a conf-slave, or else from conf-master.

use std::time::Duration;

use conf_core::{
    daemon::chain,
    git::{Depth, RepositoryPool, Step},
    template,
    upstream::{self, FetchError, Fetched, Hedge, Upstream, UpstreamError},
};
use libconf::name::CommitId;
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    clock::random_up_to,
    follow::{
        candidates::Reason,
        rivals::{Rivals, Worth},
    },
    snapshot::SnapshotServers,
    state::Agent,
};

/// 1 s, and up to half of it more: if an answer does not go on for so long, the next server is
/// asked too. The first good answer counts.
const PATIENCE: Duration = Duration::from_secs(1);
/// 3 s: the same for a first fetch, which brings a whole snapshot.
const PATIENCE_WITH_ALL: Duration = Duration::from_secs(3);
/// 20 s before the first part of its answer, since Git counts the objects first.
const PATIENCE_AT_FIRST: Duration = Duration::from_secs(20);

/// 2 s: after so long a silence another snapshot that is named is fetched in place of this one.
const OVERTAKING: Duration = Duration::from_secs(2);
/// 1 s: after so long the next server is asked too where another snapshot contradicts this one and
/// is worth as much: perhaps the server is wrong, and not who named the snapshot.
const HURRY: Duration = Duration::from_secs(1);
/// 3 s: after so long that other one is fetched, whatever still comes of this one. One that is
/// worth more takes its place at once, and later each time that attempts end for another one: what
/// is right may be slow, and its source have been wrong once.
const CONTRADICTED: Duration = Duration::from_secs(3);
/// 10 s: then any other one that may be taken is fetched beside this one. This one may be slow or
/// without an end, which nobody can tell; the first one that is here is looked at.
const BESIDE: Duration = Duration::from_secs(10);
/// 16: each time that another one takes the place of one that does not come, the next one gets
/// twice the time, so that a slow one comes to an end; up to that many times as much.
const MOST_TIMES: u32 = 16;

/// Why the wanted snapshot is not in place, and when to try again.
pub(crate) enum Failure {
    /// A server is away, and may be back in a moment.
    Soon(String),
    /// The cause takes longer, such as a full disk.
    Later(String),
    /// No server has the snapshot.
    Nowhere(String),
    /// This host's disk has no room for it.
    NoRoom(String),
    /// The repository on this host cannot be used.
    Repository(String),
    /// The snapshot can never be used.
    Never(String),
    /// The same: it is not signed for this datacenter by a key that is trusted here. Where another
    /// key is trusted later, it is tried again.
    Untrusted(String),
    /// No server answers in time, and another snapshot is named by now.
    Overtaken,
    /// An answer was corrupt: perhaps a snapshot that the fetch builds on is damaged here. May pass
    /// soon.
    Corrupt(String),
}

impl Failure {
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Failure::Never(_) | Failure::Untrusted(_) => Reason::Never,
            Failure::Nowhere(_) => Reason::Nowhere,
            _ => Reason::Passing,
        }
    }

    pub(crate) fn words(self) -> String {
        match self {
            Failure::Soon(words)
            | Failure::Later(words)
            | Failure::Nowhere(words)
            | Failure::NoRoom(words)
            | Failure::Repository(words)
            | Failure::Never(words)
            | Failure::Untrusted(words)
            | Failure::Corrupt(words) => words,
            Failure::Overtaken => "another snapshot is named".to_owned(),
        }
    }
}

/// Starts the process that fills templates while the network is waited for, if there are any.
pub(crate) async fn prepare_templates() {
    if template::was_asked() {
        // What cannot be started now, the first template starts.
        let _ = spawn_blocking(template::prepare).await;
    }
}

/// Asks conf-slaves in order, then conf-master, and the next one too if one is silent, within
/// `limit` if there is one. The fetch builds on the snapshot `have`. It ends early for one of its
/// `rivals`.
pub(crate) async fn fetch(
    agent: &Agent,
    servers: &SnapshotServers,
    repository: RepositoryPool,
    have: Option<CommitId>,
    (want, depth): (CommitId, Depth),
    limit: Option<Duration>,
    rivals: Option<Rivals>,
) -> Result<(), Failure> {
    let step = Step { have: have.filter(|have| *have != want), want, depth };
    let mut hedge = ask_in_order(agent, servers, repository.clone(), step, limit);
    let times = rivals.as_ref().map_or(1, |rivals| (1_u32 << rivals.times.min(31)).min(MOST_TIMES));
    let rivals = rivals.as_ref();
    let mut newer = std::pin::pin!(any(rivals, want));
    let mut hurry = std::pin::pin!(foreign(rivals, want, HURRY, Worth::AsMuch));
    let mut contradicted = std::pin::pin!(contradicted(rivals, want, times));
    let mut beside = std::pin::pin!(beside(agent, servers, repository, step, rivals));
    let (mut is_newer, mut in_hurry) = (false, false);
    let until = limit.map(|limit| Instant::now() + limit);
    let (mut any_away, mut corrupt, mut words) = (false, false, Vec::new());
    let describe = |words: &[String]| format!("snapshot {} cannot be fetched: {}", want.short(), words.join("; "));
    loop {
        // The first good answer counts. Questions that are still open then are dropped.
        let answer = tokio::select! {
            answer = hedge.next() => answer,
            () = &mut newer, if !is_newer => {
                is_newer = true;
                hedge.give_up_after(OVERTAKING * times);
                continue;
            }
            () = &mut hurry, if !in_hurry => {
                in_hurry = true;
                hedge.hurry();
                continue;
            }
            () = &mut contradicted => {
                // Those that still bring this one would be asked first for the next one.
                hedge.report_late();
                return Err(Failure::Overtaken);
            }
            () = &mut beside => {
                hedge.report_late();
                return Err(Failure::Overtaken);
            }
            () = over(until) => {
                words.push("no good answer in time".to_owned());
                return Err(Failure::Soon(describe(&words)));
            }
        };
        let Some((server, result)) = answer else {
            if is_newer {
                return Err(Failure::Overtaken);
            }
            if words.is_empty() {
                (any_away, words) = (true, vec!["no server answers".to_owned()]);
            }
            break;
        };
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
        let is_of_server = note(agent, &server, &error)?;
        let is_corrupt = matches!(error, FetchError::Corrupt { .. });
        (corrupt, any_away) = (corrupt || is_corrupt, any_away || is_of_server && !is_corrupt);
        words.push(chain(&error));
    }
    Err(match (corrupt, any_away) {
        (true, _) => Failure::Corrupt(describe(&words)),
        (false, true) => Failure::Soon(describe(&words)),
        (false, false) => Failure::Nowhere(describe(&words)),
    })
}

/// Shows what a server's error says of it. True if it is the server's; an error of this host's own
/// repository ends the fetch.
fn note(agent: &Agent, server: &Upstream, error: &FetchError) -> Result<bool, Failure> {
    let reason = chain(error);
    match error {
        FetchError::Repository { .. } if error.is_for_room() => Err(Failure::NoRoom(reason)),
        FetchError::Repository { .. } => Err(Failure::Repository(reason)),
        FetchError::NotFound { .. } => {
            set_reachable(agent, server);
            Ok(false)
        }
        // Nobody's copy of it is another one.
        FetchError::Unwanted(_) => Err(Failure::Untrusted(reason)),
        // It is asked again later, and nothing is wrong with it.
        FetchError::Refused(_) if error.is_busy() => {
            agent.set_away(server.url().as_str(), &reason);
            Ok(true)
        }
        FetchError::Corrupt { .. }
        | FetchError::TooLarge { .. }
        | FetchError::Unreachable(_)
        | FetchError::Refused(_) => {
            server.report(false);
            agent.set_away(server.url().as_str(), &reason);
            Ok(true)
        }
    }
}

/// Asks all servers for the step, one after the other, and shows those that are silent.
fn ask_in_order(
    agent: &Agent,
    servers: &SnapshotServers,
    repository: RepositoryPool,
    step: Step,
    limit: Option<Duration>,
) -> Hedge<Result<Fetched, FetchError>> {
    let is_step = step.have.is_some();
    let (patience, at_first) = if is_step { (PATIENCE, PATIENCE) } else { (PATIENCE_WITH_ALL, PATIENCE_AT_FIRST) };
    // A server that is slow for all hosts must not send all of them on at one moment.
    let jitter = random_up_to(patience / 2);
    let (patience, at_first) = (patience + jitter, at_first + jitter);
    let servers = servers.in_order();
    // Each server gets its turn within the limit.
    let turns = u32::try_from(servers.len()).unwrap_or(u32::MAX).saturating_add(1);
    let within = |patience: Duration| limit.map_or(patience, |limit| patience.min(limit / turns));
    let (patience, at_first) = (within(patience), within(at_first));
    let hedge = Hedge::new(servers, patience, move |server| {
        let repository = repository.clone();
        async move { upstream::fetch(&server, repository, step).await }
    });
    hedge.putting_silent_ones_last().waiting_longer_at_first(at_first).reporting({
        let agent = agent.clone();
        move |silent, after| {
            let words = UpstreamError::Silent { url: silent.url().to_string(), after };
            agent.set_away(silent.url().as_str(), &words.to_string());
        }
    })
}

async fn over(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

async fn any(rivals: Option<&Rivals>, want: CommitId) {
    match rivals {
        Some(rivals) => rivals.any(want).await,
        None => std::future::pending().await,
    }
}

/// Waits until another snapshot takes the turn of this one.
async fn contradicted(rivals: Option<&Rivals>, want: CommitId, times: u32) {
    tokio::select! {
        () = foreign(rivals, want, HURRY * (times - 1), Worth::More) => {}
        () = foreign(rivals, want, CONTRADICTED * times, Worth::AsMuch) => {}
    }
}

/// Fetches the others, one after the other, until one is here. Each has its time, and twice as much
/// when all had one.
async fn beside(
    agent: &Agent,
    servers: &SnapshotServers,
    repository: RepositoryPool,
    step: Step,
    rivals: Option<&Rivals>,
) {
    let Some(rivals) = rivals else { return std::future::pending().await };
    let mut turns = 0;
    loop {
        sleep(BESIDE).await;
        let others = rivals.foreign(step.want, Worth::Any).await;
        let limit = BESIDE * (1_u32 << (turns / others.len()).min(10));
        let want = others[turns % others.len()].commit;
        turns += 1;
        let other = Step { have: step.have.filter(|have| *have != want), want, ..step };
        let mut hedge = ask_in_order(agent, servers, repository.clone(), other, Some(limit));
        let fetched = async {
            while let Some((_, answer)) = hedge.next().await {
                if answer.is_ok() {
                    return true;
                }
            }
            false
        };
        if timeout(limit, fetched).await.unwrap_or(false) {
            return;
        }
    }
}

async fn foreign(rivals: Option<&Rivals>, want: CommitId, after: Duration, worth: Worth) {
    match rivals {
        Some(rivals) => {
            sleep(after).await;
            drop(rivals.foreign(want, worth).await);
        }
        None => std::future::pending().await,
    }
}

fn set_reachable(agent: &Agent, server: &Upstream) {
    server.report(true);
    agent.set_back(server.url().as_str());
}
