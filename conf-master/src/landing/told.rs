//! What the log and the metrics say of each push.

use std::time::Instant;

use conf_core::daemon::{Metrics, millis};
use prometheus_client::metrics::counter::Counter;
use tracing::info;

use crate::landing::push::{Outcome, Push};
use crate::landing::update::request::UpdateOutcome;

/// Tells what became of pushes. Copies count together.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// Counts changes that landed.
    landed: Counter,
    /// Counts refs that were refused.
    refused: Counter,
}

impl Told {
    /// Makes the counters.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Told {
            landed: metrics.counter("conf_master_landings", "Changes that landed"),
            refused: metrics.counter("conf_master_refusals", "Refs that were refused"),
        }
    }

    /// Tells the outcome of a push that was taken up when it `began`.
    pub(crate) fn tell(&self, push: &Push, outcome: &Outcome, began: Instant) {
        let nothing_due = outcome.sequence.is_none() && outcome.refusals.iter().all(Option::is_none);
        if nothing_due || matches!(outcome.update, Some(UpdateOutcome::Landed { again: true, .. })) {
            return;
        }
        let refused = outcome.refusals.iter().flatten().count();
        self.refused.inc_by(refused as u64);
        let took_ms = millis(began.elapsed());
        let (by, through, request) =
            (push.pusher.by().unwrap_or_else(|| "not proven".to_owned()), &push.pusher.through, &push.request);
        if let Some(sequence) = outcome.sequence {
            self.landed.inc();
            let notes = outcome.notes.join("; ");
            info!(sequence = sequence.0, refused, by, through, request, took_ms, "landed: {notes}");
        } else {
            let reason = outcome.refusals.iter().flatten().next().map(|one| one.reason.as_str()).unwrap_or_default();
            info!(refused, by, through, request, took_ms, "refused: {reason}");
        }
    }
}
