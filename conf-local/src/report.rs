//! Reports this host's state to a conf-slave: after each change, and every minute. Relies on
//! `clock`, `snapshot`, `state` and `follow`.

use std::{sync::Arc, time::Duration};

use conf_core::{
    api::{HostReport, HostState, MOST_SOURCES, ReportAnswer},
    daemon::chain,
    retry::Backoff,
    secret::Identity,
    sign,
    upstream::Upstreams,
};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::random_up_to,
    follow,
    snapshot::HostKeys,
    state::{Agent, ReportNumbers, View, Watermark},
};

/// 60 s between two reports without a change.
const EVERY: Duration = Duration::from_secs(60);
/// 50 ms, within which a report waits at random: hosts that changed together must not report in the
/// same instant.
const SPREAD: Duration = Duration::from_millis(50);
/// 100 ms, and up to as long more, before a report of another change. Where the change took long,
/// this host shares a machine or a conf-slave with others that are still at it: a report waits up
/// to four times as long.
const AFTER_CHANGE: Duration = Duration::from_millis(100);
/// 1 s: a report waits no longer.
const LONGEST: Duration = Duration::from_secs(1);
/// 2,000 characters of an error in a report: a conf-slave keeps one report of every host.
const MOST_WORDS: usize = 2000;

/// The name in `away` of a watermark of another history.
const WATERMARK: &str = "watermark";
/// The name of this channel in `away`.
const REPORTS: &str = "reports";

/// Reports until `stop`. If a report does not arrive, the newest state is sent again. A failure
/// blocks nothing.
///
/// Each report is signed, if the identity can sign: a delivery barrier decides by reports, and a
/// conf-slave could invent them. The central sequence in a conf-slave's answer counts if one of
/// `keys` has signed it. Where the conf-slave knows more statements about keys, they are asked for.
///
/// The number of a report stands in its member `time`, by which conf-master orders them.
pub(crate) async fn run(
    agent: Agent,
    surrogates: Arc<Upstreams>,
    identity: Arc<Identity>,
    keys: HostKeys,
    mut numbers: ReportNumbers,
    stop: CancellationToken,
) {
    let mut views = agent.follow();
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let mut sent = None;
    let mut last = None;
    let mut next = Instant::now();
    loop {
        let report = report(&agent);
        // On the way to a newer snapshot a report would be outdated in a moment.
        let changed = sent.as_ref() != Some(&report) && report.state != HostState::Updating;
        let is_due = Instant::now() >= next;
        if changed || is_due {
            let is_of_change = sent.as_ref().is_some_and(|sent: &HostReport| sent.sequence != report.sequence);
            let wait = if is_of_change { after_change(agent.last_took()) } else { random_up_to(SPREAD) };
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(wait) => {}
            }
            // Most watchers are told within this time, and then nothing is left to say of them.
            let report = self::report(&agent);
            if !is_due && report.state == HostState::Updating {
                continue;
            }
            let signed = sign::sign_report(&report, numbers.next().await, &identity);
            let answer = tokio::select! {
                () = stop.cancelled() => return,
                answer = surrogates.post_json::<_, ReportAnswer>("api/v1/reports", &signed) => answer,
            };
            match answer {
                Ok(ReportAnswer { watermark, freshness, deleted, keys: known }) => {
                    // One of them may have signed the watermark. At the stop the loop ends soon.
                    if known > keys.trusted().count() {
                        stop.run_until_cancelled(keys.ask(surrogates.in_order())).await;
                    }
                    agent.set_back(REPORTS);
                    agent.set_deleted(deleted);
                    if let Some(watermark) = watermark.filter(|watermark| last.as_ref() != Some(watermark)) {
                        match Watermark::proven(&watermark, &report.datacenter, keys.trusted()) {
                            Ok(proven) => {
                                show_fork(&agent, proven);
                                agent.record(proven);
                            }
                            Err(error) => {
                                let error = chain(&error);
                                tracing::warn!(error, "a conf-slave's watermark is not proven; ignored");
                            }
                        }
                        last = Some(watermark);
                    }
                    if let Some(statement) = freshness {
                        agent.hear("a conf-slave", statement, keys.trusted());
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

/// Shows a watermark that names another snapshot under the exported number: both are signed.
fn show_fork(agent: &Agent, watermark: Watermark) {
    let exported = agent.view().exported.as_ref().map(|exported| exported.snapshot());
    match follow::fork(watermark.snapshot, exported) {
        Some(words) => agent.set_away(WATERMARK, &format!("conf-master's watermark: {words}")),
        None => agent.set_back(WATERMARK),
    }
}

/// Returns how long the report of a change waits that took so long.
fn after_change(took: Duration) -> Duration {
    (AFTER_CHANGE + random_up_to(AFTER_CHANGE.max(took * 4))).min(LONGEST)
}

fn report(agent: &Agent) -> HostReport {
    let View { status, .. } = &*agent.view();
    let failures = status.failures();
    // A watcher that could not be told does not change the agent's own state.
    let unwell = status.could_not_be_told().filter(|_| status.state == HostState::Current);
    let is_unwell = unwell.is_some();
    let error = unwell.or(status.error.clone()).or(status.deleted_words()).or(status.secrets.first().cloned());
    HostReport {
        host: status.host.clone(),
        datacenter: status.datacenter.clone(),
        sequence: status.sequence,
        commit: status.commit,
        state: if is_unwell { HostState::Failed } else { status.state },
        error: error.map(|words| words.chars().take(MOST_WORDS).collect()),
        failures,
        sources: status.sources.iter().take(MOST_SOURCES).cloned().collect(),
        stale: status.freshness.stale,
        agent: status.agent.clone(),
        time: None,
        signature: None,
        received: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_a_change_waits_until_others_have_it_and_not_for_long() {
        for (took, most) in [(0, 200), (5, 200), (50, 300), (100_000, 1000)] {
            for _ in 0..100 {
                let wait = after_change(Duration::from_millis(took));
                assert!((AFTER_CHANGE..=Duration::from_millis(most)).contains(&wait), "{took} ms: {wait:?}");
            }
        }
    }
}
