//! The newest report of each host, and the summaries that go up to the central server.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
    time::Duration,
};

use conf_core::retry::with_jitter;
use conf_core::{
    api::{HostReport, SlaveReport},
    daemon::chain,
    http::crowded_out,
    retry::Backoff,
    upstream::{UpstreamError, Upstreams},
};
use libconf::name::{HostName, Sequence};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use crate::{mirror::Mirror, problems::Problems};

/// Hosts that are kept: more than any datacenter has. One more replaces one of the peer that
/// reports the most hosts, and of these the one that was silent longest: whoever invents hosts
/// crowds out his own.
const MOST_HOSTS: usize = 20_000;
/// Bytes after which a summary takes no further report. conf-master takes 32 MiB, and hears nothing
/// of a summary that it refuses.
const SUMMARY_BYTES: usize = 4 << 20;
/// The shortest time between two summaries: hosts report a change within milliseconds of each
/// other.
const PAUSE: Duration = Duration::from_millis(300);
/// 250 ms after a new snapshot: most hosts have reported it by then, and one summary has them all.
/// And conf-master has no work with it while hosts are taking the change.
const AFTER_CHANGE: Duration = Duration::from_millis(250);
/// The longest time between two summaries of all hosts, changed or not.
const EVERY: Duration = Duration::from_secs(60);

/// The newest report of each host of this datacenter.
#[derive(Debug, Default)]
pub(crate) struct HostReports {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    reports: BTreeMap<HostName, HostReport>,
    /// When each of them came, whatever the clock says, and from whom.
    came: BTreeMap<HostName, (std::time::Instant, Arc<str>)>,
    unsent: BTreeSet<HostName>,
}

impl HostReports {
    /// Takes a report, shortens it, and stamps it with the time.
    pub(crate) fn take(&self, mut report: HostReport, from: &str) {
        report.cut();
        report.received = Some(jiff::Timestamp::now().to_string());
        let mut inner = self.inner.lock();
        if !inner.reports.contains_key(&report.host) && inner.reports.len() >= MOST_HOSTS {
            let all = inner.came.iter().map(|(host, (came, from))| (from.to_string(), *came, host.clone()));
            for host in crowded_out(all, 1) {
                inner.reports.remove(&host);
                inner.came.remove(&host);
            }
        }
        inner.came.insert(report.host.clone(), (std::time::Instant::now(), from.into()));
        inner.unsent.insert(report.host.clone());
        inner.reports.insert(report.host.clone(), report);
        drop(inner);
        self.changed.notify_one();
    }

    /// Returns the newest reports, by host name.
    pub(crate) fn list(&self) -> Vec<HostReport> {
        self.inner.lock().reports.values().cloned().collect()
    }

    /// Returns the number of hosts that have reported.
    pub(crate) fn count(&self) -> usize {
        self.inner.lock().reports.len()
    }

    /// Sends every report again, at once: the central server may have started again without them.
    pub(crate) fn resend_all(&self) {
        self.put_back(self.take_unsent(true));
        self.changed.notify_one();
    }

    /// Takes the names of the hosts with an unsent report, or of all.
    fn take_unsent(&self, all: bool) -> BTreeSet<HostName> {
        let mut inner = self.inner.lock();
        let unsent = mem::take(&mut inner.unsent);
        if all { inner.reports.keys().cloned().collect() } else { unsent }
    }

    /// Takes as many of `names` as one summary holds, and returns their reports.
    fn take_summary(&self, names: &mut BTreeSet<HostName>) -> Vec<HostReport> {
        let inner = self.inner.lock();
        let (mut summary, mut bytes) = (Vec::new(), 0);
        while bytes < SUMMARY_BYTES
            && let Some(name) = names.pop_first()
        {
            if let Some(report) = inner.reports.get(&name) {
                bytes += serde_json::to_vec(report).map_or(0, |text| text.len() + 1);
                summary.push(report.clone());
            }
        }
        summary
    }

    /// Puts the names of reports back that could not be sent.
    fn put_back(&self, names: impl IntoIterator<Item = HostName>) {
        self.inner.lock().unsent.extend(names);
    }
}

/// Sends summaries: new reports at once, those of a new snapshot together, all reports every
/// minute.
///
/// Cancel: forgets which reports are unsent.
pub(crate) async fn send_summaries(reports: Arc<HostReports>, mirror: Arc<Mirror>, problems: Arc<Problems>) {
    let path = format!("api/v1/datacenters/{}/hosts", mirror.datacenter());
    let mut served = mirror.subscribe();
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let mut next_full = Instant::now();
    loop {
        tokio::select! {
            () = reports.changed.notified() => {}
            changed = served.changed() => match changed {
                Ok(()) => tokio::time::sleep(AFTER_CHANGE).await,
                Err(_) => return,
            },
            () = tokio::time::sleep_until(next_full) => {}
        }
        let full = Instant::now() >= next_full;
        let sequence = mirror.served().map_or(Sequence::default(), |served| served.snapshot.sequence);
        if sequence == Sequence::default() && reports.count() == 0 {
            // There is nothing to send, perhaps of a datacenter that does not exist yet.
            next_full = Instant::now() + with_jitter(EVERY);
            continue;
        }
        let failed = send(&reports, reports.take_unsent(full), sequence, &mirror.upstreams, &path).await.err();
        problems.report("reports", failed.as_ref().map(|error| chain(error)), "reports reach the central server again");
        if full {
            next_full = Instant::now() + with_jitter(EVERY);
        }
        let mut pause = PAUSE;
        match failed {
            None => backoff.reset(),
            Some(error) => {
                reports.changed.notify_one();
                pause += backoff.after(error.retry_after());
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// Sends the reports of all these hosts, in one summary or several. A report that could not be sent
/// is unsent again.
async fn send(
    reports: &HostReports,
    mut names: BTreeSet<HostName>,
    sequence: Sequence,
    upstreams: &Upstreams,
    path: &str,
) -> Result<(), UpstreamError> {
    let mut sent = Ok(());
    // Sends at least one summary, since it names the served sequence.
    loop {
        let summary = SlaveReport { sequence, hosts: reports.take_summary(&mut names) };
        if let Err(error) = upstreams.post_json::<_, serde_json::Value>(path, &summary).await {
            reports.put_back(summary.hosts.into_iter().map(|one| one.host));
            // A summary that is refused for its content does not hold up the others.
            let is_alone = matches!(&error, UpstreamError::Refused { status, .. } if status.is_client_error());
            sent = sent.and(Err(error));
            if !is_alone {
                reports.put_back(mem::take(&mut names));
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
        let reports = HostReports::default();
        for (host, sequence) in [("a", 1), ("b", 1), ("a", 2)] {
            reports.take(report(host, sequence), "10.0.0.1");
        }
        let shown: Vec<_> = reports.list().into_iter().map(|one| (one.host.to_string(), one.sequence.0)).collect();
        assert_eq!(shown, [("a".to_owned(), 2), ("b".to_owned(), 1)]);
    }

    #[test]
    fn the_host_that_was_silent_longest_gives_way_whatever_the_clock_said() {
        let reports = HostReports::default();
        for number in 0..MOST_HOSTS {
            reports.take(report(&format!("n-{number}"), 1), "10.0.0.1");
        }
        // The clock was ahead when this one came, and the last one came when it was set back.
        let set = |host: &str, time: &str| {
            let mut inner = reports.inner.lock();
            inner.reports.get_mut(&host.parse().unwrap()).unwrap().received = Some(time.to_owned());
        };
        set("n-0", "2099-01-01T00:00:00Z");
        set(&format!("n-{}", MOST_HOSTS - 1), "1970-01-01T00:00:00Z");
        reports.take(report("new", 1), "10.0.0.1");
        let kept = reports.list();
        let has = |host: &str| kept.iter().any(|one| one.host.as_str() == host);
        assert!(has("new") && !has("n-0") && has(&format!("n-{}", MOST_HOSTS - 1)));
        assert_eq!(kept.len(), MOST_HOSTS);
    }

    #[test]
    fn whoever_invents_hosts_crowds_out_his_own() {
        let reports = HostReports::default();
        reports.take(report("real", 1), "10.0.0.2");
        for number in 0..MOST_HOSTS + 100 {
            reports.take(report(&format!("n-{number}"), 1), "10.0.0.1");
        }
        let kept = reports.list();
        assert!(kept.iter().any(|one| one.host.as_str() == "real"));
        assert_eq!(kept.len(), MOST_HOSTS);
    }

    #[test]
    fn long_reports_are_shortened() {
        let reports = HostReports::default();
        let words = "\u{1F4A5}".repeat(3000);
        let long = |words: &str| HostReport {
            agent: words.to_owned(),
            signature: Some(words.to_owned()),
            error: Some(words.to_owned()),
            ..report("a", 1)
        };
        reports.take(long(&words), "10.0.0.1");
        let kept = reports.list().remove(0);
        assert_eq!((kept.agent.chars().count(), kept.error.unwrap().chars().count()), (100, 2000));
        assert_eq!(kept.signature, None, "no signature is that long");
        reports.take(long("short"), "10.0.0.1");
        let kept = reports.list().remove(0);
        assert_eq!(HostReport { received: None, ..kept }, long("short"));
    }

    #[test]
    fn summaries_are_bounded_and_hold_every_host() {
        let reports = HostReports::default();
        // A control character takes six bytes in JSON.
        let error = "\u{1}".repeat(2000);
        for number in 0..2000 {
            reports.take(HostReport { error: Some(error.clone()), ..report(&format!("n-{number}"), 1) }, "10.0.0.1");
        }
        let mut unsent = reports.take_unsent(true);
        let mut sent = BTreeSet::new();
        while !unsent.is_empty() {
            let summary = SlaveReport { sequence: Sequence(1), hosts: reports.take_summary(&mut unsent) };
            assert!(serde_json::to_vec(&summary).unwrap().len() < SUMMARY_BYTES + 20_000);
            sent.extend(summary.hosts.into_iter().map(|one| one.host));
        }
        assert_eq!(sent, reports.take_unsent(true));
        // A host that is gone meanwhile has no report.
        assert!(reports.take_summary(&mut ["gone".parse().unwrap()].into()).is_empty());
    }

    #[test]
    fn a_report_is_sent_once_and_put_back_if_sending_failed() {
        let reports = HostReports::default();
        reports.take(report("a", 1), "10.0.0.1");
        let unsent = reports.take_unsent(false);
        assert_eq!((unsent.len(), reports.take_unsent(false).len()), (1, 0));
        reports.put_back(unsent);
        assert_eq!(reports.take_unsent(false).len(), 1);
        assert_eq!(reports.take_unsent(true).len(), 1);
    }
}
