//! Who runs what: the newest report of each host, and the summary that goes up.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use libconf::{
    name::{HostName, Sequence},
    tier::{
        api::{HostReport, SlaveReport},
        daemon::chain,
        upstream::{Backoff, Upstreams},
    },
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{mirror::Mirror, problems::Problems, publish::with_jitter};

/// More hosts than any datacenter has; what comes beyond pushes the one out that was silent longest.
const MOST_HOSTS: usize = 20_000;
/// Words of an error are cut to this.
const LONGEST_ERROR: usize = 2_000;
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
    /// Takes a report, and stamps it with the time.
    pub fn take(&self, mut report: HostReport) {
        report.received = Some(jiff::Timestamp::now().to_string());
        if let Some(error) = &mut report.error
            && error.len() > LONGEST_ERROR
        {
            *error = error.chars().take(LONGEST_ERROR).collect();
        }
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

    /// Takes what is new, or all.
    fn news(&self, all: bool) -> Vec<HostReport> {
        let mut inner = self.lock();
        let news = std::mem::take(&mut inner.news);
        if std::mem::take(&mut inner.anew) || all {
            return inner.reports.values().cloned().collect();
        }
        news.iter().filter_map(|host| inner.reports.get(host).cloned()).collect()
    }

    /// Puts back what could not be sent.
    fn unsent(&self, reports: &[HostReport]) {
        self.lock().news.extend(reports.iter().map(|report| report.host.clone()));
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
        let summary = SlaveReport { sequence, hosts: hosts.news(full) };
        let sent = tokio::select! {
            () = stop.cancelled() => return,
            sent = upstreams.post_json::<_, serde_json::Value>(&path, &summary) => sent,
        };
        let pause = match sent {
            Ok(_) => {
                problems.clear(TOPIC, "reports reach the central server again");
                backoff.reset();
                if full {
                    next_full = Instant::now() + with_jitter(EVERY);
                }
                PAUSE
            }
            Err(error) => {
                problems.set(TOPIC, chain(&error));
                hosts.unsent(&summary.hosts);
                hosts.changed.notify_one();
                PAUSE + backoff.after(&error)
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
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
    fn news_is_told_once_and_kept_when_it_was_not_sent() {
        let hosts = Hosts::default();
        hosts.take(report("a", 1));
        let news = hosts.news(false);
        assert_eq!((news.len(), hosts.news(false).len()), (1, 0));
        hosts.unsent(&news);
        assert_eq!(hosts.news(false).len(), 1);
        assert_eq!(hosts.news(true).len(), 1);
    }
}
