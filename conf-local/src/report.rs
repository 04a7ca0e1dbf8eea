//! Tells a surrogate how this host fares: after each change, and every minute.

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
use rand::Rng;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    state::{Agent, View, central::Watermark},
    transaction::Audience,
};

/// How often a host says that it is there.
const EVERY: Duration = Duration::from_secs(60);
/// Hosts that changed together do not all report in the same instant.
const SPREAD: Duration = Duration::from_millis(50);
/// An error's words in a report are cut here: a surrogate keeps one report of every host.
const MOST_WORDS: usize = 2000;

/// Reports until `stop`. A report that does not arrive is sent again, newest state first; it is never an obstacle.
///
/// Each is signed, where the identity can sign: a delivery barrier decides by them, and a surrogate could invent them.
///
/// What a surrogate answers of the central sequence counts when one of `keys` has signed it.
pub async fn run(
    audience: Audience,
    surrogates: Arc<Upstreams>,
    identity: Arc<Identity>,
    keys: TrustedKeys,
    stop: CancellationToken,
) {
    let mut clock = Clock(0);
    let mut views = audience.agent.follow();
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let mut sent = None;
    let mut heard = None;
    let mut next = Instant::now();
    loop {
        let report = report(&audience.agent);
        // On the way to a newer snapshot a host has nothing to tell that it does not tell better in a moment.
        let changed = sent.as_ref() != Some(&report) && report.state != HostState::Updating;
        if changed || Instant::now() >= next {
            let pause = rand::rng().random_range(Duration::ZERO..SPREAD);
            sleep(pause).await;
            let signed = sign::sign_report(&report, clock.next(), &identity);
            let answer = tokio::select! {
                () = stop.cancelled() => return,
                answer = surrogates.post_json::<_, ReportAnswer>("api/v1/reports", &signed) => answer,
            };
            match answer {
                Ok(ReportAnswer { watermark }) => {
                    audience.back(WHAT);
                    if let Some(watermark) = watermark.filter(|watermark| heard.as_ref() != Some(watermark)) {
                        match Watermark::proven(&watermark, &report.datacenter, &keys) {
                            Ok(proven) => audience.agent.hear(proven),
                            Err(error) => {
                                let error = chain(&error);
                                tracing::warn!(error, "a conf-slave's watermark is not proven; passed over");
                            }
                        }
                        heard = Some(watermark);
                    }
                    backoff.reset();
                    sent = Some(report);
                    next = Instant::now() + EVERY - EVERY / 8 + rand::rng().random_range(Duration::ZERO..EVERY / 4);
                }
                Err(error) => {
                    audience.away(WHAT, chain(&error));
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

const WHAT: &str = "reports";

fn report(agent: &Agent) -> HostReport {
    let View { status, .. } = &*agent.view();
    HostReport {
        host: status.host.clone(),
        datacenter: status.datacenter.clone(),
        sequence: status.sequence,
        commit: status.commit,
        state: status.state,
        error: status.error.as_ref().map(|words| words.chars().take(MOST_WORDS).collect()),
        agent: status.agent.clone(),
        time: None,
        signature: None,
        received: None,
    }
}

/// Gives each report a later time than the one before, also when the host's clock is set back.
struct Clock(u64);

impl Clock {
    /// Milliseconds since 1970.
    fn next(&mut self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        self.0 = u64::try_from(now).unwrap_or(u64::MAX).max(self.0 + 1);
        self.0
    }
}
