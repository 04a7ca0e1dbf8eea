//! Probes: whether a component's program is well after it was told of a change. A failure is
//! reported as a state; the files stay as they are. Relies on `clock`, `process`, `state` and
//! `notify`.

use std::{collections::BTreeMap, convert::Infallible, fmt, path::Path, sync::Arc, time::Duration};

use conf_core::{address::hide_login, daemon::chain, suspect::CommandWords};
use libconf::name::{ComponentSelector, Sequence};
use serde::Deserialize;
use tokio::{
    sync::broadcast::error::RecvError,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::now,
    notify::{Notice, Outbox},
    process::{
        Children, CommandError, CommandText, Invocation, RunAs, limit_from, run_command, variables_of_change, words,
    },
    state::{Agent, Changes, HistoryEntry, ProbeStatus, View},
};

/// An entry's defaults: one attempt may take 5 s, and 5 attempts follow a failed first one, which
/// covers the restart of a program.
const TIMEOUT: Duration = Duration::from_secs(5);
const RETRIES: u32 = 5;
const MOST_RETRIES: u32 = 100;
/// 1 s between two attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// 60 s: telling the watchers may take so long. Then the probe runs anyway.
const TOLD_WITHIN: Duration = Duration::from_secs(60);
/// 30 s: then a failed probe runs again.
const AGAIN: Duration = Duration::from_secs(30);

/// One entry of `probe:` in the YAML file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawProbe")]
pub(crate) struct ProbeEntry {
    component: ComponentSelector,
    target: ProbeTarget,
    /// The time limit of one attempt.
    timeout: Duration,
    /// The number of attempts after a failed first one, a second apart.
    retries: u32,
}

/// The command or address that a probe asks.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ProbeTarget {
    /// Must exit with 0. It runs as this user; without one, as the agent's.
    Command(CommandWords, Option<RunAs>),
    /// Must answer with a status of 200 to 299; redirects are not followed.
    Http(String),
}

/// Shows an address without its login and its query, which may hold a key.
impl fmt::Display for ProbeTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProbeTarget::Command(words, _) => words.fmt(f),
            ProbeTarget::Http(url) => match reqwest::Url::parse(url) {
                Ok(url) => f.write_str(&hide_login(url.as_str())),
                Err(_) => f.write_str("an address"),
            },
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
    user: Option<RunAs>,
}

impl ProbeEntry {
    /// True if it runs a command, and asks no address.
    pub(crate) fn runs_command(&self) -> bool {
        matches!(self.target, ProbeTarget::Command(..))
    }
}

impl TryFrom<RawProbe> for ProbeEntry {
    type Error = String;

    fn try_from(raw: RawProbe) -> Result<Self, String> {
        let target = match (raw.command, raw.http) {
            (Some(command), None) => ProbeTarget::Command(words(command)?, raw.user),
            (None, Some(_)) if raw.user.is_some() => return Err("'user' is for a command; take it out".to_owned()),
            (None, Some(url)) => {
                let parsed =
                    reqwest::Url::parse(&url).map_err(|error| format!("http {:?}: {error}", hide_login(&url)))?;
                if !matches!(parsed.scheme(), "http" | "https") {
                    return Err(format!("http {:?} is not an http:// or https:// address", hide_login(&url)));
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

/// Probes until `stop`: once at the start, and after each change of the component, when its
/// watchers were told.
pub(crate) async fn run(entries: Vec<ProbeEntry>, agent: Agent, outbox: Arc<Outbox>, stop: CancellationToken) {
    let mut tasks = JoinSet::new();
    for (entry, target) in labelled(entries) {
        let probe = Probe { entry, target, agent: agent.clone(), outbox: outbox.clone(), stop: stop.clone() };
        tasks.spawn(probe.run());
    }
    while tasks.join_next().await.is_some() {}
}

/// Names each target. Those of one component that look alike without what is hidden get a number.
fn labelled(entries: Vec<ProbeEntry>) -> Vec<(ProbeEntry, String)> {
    let mut seen = BTreeMap::new();
    let label = |entry: ProbeEntry| {
        let target = entry.target.to_string();
        let number = seen.entry((entry.component.clone(), target.clone())).or_insert(0);
        *number += 1;
        let label = if *number == 1 { target } else { format!("{target} ({number})") };
        (entry, label)
    };
    entries.into_iter().map(label).collect()
}

struct Probe {
    entry: ProbeEntry,
    /// The target, as the status shows it.
    target: String,
    agent: Agent,
    outbox: Arc<Outbox>,
    stop: CancellationToken,
}

impl Probe {
    /// Ends with the agent, after a running command has ended with all that it started.
    async fn run(self) {
        let _ = self.follow().await;
    }

    /// Returns `None` when the agent stops, like the functions below.
    async fn follow(&self) -> Option<Infallible> {
        let mut switches = self.agent.switches();
        let mut views = self.agent.follow();
        // A program that runs when the agent starts is probed too: its state is not known.
        let exists = |view: &Arc<View>| {
            view.exported.as_ref().is_some_and(|exported| exported.matching(&self.entry.component).next().is_some())
        };
        self.unless_stopped(async { drop(views.wait_for(exists).await) }).await?;
        let exported = || brought(&self.agent.history(), self.agent.view().status.sequence, &self.entry.component);
        let mut about = exported();
        let mut passed = self.probe_after_telling(about).await?;
        loop {
            // A program that could not be told of its files is asked again too: it is told later.
            let settled = passed && !self.is_owed(|_| true);
            let next = timeout(if settled { Duration::MAX } else { AGAIN }, switches.recv());
            match self.unless_stopped(next).await? {
                Ok(Ok(switched)) if switched.changed.keys().any(|one| self.entry.component.matches(one)) => {
                    about = Changes { after: switched.before, through: switched.sequence };
                }
                Ok(Ok(_)) => continue,
                Ok(Err(RecvError::Lagged(_))) => about = exported(),
                Ok(Err(RecvError::Closed)) => return None,
                // What failed fails still: for the same changes.
                Err(_) => {}
            }
            passed = self.probe_after_telling(about).await?;
        }
    }

    async fn unless_stopped<T>(&self, what: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            () = self.stop.cancelled() => None,
            done = what => Some(done),
        }
    }

    /// True if a watcher of the component is owed such a notice.
    fn is_owed(&self, such: impl Fn(&Notice) -> bool) -> bool {
        let concerns = |notice: &Notice| notice.components.iter().any(|one| self.entry.component.matches(one));
        self.outbox.pending().values().any(|notice| concerns(notice) && such(notice))
    }

    /// Waits until the component's watchers were told, or could not be. Then probes, several times
    /// if it must. True if it passed.
    async fn probe_after_telling(&self, about: Changes) -> Option<bool> {
        let told = async {
            loop {
                let delivered = self.outbox.delivery();
                tokio::pin!(delivered);
                // From here on no delivery is missed.
                delivered.as_mut().enable();
                if !self.is_owed(|notice| notice.failed.is_none()) {
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
        Some(self.note(about, answer.err()))
    }

    async fn ask(&self) -> Option<Result<(), String>> {
        match &self.entry.target {
            ProbeTarget::Command(words, user) => {
                let view = self.agent.view();
                let Some(exported) = &view.exported else { return Some(Ok(())) };
                let components: Vec<_> = exported.matching(&self.entry.component).map(|(one, _)| one.clone()).collect();
                let invocation = Invocation {
                    words,
                    folder: Path::new("/"),
                    variables: variables_of_change(exported.sequence, &exported.directory, &components),
                    limit: self.entry.timeout,
                    children: Children::End,
                    user: user.as_ref(),
                    output: exported.visibility(&components),
                };
                match run_command(invocation, &self.stop).await {
                    Err(CommandError::Stopped) => None,
                    other => Some(other.map_err(|error| error.describe())),
                }
            }
            ProbeTarget::Http(url) => self.unless_stopped(self.ask_http(url)).await,
        }
    }

    async fn ask_http(&self, url: &str) -> Result<(), String> {
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
        let client = client.timeout(self.entry.timeout).build().map_err(|error| chain(&error))?;
        // The status shows the address beside this.
        let answer = client.get(url).send().await.map_err(|error| chain(&error.without_url()))?;
        let status = answer.status();
        if status.is_success() { Ok(()) } else { Err(format!("it answered {status}")) }
    }

    /// Shows the result, and logs a new one. True if the probe passed.
    fn note(&self, about: Changes, error: Option<String>) -> bool {
        let target = self.target.clone();
        let (component, passed) = (self.entry.component.clone(), error.is_none());
        let mut new = false;
        self.agent.update(|view| {
            let sequence = view.status.sequence;
            let probes = &mut view.status.probes;
            let before = probes.iter().position(|one| one.component == component && one.target == target);
            let failed = before.map(|place| &probes[place]).filter(|before| !before.passed).map(|before| before.about);
            let about = if passed { about } else { about.after_failed(failed) };
            let status = ProbeStatus { component, target, passed, sequence, when: now(), error: error.clone(), about };
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

/// Returns the changes that brought a component as it is exported, as far as the history tells.
fn brought(history: &[HistoryEntry], exported: Sequence, component: &ComponentSelector) -> Changes {
    let newest = history.first().map_or(Sequence(0), |entry| entry.sequence);
    if newest != exported {
        // The agent died before it wrote down the last switch.
        let after = if newest < exported { newest } else { Sequence(0) };
        return Changes { after, through: exported };
    }
    // Of a switch of very many components not all are written down.
    let brings = |entry: &HistoryEntry| {
        entry.changed_count > entry.changed.len() || entry.changed.keys().any(|one| component.matches(one))
    };
    let Some(at) = history.iter().position(brings) else {
        return Changes { after: Sequence(0), through: history.last().map_or(exported, |oldest| oldest.sequence) };
    };
    let through = history[at].sequence;
    let before = history[at..].iter().map(|entry| entry.sequence).find(|sequence| *sequence < through);
    Changes { after: before.unwrap_or_default(), through }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{HistoryChange, Status};

    #[test]
    fn a_probe_after_a_restart_is_about_the_change_that_brought_its_component() {
        let entry = |sequence: u64, changed: &[&str], count: usize| HistoryEntry {
            sequence: Sequence(sequence),
            commit: libconf::name::CommitId::ZERO,
            when: String::new(),
            took_ms: 1,
            changed: changed
                .iter()
                .map(|one| {
                    (one.parse().unwrap(), HistoryChange { kind: crate::export::ChangeKind::Changed, pin: None })
                })
                .collect(),
            changed_count: count,
        };
        let web: ComponentSelector = "services/web".parse().unwrap();
        let check = |history: &[HistoryEntry], exported: u64, expected: (u64, u64)| {
            let Changes { after, through } = brought(history, Sequence(exported), &web);
            assert_eq!((after.0, through.0), expected);
        };
        let (web, api) = ("services/web/latest", "services/api/latest");
        let history = [entry(9, &[api], 1), entry(7, &[web], 1), entry(7, &[api], 1), entry(4, &[web, api], 2)];
        check(&history, 9, (4, 7));
        check(&history[..1], 9, (0, 9));
        check(&history[3..], 4, (0, 4));
        // A switch that the history does not have, or not whole.
        check(&history, 12, (9, 12));
        check(&[entry(9, &[api], 51), entry(7, &[web], 1)], 9, (7, 9));
        check(&[], 9, (0, 9));
    }

    #[test]
    fn an_address_is_shown_without_what_may_be_a_key_and_two_are_told_apart() {
        let entry = |query: &str| -> ProbeEntry {
            let text = format!("{{component: services/web, http: 'http://jo:canary@127.0.0.1:1/health?{query}'}}");
            conf_core::settings::from_yaml(&text).unwrap()
        };
        let targets: Vec<_> = labelled(vec![entry("key=canary1"), entry("key=canary2")]);
        let shown = "http://…@127.0.0.1:1/health?…";
        assert_eq!([&targets[0].1, &targets[1].1], [shown, &format!("{shown} (2)")]);
    }

    #[tokio::test]
    async fn the_error_of_a_request_holds_no_query() {
        let folder = tempfile::tempdir().unwrap();
        let status = Status::new("dc/v1".parse().unwrap(), "web-1".parse().unwrap(), folder.path());
        let (agent, _requests) = Agent::new(View::new(status), Vec::new());
        // The agent has made this before any probe runs; it sets up what every client of HTTP needs.
        let _ = conf_core::upstream::Upstreams::new(Vec::new(), &conf_core::upstream::Credentials::none());
        // Nobody listens there.
        let url = "http://127.0.0.1:1/health?key=canary";
        let entry = conf_core::settings::from_yaml(&format!("{{component: services/web, http: '{url}'}}")).unwrap();
        let outbox = Arc::new(Outbox::open(folder.path(), Sequence(0)));
        let probe = Probe { entry, target: String::new(), agent, outbox, stop: CancellationToken::new() };
        let error = probe.ask_http(url).await.unwrap_err();
        assert!(!error.contains("canary") && error.contains("refused"), "{error}");
    }

    #[test]
    fn a_probe_that_fails_after_the_next_change_too_is_about_both() {
        let folder = tempfile::tempdir().unwrap();
        let status = Status::new("dc/v1".parse().unwrap(), "web-1".parse().unwrap(), folder.path());
        let (agent, _requests) = Agent::new(View::new(status), Vec::new());
        let entry = conf_core::settings::from_yaml("{component: services/web, command: /bin/true}").unwrap();
        let outbox = Arc::new(Outbox::open(folder.path(), Sequence(0)));
        let target = "command /bin/true".to_owned();
        let probe = Probe { entry, target, agent: agent.clone(), outbox, stop: CancellationToken::new() };
        let about = |after, through| Changes { after: Sequence(after), through: Sequence(through) };
        for (brought, error, shown) in [
            (about(4, 5), None, about(4, 5)),
            (about(5, 6), Some("ill"), about(5, 6)),
            (about(6, 7), Some("ill"), about(5, 7)),
            (about(6, 7), Some("ill"), about(5, 7)),
            (about(7, 8), None, about(7, 8)),
            (about(8, 9), Some("ill"), about(8, 9)),
        ] {
            probe.note(brought, error.map(str::to_owned));
            assert_eq!(agent.view().status.probes[0].about, shown);
        }
    }
}
