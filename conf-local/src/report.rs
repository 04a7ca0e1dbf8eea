//! Reports this host's state to a conf-slave: after each change, and every minute. Relies on
//! `clock` and `state`.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use conf_core::{
    api::{HostReport, HostState, ReportAnswer},
    daemon::chain,
    retry::Backoff,
    secret::Identity,
    sign::{self, TrustedKeys},
    upstream::Upstreams,
};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::random_up_to,
    state::{Agent, View, Watermark},
};

/// 60 s between two reports without a change.
const EVERY: Duration = Duration::from_secs(60);
/// 50 ms, within which a report waits at random: hosts that changed together must not report in the
/// same instant.
const SPREAD: Duration = Duration::from_millis(50);
/// 2,000 characters of an error in a report: a conf-slave keeps one report of every host.
const MOST_WORDS: usize = 2000;

/// The name of this channel in `away`.
const REPORTS: &str = "reports";

/// Reports until `stop`. If a report does not arrive, the newest state is sent again. A failure
/// blocks nothing.
///
/// Each report is signed, if the identity can sign: a delivery barrier decides by reports, and a
/// conf-slave could invent them. The central sequence in a conf-slave's answer counts if one of
/// `keys` has signed it.
pub(crate) async fn run(
    agent: Agent,
    surrogates: Arc<Upstreams>,
    identity: Arc<Identity>,
    keys: TrustedKeys,
    stop: CancellationToken,
) {
    let mut clock = Clock(0);
    let mut views = agent.follow();
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let mut sent = None;
    let mut last = None;
    let mut next = Instant::now();
    loop {
        let report = report(&agent);
        // On the way to a newer snapshot a report would be outdated in a moment.
        let changed = sent.as_ref() != Some(&report) && report.state != HostState::Updating;
        if changed || Instant::now() >= next {
            sleep(random_up_to(SPREAD)).await;
            let signed = sign::sign_report(&report, clock.next(), &identity);
            let answer = tokio::select! {
                () = stop.cancelled() => return,
                answer = surrogates.post_json::<_, ReportAnswer>("api/v1/reports", &signed) => answer,
            };
            match answer {
                Ok(ReportAnswer { watermark, deleted }) => {
                    agent.set_back(REPORTS);
                    agent.set_deleted(deleted);
                    if let Some(watermark) = watermark.filter(|watermark| last.as_ref() != Some(watermark)) {
                        match Watermark::proven(&watermark, &report.datacenter, &keys) {
                            Ok(proven) => agent.record(proven),
                            Err(error) => {
                                let error = chain(&error);
                                tracing::warn!(error, "a conf-slave's watermark is not proven; ignored");
                            }
                        }
                        last = Some(watermark);
                    }
                    backoff.reset();
                    sent = Some(report);
                    next = Instant::now() + EVERY - EVERY / 8 + random_up_to(EVERY / 4);
                }
                Err(error) => {
                    agent.set_away(REPORTS, &chain(&error));
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = sleep(backoff.after(error.retry_after())) => continue,
                    }
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep_until(next) => {}
            changed = views.changed() => if changed.is_err() { return },
        }
    }
}

fn report(agent: &Agent) -> HostReport {
    let View { status, .. } = &*agent.view();
    let failures = status.failures();
    // A watcher that could not be told does not change the agent's own state.
    let unwell = failures.first().filter(|_| status.state == HostState::Current);
    let error = unwell.map(|failure| failure.error.clone()).or(status.error.clone()).or(status.deleted_words());
    HostReport {
        host: status.host.clone(),
        datacenter: status.datacenter.clone(),
        sequence: status.sequence,
        commit: status.commit,
        state: if unwell.is_some() { HostState::Failed } else { status.state },
        error: error.map(|words| words.chars().take(MOST_WORDS).collect()),
        failures,
        agent: status.agent.clone(),
        time: None,
        signature: None,
        received: None,
    }
}

/// Gives each report a later time than the one before, even if the host's clock is set back.
struct Clock(u64);

impl Clock {
    /// Returns milliseconds since 1970.
    fn next(&mut self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        self.0 = u64::try_from(now).unwrap_or(u64::MAX).max(self.0 + 1);
        self.0
    }
}
