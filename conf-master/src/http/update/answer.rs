//! Answers to an update: it landed, would land, conflicts, or is refused.

use conf_core::http::{Response, json};
use http::{HeaderValue, StatusCode, header};
use libconf::name::{CommitId, Sequence};
use serde_json::{Map, Value, json};

use crate::delivery::Delivery;
use crate::fault::{Kind, Refusal};
use crate::http::server::{ConfigForm, etag_of, refused};
use crate::http::update::body::ReadUpdate;
use crate::landing::{Conflict, Outcome, UpdateOutcome};
use crate::store::{LandedRef, version_after};

/// Answers an update by its outcome.
pub(crate) fn answer(read: &ReadUpdate, outcome: Outcome, form: ConfigForm, delivery: Option<Delivery>) -> Response {
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
        None if outcome.refusals.iter().flatten().all(|refusal| refusal.kind == Kind::DryRun) => tried(outcome),
        None => refused(outcome.refusals),
    }
}

/// Answers a dry run that would have landed.
fn tried(outcome: Outcome) -> Response {
    let mut body = json!({"dryRun": true, "plan": outcome.plan.unwrap_or_default()});
    if !outcome.notes.is_empty() {
        body["notes"] = json!(outcome.notes);
    }
    json(StatusCode::OK, &body)
}

fn landed(
    read: &ReadUpdate,
    refs: &[LandedRef],
    sequence: Sequence,
    notes: &[String],
    form: ConfigForm,
    delivery: Option<Delivery>,
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
        let mut section = Map::new();
        if read.several {
            section.insert("section".to_owned(), json!(change.section));
        }
        section.insert("config".to_owned(), config);
        section.insert("schemaVersion".to_owned(), json!(change.schema_version));
        section.insert("version".to_owned(), json!(version_after(changes)));
        section.insert("commit".to_owned(), json!(commit));
        section
    });
    let mut sections: Vec<Map<String, Value>> = sections.collect();
    let mut body = match sections.pop() {
        Some(one) if !read.several => one,
        last => {
            sections.extend(last);
            Map::from_iter([("sections".to_owned(), json!(sections))])
        }
    };
    body.insert("sequence".to_owned(), json!(sequence));
    if !notes.is_empty() {
        body.insert("notes".to_owned(), json!(notes));
    }
    if let Some(delivery) = delivery {
        body.insert("delivery".to_owned(), json!(delivery));
    }
    let mut response = json(StatusCode::OK, &body);
    if let Some(etag) = etag.filter(|_| !read.several).and_then(|commit| etag_of(commit).ok()) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}

fn stale(read: &ReadUpdate, conflict: &Conflict, refusals: &[Option<Refusal>]) -> Response {
    let reason = refusals.iter().flatten().find(|refusal| refusal.kind == Kind::Stale);
    let mut body = Map::new();
    body.insert("error".to_owned(), json!(reason.map(|refusal| &refusal.reason)));
    if read.several {
        body.insert("section".to_owned(), json!(conflict.section));
    }
    body.insert("version".to_owned(), json!(conflict.version));
    if let Some(commit) = conflict.commit {
        body.insert("commit".to_owned(), json!(commit));
    }
    json(StatusCode::CONFLICT, &body)
}
