//! Answers to an update: it landed, would land, conflicts, or is refused.

use conf_core::http::{Response, json};
use http::{HeaderValue, StatusCode, header};
use libconf::name::{CommitId, Sequence};
use serde_json::{Map, Value, json};

use crate::delivery::Delivery;
use crate::fault::{Refusal, RefusalKind};
use crate::http::server::{ConfigForm, etag_of, refused};
use crate::http::update::body::ReadUpdate;
use crate::landing::{Conflict, Outcome, UpdateOutcome};
use crate::store::{LandedRef, version_after};

/// Answers an update by its outcome.
pub(crate) fn answer(read: &ReadUpdate, outcome: Outcome, form: ConfigForm, delivery: Option<&Delivery>) -> Response {
    match outcome.update {
        Some(UpdateOutcome::Landed { refs, again }) => {
            let sequence = outcome.sequence.unwrap_or_default();
            let mut response = landed(read, &refs, sequence, &outcome.notes, form, delivery);
            if again {
                response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
            }
            response
        }
        Some(UpdateOutcome::Conflict(conflict)) => stale(read, &conflict, &outcome.refusals),
        None if outcome.refusals.iter().flatten().all(|refusal| refusal.kind == RefusalKind::DryRun) => tried(outcome),
        None => refused(outcome.refusals),
    }
}

/// Answers a dry run that would have landed.
fn tried(outcome: Outcome) -> Response {
    let notes = some_notes(&outcome.notes);
    json(StatusCode::OK, &object(json!({"dryRun": true, "plan": outcome.plan.unwrap_or_default(), "notes": notes})))
}

fn landed(
    read: &ReadUpdate,
    refs: &[LandedRef],
    sequence: Sequence,
    notes: &[String],
    form: ConfigForm,
    delivery: Option<&Delivery>,
) -> Response {
    let mut etag = None;
    let sections = read.update.changes.iter().zip(&read.texts).map(|(change, text)| {
        let reference = change.section.reference();
        let landed = refs.iter().find(|one| one.name == reference);
        let (commit, changes) = landed.map_or((CommitId::ZERO, 0), |one| (one.commit, one.changes));
        etag = Some(commit);
        let config = match (form, &change.draft) {
            (ConfigForm::Object, Ok(draft)) => Value::Object(draft.values.clone()),
            _ => Value::String(text.clone()),
        };
        object(json!({
            "section": read.several.then_some(&change.section),
            "config": config,
            "schemaVersion": change.schema_version,
            "version": version_after(changes),
            "commit": commit,
        }))
    });
    let mut sections: Vec<Map<String, Value>> = sections.collect();
    let mut body = match sections.pop() {
        Some(one) if !read.several => one,
        last => {
            sections.extend(last);
            object(json!({"sections": sections}))
        }
    };
    body.extend(object(json!({"sequence": sequence, "notes": some_notes(notes), "delivery": delivery})));
    let mut response = json(StatusCode::OK, &body);
    if let Some(etag) = etag.filter(|_| !read.several).and_then(|commit| etag_of(commit).ok()) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}

fn stale(read: &ReadUpdate, conflict: &Conflict, refusals: &[Option<Refusal>]) -> Response {
    let reason = refusals.iter().flatten().find(|refusal| refusal.kind == RefusalKind::Stale);
    let body = object(json!({
        "error": reason.map(|refusal| &refusal.reason),
        "section": read.several.then_some(&conflict.section),
        "version": conflict.version,
        "commit": conflict.commit,
    }));
    json(StatusCode::CONFLICT, &body)
}

fn some_notes(notes: &[String]) -> Option<&[String]> {
    Some(notes).filter(|notes| !notes.is_empty())
}

/// Makes an object of the members that are not null.
fn object(value: Value) -> Map<String, Value> {
    let Value::Object(members) = value else { return Map::new() };
    members.into_iter().filter(|(_, member)| !member.is_null()).collect()
}
