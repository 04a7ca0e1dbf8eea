//! Listening to a conf-slave's own stream of events, which names the pointer as Consul does.

use std::{sync::Arc, time::Duration};

use conf_core::{
    api::{FreshnessEvent, HistoryEvent, KeysEvent, Pointer, SnapshotEvent},
    daemon::chain,
    freshness::Moment,
    retry::{Backoff, with_jitter},
    upstream::{Event, Events, Upstream, UpstreamError},
};
use http::StatusCode;
use libconf::name::{CommitId, Sequence};
use serde::Deserialize;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    follow::{
        candidates::Candidates,
        pointer::{SOON, Sources},
    },
    state::Agent,
};

/// 2 s for a conf-slave to open its stream, where another one can be asked.
const OPENING: Duration = Duration::from_secs(2);
/// 3 s: a stream that said nothing for so long since it was opened is helped by a question for the
/// newest snapshot. A proxy may hold the events back.
const QUIET: Duration = Duration::from_secs(3);
/// 2 s for the answer to it.
const ASKING: Duration = Duration::from_secs(2);
/// 40 s between two of these questions: a host that hears of changes by Consul needs none of them.
/// Without one for 45 s, the stream would count as broken.
const BETWEEN_QUESTIONS: Duration = Duration::from_secs(40);
/// The same for a host that hears of changes in no other way.
const BETWEEN_NEEDED_QUESTIONS: Duration = Duration::from_secs(2);

/// 1 s: when the attempt at what one conf-slave names takes so long, and nobody else is heard, the
/// other conf-slaves are asked what they serve: the one that is heard may be wrong.
const SECOND_OPINION: Duration = Duration::from_secs(1);
/// 2 s: then again, while that goes on. One that lags behind names the same soon.
const NEXT_OPINION: Duration = Duration::from_secs(2);

/// What a conf-slave answers with the snapshot that it serves, beside much else.
const STATUS: &str = "api/v1/status";

/// The answer.
#[derive(Deserialize)]
struct Served {
    sequence: Sequence,
    commit: CommitId,
    /// The last word of conf-master; a conf-slave of an earlier version says none.
    #[serde(default)]
    statement: Option<FreshnessEvent>,
}

/// The name in `away` of a conf-slave that refuses the central history.
const HISTORY: &str = "central history";
/// The name in `away` of statements about keys that are not followed.
const KEYS: &str = "keys";
/// The name in `away` of a stream that is silent.
const EVENTS: &str = "events";

/// Listens to the first conf-slave that has a stream, until `stop`. Returns at once where there is
/// none and none can be found.
pub(crate) async fn listen(sources: &Sources, candidates: &Candidates, agent: &Agent, stop: &CancellationToken) {
    let listener = Listener { sources, candidates, agent };
    if !sources.servers.surrogates.in_order().is_empty() || !sources.finders.is_empty() {
        stop.run_until_cancelled(listener.listen()).await;
    }
}

/// Why a stream is read no further.
enum End {
    Broken(UpstreamError),
    /// What it named came to nothing, and another conf-slave can be heard.
    InVain,
    /// The conf-slave at which this host belongs has been back for a while.
    Better,
}

struct Listener<'a> {
    sources: &'a Sources,
    candidates: &'a Candidates,
    agent: &'a Agent,
}

impl Listener<'_> {
    async fn listen(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(50), SOON);
        loop {
            let wait = match self.open().await {
                Ok(events) => {
                    let url = events.upstream().url().to_string();
                    let end = self.read(events, &mut backoff).await;
                    self.candidates.gone(&url);
                    // What this one refused is told again by whoever refuses it.
                    self.agent.set_back(HISTORY);
                    match end {
                        End::Broken(error) => {
                            self.sources.servers.surrogates.end_returns();
                            backoff.after(error.retry_after())
                        }
                        End::InVain => backoff.next_wait(),
                        End::Better => continue,
                    }
                }
                Err(wait) => backoff.after(wait),
            };
            sleep(wait).await;
        }
    }

    /// Opens the stream of the first conf-slave that has one. Those whose words came to nothing are
    /// asked last. One that has none is passed over for a while. Otherwise returns how long to
    /// wait, where that is known.
    async fn open(&self) -> Result<Events, Option<Duration>> {
        let path = format!("api/v1/events?datacenter={}", self.sources.datacenter);
        let mut wait = None;
        let mut servers = self.sources.servers.surrogates.in_order();
        servers.sort_by_key(|server| self.candidates.doubted(server.url().as_str()));
        let is_alone = servers.len() == 1;
        for server in servers {
            let url = server.url().to_string();
            let opening = Arc::clone(&server).events(&path, None);
            let opened = if is_alone {
                opening.await
            } else {
                timeout(OPENING, opening).await.unwrap_or_else(|_| {
                    server.report_silent();
                    Err(UpstreamError::Silent { url: url.clone(), after: OPENING })
                })
            };
            match opened {
                Ok(events) => return Ok(events),
                // An older conf-slave has no stream, and a proxy may hold back even its head.
                Err(error) if is_without_stream(&error) && self.ask(&url, server.get_json(STATUS)).await => {
                    server.report(true);
                    server.pass_over(None);
                    self.agent.set_back(&url);
                    if error.status().is_none() {
                        self.agent.set_away(EVENTS, &self.held_back(&url));
                    }
                    wait = Some(with_jitter(self.between_questions(&url)));
                }
                Err(error) => {
                    wait = wait.or(error.retry_after());
                    server.pass_over(error.retry_after());
                    self.agent.set_away(&url, &chain(&error));
                }
            }
        }
        Err(wait)
    }

    /// Takes the events of one stream until it breaks, or another conf-slave is to be heard. While
    /// it is silent, asks for the newest snapshot.
    async fn read(&self, mut events: Events, backoff: &mut Backoff) -> End {
        let url = events.upstream().url().to_string();
        let (upstream, surrogates) = (Arc::clone(events.upstream()), &self.sources.servers.surrogates);
        let is_alone = surrogates.in_order().len() == 1;
        let doubted = self.candidates.doubted(&url);
        let is_fit = |other: &Upstream| self.candidates.doubted(other.url().as_str()) <= doubted;
        let mut better = Box::pin(surrogates.until_better(upstream.url(), is_fit));
        let mut quiet = QUIET;
        let mut opinions = Box::pin(self.ask_while_slow(&url));
        let mut words = Box::pin(self.ask_while_unheard(&url));
        loop {
            let event = tokio::select! {
                event = events.next_within(quiet) => event,
                () = &mut opinions => continue,
                () = &mut words => continue,
                () = self.candidates.until_doubted(&url, doubted), if !is_alone => return End::InVain,
                () = &mut better => return End::Better,
            };
            match event {
                Ok(Some(event)) => {
                    backoff.reset();
                    self.agent.set_back(&url);
                    self.agent.set_back(EVENTS);
                    self.take(&url, &event).await;
                }
                Err(error) => {
                    self.agent.set_away(&url, &chain(&error));
                    return End::Broken(error);
                }
                Ok(None) if self.ask(&url, events.ask(STATUS)).await => {
                    quiet = self.between_questions(&url);
                    self.agent.set_back(&url);
                    self.agent.set_away(EVENTS, &self.held_back(&url));
                }
                Ok(None) => {}
            }
        }
    }

    /// Asks the other conf-slaves what they serve, whenever an attempt at what this one names takes
    /// long and nobody else is heard. Never ends.
    async fn ask_while_slow(&self, url: &str) {
        loop {
            self.candidates.until_slow_and_alone(url, SECOND_OPINION).await;
            self.ask_the_others(url).await;
            sleep(NEXT_OPINION).await;
        }
    }

    /// Asks the other conf-slaves, while conf-master was not heard for half of the limit: this one
    /// may withhold what it says, and changes with it. Never ends.
    async fn ask_while_unheard(&self, url: &str) {
        loop {
            let limit = self.agent.view().freshness.limit();
            sleep(with_jitter(limit / 8)).await;
            let age = self.agent.view().freshness.age(Moment::now());
            if age.is_some_and(|age| age > limit / 2) {
                self.ask_the_others(url).await;
            }
        }
    }

    async fn ask_the_others(&self, url: &str) {
        let others = self.sources.servers.surrogates.in_order();
        for other in others.iter().filter(|other| other.url().as_str() != url) {
            let other_url = other.url().to_string();
            if self.ask(&other_url, other.get_json(STATUS)).await {
                // It said this once, and is not heard from now on.
                self.candidates.gone(&other_url);
            }
        }
    }

    fn held_back(&self, url: &str) -> String {
        format!(
            "{url} answers, but its stream of events is silent; it is asked every {} s. Does a proxy on the way hold \
             answers back? Switch its buffering off",
            self.between_questions(url).as_secs()
        )
    }

    fn between_questions(&self, url: &str) -> Duration {
        if self.candidates.is_heard_beside(url) { BETWEEN_QUESTIONS } else { BETWEEN_NEEDED_QUESTIONS }
    }

    async fn take(&self, url: &str, event: &Event) {
        match event.name.as_str() {
            "keys" => {
                let taken = match serde_json::from_str::<KeysEvent>(&event.data) {
                    Ok(KeysEvent { statements }) => {
                        self.sources.keys.take(statements).await.map_err(|error| chain(&error))
                    }
                    Err(error) => Err(error.to_string()),
                };
                match taken {
                    Ok(_) => self.agent.set_back(KEYS),
                    Err(why) => self
                        .agent
                        .set_away(KEYS, &format!("what {url} says of conf-master's keys is not followed: {why}")),
                }
            }
            "snapshot" => match serde_json::from_str::<SnapshotEvent>(&event.data) {
                Ok(event) if event.datacenter == self.sources.datacenter => {
                    self.candidates.name(url, Pointer { sequence: event.sequence, commit: event.commit });
                }
                _ => self
                    .agent
                    .set_away(EVENTS, &format!("{url} sends snapshots that are not of this datacenter; ignored")),
            },
            "history" => match serde_json::from_str::<HistoryEvent>(&event.data) {
                Ok(HistoryEvent { refused: Some(words) }) => {
                    self.agent.set_away(HISTORY, &format!("{url} refuses what the central server has: {words}"));
                }
                _ => self.agent.set_back(HISTORY),
            },
            "freshness" => match serde_json::from_str::<FreshnessEvent>(&event.data) {
                Ok(statement) => self.agent.hear(url, statement, self.sources.keys.trusted()),
                Err(error) => {
                    self.agent.set_away(EVENTS, &format!("{url} sends unreadable freshness statements: {error}"));
                }
            },
            // Heartbeats, and events of later versions.
            _ => {}
        }
    }

    /// Names the snapshot that a conf-slave serves, and hears what it was told, if it answers.
    /// Tells whether it does.
    async fn ask(&self, url: &str, question: impl Future<Output = Result<Served, UpstreamError>>) -> bool {
        let Ok(Ok(Served { sequence, commit, statement })) = timeout(ASKING, question).await else { return false };
        self.candidates.name(url, Pointer { sequence, commit });
        if let Some(statement) = statement {
            self.agent.hear(url, statement, self.sources.keys.trusted());
        }
        true
    }
}

/// Tells whether a conf-slave may answer all the same that opens no stream.
fn is_without_stream(error: &UpstreamError) -> bool {
    matches!(error, UpstreamError::Silent { .. }) || error.status() == Some(StatusCode::NOT_FOUND)
}
