//! What the log, the audit log and the metrics say of each push.

use std::time::Instant;

use conf_core::audit::{AuditEntry, AuditLog, Verdict};
use conf_core::daemon::{Metrics, millis};
use prometheus_client::metrics::counter::Counter;
use tracing::info;

use crate::fault::{Refusal, RefusalKind};
use crate::landing::push::{Outcome, Push};
use crate::landing::update::request::UpdateOutcome;

/// Tells what became of pushes. Copies count together.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// Counts changes that landed.
    landed: Counter,
    /// Counts refs that were refused.
    refused: Counter,
    /// Who asked for what.
    audit: AuditLog,
}

impl Told {
    /// Makes the counters.
    pub(crate) fn new(metrics: &Metrics, audit: AuditLog) -> Self {
        Told {
            audit,
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
        self.note(push, outcome);
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

    /// Notes in the audit log what landed of a push and what did not. A dry run is noted where its
    /// author lacks a right.
    pub(crate) fn note(&self, push: &Push, outcome: &Outcome) {
        if !self.audit.is_kept() {
            return;
        }
        // A push without a ref has one reason all the same.
        let names = push.updates.iter().map(|update| update.name.as_str()).chain([""]);
        let decided: Vec<(&str, Option<&Refusal>)> = names.zip(outcome.refusals.iter().map(Option::as_ref)).collect();
        let note = |verdict: Verdict, is_such: &dyn Fn(Option<&Refusal>) -> bool| {
            let such = || decided.iter().filter(|(_, refusal)| is_such(*refusal));
            let Some((_, first)) = such().next() else { return };
            self.audit.note(AuditEntry {
                verdict,
                by: push.pusher.by(),
                token: push.pusher.token(),
                from: push.pusher.through.clone(),
                peer: push.pusher.who.to_string(),
                is_host: push.pusher.principal.is_host(),
                refs: such().map(|(name, _)| (*name).to_owned()).filter(|name| !name.is_empty()).collect(),
                sequence: outcome.sequence.filter(|_| verdict == Verdict::Landed).map(|sequence| sequence.0),
                reason: first.map(|refusal| refusal.reason.clone()),
                policy: outcome.policy.map(|policy| policy.to_string()),
                id: push.request.clone(),
                ..AuditEntry::default()
            });
        };
        let is_denied = |refusal: &Refusal| refusal.kind == RefusalKind::Denied;
        if outcome.sequence.is_some() {
            note(Verdict::Landed, &|refusal| refusal.is_none());
        }
        note(Verdict::Denied, &|refusal| refusal.is_some_and(is_denied));
        if !push.options.dry_run {
            note(Verdict::Refused, &|refusal| refusal.is_some_and(|one| !is_denied(one)));
        }
    }
}
