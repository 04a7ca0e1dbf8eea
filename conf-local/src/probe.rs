//! Probes: whether a component's program is well after it was told of a change. A failure is a state that is reported; the
//! files stay as they are.

use std::{collections::BTreeSet, fmt, path::Path, sync::Arc, time::Duration};

use conf_core::daemon::chain;
use libconf::name::{ComponentSelector, Sequence};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::broadcast::error::RecvError,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::config::{CommandText, limit_from, words},
    notify::{duties::Duties, now},
    process::command::{self, CommandError, Leaves, Occasion, Order},
    state::Agent,
};

/// How long one try may take, and how many follow the first, when an entry does not say.
const TIMEOUT: Duration = Duration::from_secs(5);
const RETRIES: u32 = 5;
const MOST_RETRIES: u32 = 100;
/// Between two tries.
const PAUSE: Duration = Duration::from_secs(1);
/// Whoever is to be told first may take so long; then it is probed all the same.
const TOLD_WITHIN: Duration = Duration::from_secs(60);
/// One that failed is looked at again.
const AGAIN: Duration = Duration::from_secs(30);

/// One entry of `probe:` in the YAML file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawProbe")]
pub struct ProbeEntry {
    /// Whose changes it follows.
    pub component: ComponentSelector,
    /// What is asked.
    pub target: ProbeTarget,
    /// How long one try may take.
    pub timeout: Duration,
    /// How many tries follow a first one that failed, a second apart.
    pub retries: u32,
}

/// What a probe asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeTarget {
    /// A command that is to end with 0.
    Command(Vec<String>),
    /// An address that is to answer with a status of 200 to 299, without sending elsewhere.
    Http(String),
}

/// For people, without the user and password of an address.
impl fmt::Display for ProbeTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProbeTarget::Command(words) => f.write_str(&words.join(" ")),
            ProbeTarget::Http(url) => {
                let Ok(mut url) = reqwest::Url::parse(url) else { return f.write_str("an address") };
                // An address that has a host can be without both.
                let _ = url.set_username("").and_then(|()| url.set_password(None));
                write!(f, "{url}")
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProbe {
    component: ComponentSelector,
    command: Option<CommandText>,
    http: Option<String>,
    timeout: Option<f64>,
    retries: Option<u32>,
}

impl TryFrom<RawProbe> for ProbeEntry {
    type Error = String;

    fn try_from(raw: RawProbe) -> Result<Self, String> {
        let target = match (raw.command, raw.http) {
            (Some(command), None) => ProbeTarget::Command(words(command)?),
            (None, Some(url)) => {
                let parsed = reqwest::Url::parse(&url).map_err(|error| format!("http {url:?}: {error}"))?;
                if !matches!(parsed.scheme(), "http" | "https") {
                    return Err(format!("http {url:?} is not an http:// or https:// address"));
                }
                ProbeTarget::Http(url)
            }
            _ => return Err("give either 'command' or 'http'; make two entries for both".to_owned()),
        };
        let retries = raw.retries.unwrap_or(RETRIES);
        if retries > MOST_RETRIES {
            return Err(format!("retries {retries} is too many; at most {MOST_RETRIES}"));
        }
        Ok(ProbeEntry { component: raw.component, target, timeout: limit_from(raw.timeout, TIMEOUT)?, retries })
    }
}

/// How a probe fared last: an entry of `probes` in `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeStatus {
    /// Whose program was asked.
    pub component: ComponentSelector,
    /// What was asked, for people.
    pub target: String,
    /// True when it answered well.
    pub passed: bool,
    /// What was exported then.
    pub sequence: Sequence,
    /// When, RFC 3339, UTC.
    pub when: String,
    /// What was wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Probes until `stop`: once at the start, and after each change of the component when its watchers were told.
pub async fn run(entries: Vec<ProbeEntry>, agent: Agent, duties: Arc<Duties>, stop: CancellationToken) {
    let mut tasks = JoinSet::new();
    for entry in entries {
        let probe = Probe { entry, agent: agent.clone(), duties: duties.clone(), stop: stop.clone() };
        tasks.spawn(probe.run());
    }
    while tasks.join_next().await.is_some() {}
}

struct Probe {
    entry: ProbeEntry,
    agent: Agent,
    duties: Arc<Duties>,
    stop: CancellationToken,
}

/// The agent stops.
struct Stopped;

impl Probe {
    /// Ends with the agent, but not before a command that runs has ended with all that it started.
    async fn run(self) {
        let _: Result<(), Stopped> = self.follow().await;
    }

    async fn follow(&self) -> Result<(), Stopped> {
        let mut switches = self.agent.switches();
        let mut views = self.agent.follow();
        // What runs when the agent starts is asked too: nothing is known of it.
        let there = |view: &Arc<crate::state::View>| {
            view.exported.as_ref().is_some_and(|exported| exported.matching(&self.entry.component).next().is_some())
        };
        self.unless_stopped(async { drop(views.wait_for(there).await) }).await?;
        let mut passed = self.ask_after_telling().await?;
        loop {
            let next = timeout(if passed { Duration::MAX } else { AGAIN }, switches.recv());
            let concerned = match self.unless_stopped(next).await? {
                Ok(Ok(switched)) => switched.changed.keys().any(|one| self.entry.component.matches(one)),
                Ok(Err(RecvError::Lagged(_))) | Err(_) => true,
                Ok(Err(RecvError::Closed)) => return Err(Stopped),
            };
            if concerned {
                passed = self.ask_after_telling().await?;
            }
        }
    }

    async fn unless_stopped<T>(&self, what: impl Future<Output = T>) -> Result<T, Stopped> {
        tokio::select! {
            () = self.stop.cancelled() => Err(Stopped),
            done = what => Ok(done),
        }
    }

    /// Waits until those who care for the component were told, then asks, several times if it must.
    async fn ask_after_telling(&self) -> Result<bool, Stopped> {
        let told = async {
            loop {
                let delivered = self.duties.delivery();
                tokio::pin!(delivered);
                // From here on no delivery is missed.
                delivered.as_mut().enable();
                let owed = self.duties.owed();
                if !owed.values().any(|duty| duty.components.iter().any(|one| self.entry.component.matches(one))) {
                    return;
                }
                delivered.await;
            }
        };
        let _ = self.unless_stopped(timeout(TOLD_WITHIN, told)).await?;
        let mut answer = self.ask().await?;
        for _ in 0..self.entry.retries {
            if answer.is_ok() {
                break;
            }
            self.unless_stopped(sleep(PAUSE)).await?;
            answer = self.ask().await?;
        }
        Ok(self.note(answer.err()))
    }

    async fn ask(&self) -> Result<Result<(), String>, Stopped> {
        match &self.entry.target {
            ProbeTarget::Command(words) => {
                let view = self.agent.view();
                let Some(exported) = &view.exported else { return Ok(Ok(())) };
                let components: Vec<_> = exported.matching(&self.entry.component).map(|(one, _)| one.clone()).collect();
                let occasion =
                    Occasion { sequence: exported.sequence, export: &exported.directory, components: &components };
                let order = Order {
                    words,
                    folder: Path::new("/"),
                    variables: occasion.variables(),
                    limit: self.entry.timeout,
                    leaves: Leaves::Nothing,
                    words_for: exported.words_for(&components),
                };
                match command::run(order, &self.stop).await {
                    Err(CommandError::Stopped) => Err(Stopped),
                    Err(CommandError::Failed { status, output }) => {
                        Ok(Err(format!("it ended with {status}: {}", output.text())))
                    }
                    other => Ok(other.map_err(|error| chain(&error))),
                }
            }
            ProbeTarget::Http(url) => self.unless_stopped(self.ask_http(url)).await,
        }
    }

    async fn ask_http(&self, url: &str) -> Result<(), String> {
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
        let client = client.timeout(self.entry.timeout).build().map_err(|error| chain(&error))?;
        let answer = client.get(url).send().await.map_err(|error| chain(&error))?;
        let status = answer.status();
        if status.is_success() { Ok(()) } else { Err(format!("it answered {status}")) }
    }

    /// Shows how it went; said once. True when it went well.
    fn note(&self, error: Option<String>) -> bool {
        let target = self.entry.target.to_string();
        let (component, passed) = (self.entry.component.clone(), error.is_none());
        let mut new = false;
        self.agent.update(|view| {
            let sequence = view.status.sequence;
            let status = ProbeStatus { component, target, passed, sequence, when: now(), error: error.clone() };
            let probes = &mut view.status.probes;
            let before = probes.iter().position(|one| one.component == status.component && one.target == status.target);
            if let Some(place) = before {
                new = probes[place].passed != passed;
                probes[place] = status;
            } else {
                new = !passed;
                probes.push(status);
            }
            view.status.judge();
        });
        let component = &self.entry.component;
        match error {
            Some(error) if new => tracing::warn!(%component, error, "the probe failed; the files stay as they are"),
            None if new => tracing::info!(%component, "the probe passes again"),
            _ => {}
        }
        passed
    }
}

/// The components of probes that failed.
pub(crate) fn failing(probes: &[ProbeStatus]) -> BTreeSet<String> {
    let failed = probes.iter().filter(|probe| !probe.passed);
    failed
        .map(|probe| format!("{} is not well: {}", probe.component, probe.error.as_deref().unwrap_or_default()))
        .collect()
}
