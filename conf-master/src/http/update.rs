//! `POST /api/v1/config/update`: replaces sections, under an optimistic lock.

use std::time::Duration;

use conf_core::{
    http::{Request, Response, Routes, error, json, request},
    settings,
};
use http::{HeaderValue, StatusCode, header};
use libconf::name::{CommitId, ObjectId, RefName, Sequence};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};
use warp::Filter as _;

use crate::http::{Server, git};
use crate::{
    delivery::Delivery,
    fault::refusal::{Fault, Kind, Refusal},
    judge::Wish,
    landing::{
        Options, Outcome, Push, one_line,
        update::{
            Conflict, Decision, Expected, IfMatch, SectionChange, Update, notation::Draft, section::SectionName,
            version_after,
        },
    },
    store::idempotency::{LandedRef, RequestKey},
};

/// The most bytes of one request: four times the text that one section may have, which may stand in it escaped.
const BODY_BYTES: usize = 16 << 20;
/// The most sections of one request.
const SECTIONS: usize = 100;
/// How long delivery is waited for where the request does not say.
const DELIVERY: Duration = Duration::from_secs(30);
/// How long a landing is waited for. Far more than one takes: what is answered after that is that nobody knows.
const LANDING: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct UpdateBody {
    #[serde(default, deserialize_with = "given")]
    request: Option<SectionBody>,
    #[serde(default, deserialize_with = "given")]
    requests: Option<Vec<SectionBody>>,
    #[serde(default)]
    allow_shrink: bool,
    #[serde(default)]
    dry_run: bool,
    #[serde(default, deserialize_with = "given")]
    breaking: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct SectionBody {
    section: SectionName,
    config: Box<RawValue>,
    #[serde(default, deserialize_with = "whole")]
    schema_version: Option<i64>,
    #[serde(default, deserialize_with = "whole")]
    version: Option<i64>,
    #[serde(default, deserialize_with = "given")]
    if_match: Option<String>,
}

/// A member that may be left out, but not be `null`: that would be a lock which somebody forgot to set.
fn given<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A whole number, which JSON may also write as `1.0`.
fn whole<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let number = serde_json::Number::deserialize(deserializer)?;
    let text = number.to_string();
    let whole = text.strip_suffix(".0").unwrap_or(&text).parse::<i64>().ok();
    whole.map(Some).ok_or_else(|| serde::de::Error::custom(format_args!("{number} is no whole number of 64 bits")))
}

#[derive(Deserialize)]
struct UpdateQuery {
    config: Option<ConfigForm>,
    wait: Option<WaitFor>,
    /// Seconds.
    timeout: Option<u64>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WaitFor {
    /// Every host runs it.
    Delivered,
}

/// How a configuration is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ConfigForm {
    /// As an object.
    Object,
    /// As text.
    Text,
}

/// The route.
pub(crate) fn routes(server: Server) -> Routes {
    warp::path!("api" / "v1" / "config" / "update")
        .and(warp::post())
        .and(warp::query::<UpdateQuery>())
        .and(request())
        .then(move |query: UpdateQuery, request: Request| {
            let server = server.clone();
            async move { server.update(query, request).await.unwrap_or_else(|refused| refused) }
        })
        .boxed()
}

/// A request, read.
struct Asked {
    update: Update,
    options: Options,
    /// `requests`, not `request`.
    several: bool,
    /// What was sent for each section.
    texts: Vec<String>,
}

impl Server {
    async fn update(&self, query: UpdateQuery, request: Request) -> Result<Response, Response> {
        let pusher = git::pusher(&request);
        let if_match = request.header("if-match").map(str::to_owned);
        let key = request.header("idempotency-key").map(str::to_owned);
        let bytes = request.body.bytes(BODY_BYTES).await?;
        let read = move || read(&bytes, if_match.as_deref(), key.as_deref());
        let read = tokio::task::spawn_blocking(read).await;
        let asked = read.map_err(|cause| error(StatusCode::INTERNAL_SERVER_ERROR, cause))??;
        let references = asked.update.references();
        let wish = |name: &RefName| Wish { name: name.to_string(), old: ObjectId::ZERO, new: ObjectId::ZERO };
        let push = Push {
            wishes: references.iter().map(wish).collect(),
            atomic: true,
            by: pusher.by.as_deref().map(one_line),
            through: one_line(&pusher.through),
            request: format!("{:016x}", rand::random::<u64>()),
            options: asked.options,
            update: Some(asked.update.clone()),
            order: None,
        };
        let Ok(outcome) = tokio::time::timeout(LANDING, self.lander.land(push)).await else {
            return Err(unavailable(
                "conf-master did not come to it in time, and it may land yet; send it again with the same \
                 Idempotency-Key to learn what became of it",
            ));
        };
        let mut delivery = None;
        if let (Some(WaitFor::Delivered), Some(Decision::Landed { refs, .. })) = (query.wait, &outcome.decision) {
            let wait = query.timeout.map_or(DELIVERY, Duration::from_secs);
            delivery = Some(self.deliver(refs, outcome.sequence.unwrap_or_default(), wait).await);
        }
        Ok(answer(&asked, outcome, query.config.unwrap_or(ConfigForm::Object), delivery))
    }
}

/// Reads a request; what is not of its shape is 400.
fn read(bytes: &[u8], if_match: Option<&str>, key: Option<&str>) -> Result<Asked, Response> {
    let bad = |words: String| error(StatusCode::BAD_REQUEST, words);
    let body: UpdateBody = serde_json::from_slice(bytes).map_err(|cause| {
        bad(format!(
            "the body is not as expected: {cause}; send {{\"request\": {{\"section\": …, \"config\": …, \"schemaVersion\": 1, \
             \"version\": …}}}}"
        ))
    })?;
    let (sections, several) = match (body.request, body.requests) {
        (Some(one), None) => (vec![one], false),
        (None, Some(several)) if (1..=SECTIONS).contains(&several.len()) => (several, true),
        (None, Some(several)) => {
            return Err(bad(format!("`requests` has {} members; 1 to {SECTIONS} may be", several.len())));
        }
        _ => return Err(bad("send either `request`, or `requests` for several sections at once".to_owned())),
    };
    let (mut changes, mut texts) = (Vec::new(), Vec::new());
    for one in sections {
        let section = one.section;
        if changes.iter().any(|change: &SectionChange| change.section == section) {
            let words = format!("{section} stands twice in the request; say once what it shall be");
            return Err(refused(vec![Some(Refusal::of(vec![Fault::new(words)]))]));
        }
        let commit = one.if_match.as_deref().or(if_match).map(parse_if_match);
        if one.version.is_none() && commit.is_none() {
            return Err(bad(format!(
                "{section}: say which `version` you changed (-1 for a new section), or its commit as If-Match"
            )));
        }
        let raw = one.config.get();
        let (draft, text) = match raw.as_bytes().first() {
            Some(b'{') => (Draft::from_object(raw), raw.to_owned()),
            Some(b'"') => {
                let text: String = serde_json::from_str(raw).map_err(|cause| bad(format!("`config`: {cause}")))?;
                (Draft::from_text(text.clone()), text)
            }
            _ => return Err(bad("`config` must be an object, or JSON or HOCON as text".to_owned())),
        };
        let expected = Expected { version: one.version, commit };
        changes.push(SectionChange { section, draft, schema_version: one.schema_version.unwrap_or(1), expected });
        texts.push(text);
    }
    let key = key.map(|key| RequestKey::new(key, &fingerprinted(bytes, if_match))).transpose().map_err(bad)?;
    let breaking = body.breaking.as_deref().map(reason).transpose().map_err(bad)?;
    let options = Options { dry_run: body.dry_run, allow_shrink: body.allow_shrink };
    Ok(Asked { update: Update { changes, key, breaking }, options, several, texts })
}

/// Why compatibility is broken, fit for a line of a commit's message.
fn reason(text: &str) -> Result<String, String> {
    if text.chars().all(|letter| letter.is_whitespace() || letter.is_control()) {
        return Err("`breaking` says nothing; write why compatibility is broken".to_owned());
    }
    Ok(one_line(text))
}

/// What two requests must have in common to be one: everything but the order and the spaces of their JSON.
fn fingerprinted(bytes: &[u8], if_match: Option<&str>) -> Vec<u8> {
    // What is nested too deep for a value is compared as it came.
    let mut canonical = match serde_json::from_slice::<Value>(bytes) {
        Ok(value) => settings::to_canonical(&value),
        Err(_) => bytes.to_owned(),
    };
    canonical.extend(if_match.unwrap_or_default().bytes());
    canonical
}

/// Reads `If-Match`: `*`, or tags as an `ETag` shows them. A tag that is none of ours is no branch's.
fn parse_if_match(text: &str) -> IfMatch {
    match text.trim() {
        "*" => IfMatch::Anything,
        tags => IfMatch::OneOf(tags.split(',').filter_map(|tag| tag.trim().trim_matches('"').parse().ok()).collect()),
    }
}

fn answer(asked: &Asked, outcome: Outcome, form: ConfigForm, delivery: Option<Delivery>) -> Response {
    match outcome.decision {
        Some(Decision::Landed { refs, again }) => {
            let sequence = outcome.sequence.unwrap_or_default();
            let mut response = landed(asked, &refs, sequence, &outcome.notes, form, delivery);
            if again {
                response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
            }
            response
        }
        Some(Decision::Conflict(conflict)) => stale(asked, &conflict, &outcome.refusals),
        None if outcome.refusals.iter().flatten().all(|refusal| refusal.kind == Kind::DryRun) => tried(outcome),
        None => refused(outcome.refusals),
    }
}

/// The answer to a request that was only tried, and would have landed.
fn tried(outcome: Outcome) -> Response {
    let mut body = json!({"dryRun": true, "plan": outcome.plan.unwrap_or_default()});
    if !outcome.notes.is_empty() {
        body["notes"] = json!(outcome.notes);
    }
    json(StatusCode::OK, &body)
}

fn landed(
    asked: &Asked,
    refs: &[LandedRef],
    sequence: Sequence,
    notes: &[String],
    form: ConfigForm,
    delivery: Option<Delivery>,
) -> Response {
    let mut etag = None;
    let sections = asked.update.changes.iter().zip(&asked.texts).map(|(change, text)| {
        let reference = change.section.reference();
        let landed = refs.iter().find(|one| one.name == reference);
        let (commit, changes) = landed.map_or((CommitId::ZERO, 0), |one| (one.commit, one.changes));
        etag = Some(commit);
        let config = match (form, &change.draft) {
            (ConfigForm::Object, Ok(draft)) => Value::Object(draft.values.clone()),
            _ => Value::String(text.clone()),
        };
        let mut section = Map::new();
        if asked.several {
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
        Some(one) if !asked.several => one,
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
    if let Some(etag) = etag.filter(|_| !asked.several).and_then(|commit| etag_of(commit).ok()) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}

/// The `ETag` of a section: its branch's commit.
pub(crate) fn etag_of(commit: CommitId) -> Result<HeaderValue, header::InvalidHeaderValue> {
    format!("\"{commit}\"").parse()
}

fn stale(asked: &Asked, conflict: &Conflict, refusals: &[Option<Refusal>]) -> Response {
    let reason = refusals.iter().flatten().find(|refusal| refusal.kind == Kind::Stale);
    let mut body = Map::new();
    body.insert("error".to_owned(), json!(reason.map(|refusal| &refusal.reason)));
    if asked.several {
        body.insert("section".to_owned(), json!(conflict.section));
    }
    body.insert("version".to_owned(), json!(conflict.version));
    if let Some(commit) = conflict.commit {
        body.insert("commit".to_owned(), json!(commit));
    }
    json(StatusCode::CONFLICT, &body)
}

/// The answer to what did not land.
pub(crate) fn refused(refusals: Vec<Option<Refusal>>) -> Response {
    let refusals: Vec<Refusal> = refusals.into_iter().flatten().collect();
    if let Some(one) = refusals.iter().find(|one| one.kind == Kind::Busy) {
        return unavailable(&one.reason);
    }
    if let Some(one) = refusals.iter().find(|one| one.kind == Kind::Failed) {
        return error(StatusCode::INTERNAL_SERVER_ERROR, &one.reason);
    }
    let faults = refusals.into_iter().filter(|one| one.kind == Kind::Invalid);
    let faults = faults.flat_map(|one| if one.faults.is_empty() { vec![Fault::new(one.reason)] } else { one.faults });
    let faults = Refusal::of(faults.collect());
    json(StatusCode::UNPROCESSABLE_ENTITY, &json!({"error": faults.reason, "faults": faults.faults}))
}

fn unavailable(words: &str) -> Response {
    let mut response = error(StatusCode::SERVICE_UNAVAILABLE, words);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

#[cfg(test)]
mod fuzz_tests {
    use super::*;

    /// Bytes above ASCII stand for words of these bodies and names: random input gets further in than bytes alone would.
    fn text(input: &[u8]) -> String {
        const WORDS: [&str; 16] = [
            "{\"request\": {\"section\": \"",
            "{\"requests\": [{\"section\": \"",
            "\", \"config\": {\"a\": 1",
            "}, \"schemaVersion\": 1, \"version\": -1}",
            "}, \"ifMatch\": \"*\"}",
            ", \"dryRun\": true",
            "]}",
            "}",
            "services/web",
            "datacenters/us-west/v1",
            "datacenter-configuration/small",
            ":applications/shop",
            "@hotfix",
            "/",
            "@",
            ":",
        ];
        let word = |byte: &u8| match byte.checked_sub(128) {
            None => char::from(*byte).to_string(),
            Some(word) => WORDS[usize::from(word) % WORDS.len()].to_owned(),
        };
        input.iter().take(200).map(word).collect()
    }

    #[test]
    fn any_body_is_read_or_refused() {
        bolero::check!().for_each(|input| {
            let Ok(asked) = read(text(input).as_bytes(), None, None) else { return };
            assert_eq!(asked.texts.len(), asked.update.changes.len());
        });
    }

    #[test]
    fn a_section_is_shown_as_it_is_read() {
        bolero::check!().for_each(|input| {
            let text = text(input);
            let Ok(section) = text.parse::<SectionName>() else { return };
            assert_eq!(section.to_string().parse(), Ok(section.clone()), "{text}");
            // Whatever it is called, its branch is one that may be written.
            assert!(!section.reference().is_reserved(), "{text}");
        });
    }
}
