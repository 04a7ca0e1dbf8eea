//! `/readyz` and `/metrics`.

use std::{sync::atomic::AtomicU64, time::Duration};

use conf_core::{
    api::HostState,
    daemon::Metrics,
    freshness::{FreshnessState, Moment},
    http::{Health, no_files_left},
};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::state::Agent;

/// 5 s between two looks at what no view shows: whether files can be opened.
const EVERY: Duration = Duration::from_secs(5);

const GAUGES: [(&str, &str); 7] = [
    ("conf_local_sequence", "The sequence of what is exported"),
    ("conf_local_pointer_sequence", "The sequence that the pointer names"),
    ("conf_local_components", "Components exported"),
    ("conf_local_component_faults", "Components that were held back"),
    ("conf_local_failed", "1 while the wanted snapshot could not be taken"),
    ("conf_local_damage", "What something else has changed or removed on the disk"),
    ("conf_local_away", "Servers that cannot be reached"),
];

/// Keeps `/readyz` and `/metrics` equal to the view, until `stop`. The agent is ready once there
/// are files to read.
pub(crate) async fn run(agent: Agent, health: Health, metrics: Metrics, stop: CancellationToken) {
    let gauges: [Gauge; 7] = GAUGES.map(|(name, help)| metrics.gauge(name, help));
    let time = Gauge::<f64, AtomicU64>::default();
    let time = metrics.register("conf_local_switch_seconds", "From the pointer to the last switch", time);
    let switches: Counter = metrics.counter("conf_local_switches", "Switches of the export");
    let stale: Gauge = metrics.gauge("conf_local_stale", "1 while conf-master was not heard within --stale-after");
    let age: Gauge = metrics.gauge(
        "conf_local_freshness_age_seconds",
        "The age of conf-master's last freshness statement, -1 before the first one",
    );
    let shown = agent.clone();
    metrics.on_reading(move || {
        let freshness = FreshnessState::of(&shown.view().freshness, Moment::now());
        stale.set(i64::from(freshness.stale));
        age.set(freshness.age_seconds.map_or(-1, |age| i64::try_from(age).unwrap_or(i64::MAX)));
    });
    let mut views = agent.follow();
    let mut seen = agent.view().status.sequence;
    let mut look = Instant::now();
    loop {
        let view = views.borrow_and_update().clone();
        let status = &view.status;
        let values = [
            status.sequence.0,
            status.pointer.map_or(0, |pointer| pointer.sequence.0),
            status.components as u64,
            status.faults.len() as u64,
            u64::from(status.state == HostState::Failed),
            status.damage.len() as u64,
            status.away.len() as u64,
        ];
        for (gauge, value) in gauges.iter().zip(values) {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        match (&view.exported, &status.error) {
            (Some(_), _) => health.set_ready(),
            (None, Some(error)) => health.set_unready(format!("nothing is exported yet: {error}")),
            (None, None) => health.set_unready("nothing is exported yet"),
        }
        let freshness = FreshnessState::of(&view.freshness, Moment::now());
        health.remark("freshness", freshness.problem().map(str::to_owned));
        if look <= Instant::now() {
            health.report("file descriptors", no_files_left());
            look = Instant::now() + EVERY;
        }
        if status.sequence != seen {
            seen = status.sequence;
            switches.inc();
            time.set(agent.last_took().as_secs_f64());
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = views.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(look) => {}
        }
    }
}
