//! Reads the body of an update.

use conf_core::http::{Response, error};
use conf_core::settings;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::fault::{Fault, Refusal};
use crate::http::server::refused;
use crate::judge::ProposalOptions;
use crate::landing::{Draft, Expected, IfMatch, SectionChange, SectionName, Update};
use crate::store::RequestKey;
use crate::text::one_line;

/// The most sections of one request.
const SECTIONS: usize = 100;

/// A request for an update, read.
pub(crate) struct ReadUpdate {
    /// The update.
    pub(crate) update: Update,
    /// The options.
    pub(crate) options: ProposalOptions,
    /// The request has `requests`, not `request`.
    pub(crate) several: bool,
    /// The text that was sent for each section.
    pub(crate) texts: Vec<String>,
}

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

/// Reads a member that may be absent, but not `null`: that would be a lock which somebody forgot to
/// set.
fn given<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Reads a whole number, which JSON may also write as `1.0`.
fn whole<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let number = serde_json::Number::deserialize(deserializer)?;
    let text = number.to_string();
    let whole = text.strip_suffix(".0").unwrap_or(&text).parse::<i64>().ok();
    whole.map(Some).ok_or_else(|| serde::de::Error::custom(format_args!("{number} is not a whole number of 64 bits")))
}

/// Reads a request; a request of another shape is 400.
pub(crate) fn read(bytes: &[u8], if_match: Option<&str>, key: Option<&str>) -> Result<ReadUpdate, Response> {
    let bad = |words: String| error(StatusCode::BAD_REQUEST, words);
    let body: UpdateBody = serde_json::from_slice(bytes).map_err(|cause| {
        bad(format!(
            "the body is not as expected: {}; send {{\"request\": {{\"section\": …, \"config\": …, \"schemaVersion\": 1, \
             \"version\": …}}}}",
            settings::without_value(&cause.to_string())
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
            let words = format!("{section} is named twice in the request; name it once");
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
    let options =
        ProposalOptions { dry_run: body.dry_run, allow_shrink: body.allow_shrink, ..ProposalOptions::default() };
    Ok(ReadUpdate { update: Update { changes, key, breaking }, options, several, texts })
}

/// Checks the reason for breaking compatibility, and makes it one line for a commit's message.
fn reason(text: &str) -> Result<String, String> {
    if text.chars().all(|letter| letter.is_whitespace() || letter.is_control()) {
        return Err("`breaking` says nothing; write why compatibility is broken".to_owned());
    }
    Ok(one_line(text))
}

/// Returns what two equal requests have in common: everything but the order and the spaces of their
/// JSON.
fn fingerprinted(bytes: &[u8], if_match: Option<&str>) -> Vec<u8> {
    // JSON that is nested too deep for a value is compared byte for byte.
    let mut canonical = match serde_json::from_slice::<Value>(bytes) {
        Ok(value) => settings::to_canonical(&value),
        Err(_) => bytes.to_owned(),
    };
    canonical.extend(if_match.unwrap_or_default().bytes());
    canonical
}

/// Reads `If-Match`: `*`, or tags as an `ETag` shows them. A tag of another form matches no branch.
fn parse_if_match(text: &str) -> IfMatch {
    match text.trim() {
        "*" => IfMatch::Anything,
        tags => IfMatch::OneOf(tags.split(',').filter_map(|tag| tag.trim().trim_matches('"').parse().ok()).collect()),
    }
}
