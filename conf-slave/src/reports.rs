//! Who runs what: the newest report of each host, and the summary that goes up.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use conf_core::{
    api::{HostReport, SlaveReport},
    daemon::chain,
    retry::Backoff,
    upstream::{UpstreamError, Upstreams},
};
use libconf::name::{HostName, Sequence};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{mirror::Mirror, problems::Problems, publish::with_jitter};

/// More hosts than any datacenter has; what comes beyond pushes the one out that was silent longest.
const MOST_HOSTS: usize = 20_000;
/// A summary has no more bytes than this and one report's: conf-master takes 32 MiB, and one that is refused would be all that
/// it hears of.
const PIECE_BYTES: usize = 4 << 20;
/// Summaries are at least so far apart: hosts report a change within milliseconds of each other.
const PAUSE: Duration = Duration::from_millis(300);
/// All hosts, changed or not, at least so often.
const EVERY: Duration = Duration::from_secs(60);

/// The hosts of this datacenter that report to this slave.
#[derive(Debug, Default)]
pub struct Hosts {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    reports: BTreeMap<HostName, HostReport>,
    // What the central server has not heard yet.
    news: BTreeSet<HostName>,
    // It may have forgotten what it has heard.
    anew: bool,
}

impl Hosts {
    /// Takes a report, cut, and stamps it with the time.
    pub fn take(&self, mut report: HostReport) {
        report.cut();
        report.received = Some(jiff::Timestamp::now().to_string());
        let mut inner = self.lock();
        if !inner.reports.contains_key(&report.host) && inner.reports.len() >= MOST_HOSTS {
            let silent = inner.reports.values().min_by(|a, b| a.received.cmp(&b.received)).map(|one| one.host.clone());
            if let Some(host) = silent {
                inner.reports.remove(&host);
            }
        }
        inner.news.insert(report.host.clone());
        inner.reports.insert(report.host.clone(), report);
        drop(inner);
        self.changed.notify_one();
    }

    /// The newest reports, by name.
    pub fn list(&self) -> Vec<HostReport> {
        self.lock().reports.values().cloned().collect()
    }

    /// How many hosts have reported.
    pub fn count(&self) -> usize {
        self.lock().reports.len()
    }

    /// The central server may have started again, and know of no host: it is told of all, now.
    pub fn tell_anew(&self) {
        self.lock().anew = true;
        self.changed.notify_one();
    }

    /// Takes the names of those with something new, or of all.
    fn news(&self, all: bool) -> BTreeSet<HostName> {
        let mut inner = self.lock();
        let news = std::mem::take(&mut inner.news);
        if std::mem::take(&mut inner.anew) || all { inner.reports.keys().cloned().collect() } else { news }
    }

    /// Takes as many from `names` as go into one summary, and hands out what they said last.
    fn piece(&self, names: &mut BTreeSet<HostName>) -> Vec<HostReport> {
        let inner = self.lock();
        let (mut piece, mut bytes) = (Vec::new(), 0);
        while bytes < PIECE_BYTES
            && let Some(name) = names.pop_first()
        {
            if let Some(report) = inner.reports.get(&name) {
                bytes += serde_json::to_vec(report).map_or(0, |text| text.len() + 1);
                piece.push(report.clone());
            }
        }
        piece
    }

    /// Puts back who could not be told of.
    fn unsent(&self, names: impl IntoIterator<Item = HostName>) {
        self.lock().news.extend(names);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends summaries up until `stop`: hosts whose reports are new at once, all of them every minute.
pub async fn report(
    hosts: Arc<Hosts>,
    mirror: Arc<Mirror>,
    upstreams: Arc<Upstreams>,
    problems: Arc<Problems>,
    stop: CancellationToken,
) {
    const TOPIC: &str = "reports";
    let path = format!("api/v1/datacenters/{}/hosts", mirror.datacenter());
    let mut serving = mirror.subscribe();
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let mut next_full = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = hosts.changed.notified() => {}
            changed = serving.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(next_full) => {}
        }
        let full = Instant::now() >= next_full;
        let sequence = mirror.serving().map_or(Sequence::default(), |serving| serving.snapshot.sequence);
        if sequence == Sequence::default() && hosts.count() == 0 {
            // Nothing to tell, perhaps of a datacenter that is not there yet.
            next_full = Instant::now() + with_jitter(EVERY);
            continue;
        }
        let sent = tokio::select! {
            () = stop.cancelled() => return,
            sent = send(&hosts, hosts.news(full), sequence, &upstreams, &path) => sent,
        };
        if full {
            // Whoever could not be told of is news now.
            next_full = Instant::now() + with_jitter(EVERY);
        }
        let pause = match sent {
            Ok(()) => {
                problems.clear(TOPIC, "reports reach the central server again");
                backoff.reset();
                PAUSE
            }
            Err(error) => {
                problems.set(TOPIC, chain(&error));
                hosts.changed.notify_one();
                PAUSE + backoff.after(error.retry_after())
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Tells of all these hosts, in pieces. Who could not be told of is news again. Cancel: what is new is forgotten, for a slave that stops.
async fn send(
    hosts: &Hosts,
    mut names: BTreeSet<HostName>,
    sequence: Sequence,
    upstreams: &Upstreams,
    path: &str,
) -> Result<(), UpstreamError> {
    let mut sent = Ok(());
    // At least one, which says what this slave serves.
    loop {
        let summary = SlaveReport { sequence, hosts: hosts.piece(&mut names) };
        if let Err(error) = upstreams.post_json::<_, serde_json::Value>(path, &summary).await {
            hosts.unsent(summary.hosts.into_iter().map(|one| one.host));
            // What is refused for what it says holds up nothing else.
            let is_alone = matches!(&error, UpstreamError::Refused { status, .. } if status.is_client_error());
            sent = sent.and(Err(error));
            if !is_alone {
                hosts.unsent(std::mem::take(&mut names));
            }
        }
        if names.is_empty() {
            return sent;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(host: &str, sequence: u64) -> HostReport {
        let text = format!(
            r#"{{"host": "{host}", "datacenter": "dc/v1", "sequence": {sequence}, "commit": null,
                "state": "current", "agent": "0.1.0"}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_newest_report_of_each_host() {
        let hosts = Hosts::default();
        for (host, sequence) in [("a", 1), ("b", 1), ("a", 2)] {
            hosts.take(report(host, sequence));
        }
        let shown: Vec<_> = hosts.list().into_iter().map(|one| (one.host.to_string(), one.sequence.0)).collect();
        assert_eq!(shown, [("a".to_owned(), 2), ("b".to_owned(), 1)]);
    }

    #[test]
    fn what_hosts_say_is_cut() {
        let hosts = Hosts::default();
        let words = "\u{1F4A5}".repeat(3000);
        let long = |words: &str| HostReport {
            agent: words.to_owned(),
            signature: Some(words.to_owned()),
            error: Some(words.to_owned()),
            ..report("a", 1)
        };
        hosts.take(long(&words));
        let kept = hosts.list().remove(0);
        assert_eq!((kept.agent.chars().count(), kept.error.unwrap().chars().count()), (100, 2000));
        assert_eq!(kept.signature, None, "there is none so long");
        hosts.take(long("short"));
        let kept = hosts.list().remove(0);
        assert_eq!(HostReport { received: None, ..kept }, long("short"));
    }

    #[test]
    fn summaries_are_bounded_and_leave_nobody_out() {
        let hosts = Hosts::default();
        // Control characters: six bytes each in JSON.
        let error = "\u{1}".repeat(2000);
        for number in 0..2000 {
            hosts.take(HostReport { error: Some(error.clone()), ..report(&format!("n-{number}"), 1) });
        }
        let mut news = hosts.news(true);
        let mut told = BTreeSet::new();
        while !news.is_empty() {
            let summary = SlaveReport { sequence: Sequence(1), hosts: hosts.piece(&mut news) };
            assert!(serde_json::to_vec(&summary).unwrap().len() < PIECE_BYTES + 20_000);
            told.extend(summary.hosts.into_iter().map(|one| one.host));
        }
        assert_eq!(told, hosts.news(true));
        // One that is gone meanwhile is none; and one that is long goes alone.
        assert!(hosts.piece(&mut ["gone".parse().unwrap()].into()).is_empty());
    }

    #[test]
    fn news_is_told_once_and_kept_when_it_was_not_sent() {
        let hosts = Hosts::default();
        hosts.take(report("a", 1));
        let news = hosts.news(false);
        assert_eq!((news.len(), hosts.news(false).len()), (1, 0));
        hosts.unsent(news);
        assert_eq!(hosts.news(false).len(), 1);
        assert_eq!(hosts.news(true).len(), 1);
    }
}
