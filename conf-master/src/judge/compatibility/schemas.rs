//! Compares two schemas: whether one allows only what the other allows.
//!
//! The library that validates settings decides that, on its normal form of both. A containment that
//! it cannot prove counts as broken.

use std::borrow::Cow;

use conf_core::settings::{Compatibility, Format, JsonPointer, Lines};
use jsonschema::CanonicalizationError;
use jsonschema::canonical::{self, CanonicalSchema, CanonicalView, Containment, OperandMismatch};
use serde_json::{Value, json};

use crate::judge::compatibility::explain;
use crate::judge::compatibility::violation::{Allowance, Direction, Violation, directions};
use crate::judge::schema::compile::{compiled, parse, patterns};
use crate::judge::schema::fault::{BadSchema, cut};

/// The key by which a schema declares its promise.
pub(crate) const KEY: &str = "x-compatibility";
/// The key by which a schema says that its programs ignore keys that they do not know.
pub(crate) const UNKNOWN_KEYS: &str = "x-unknown-keys";
/// Its value for that; `refused` is the other one.
pub(crate) const IGNORED: &str = "ignored";

/// Finds the places where a change to `after` would break the promise of `before`; `None` is no
/// schema. Errors: `after` is no schema that can be used.
///
/// With a `before` this may take any time, so that only the worker calls it.
pub(crate) fn compare(before: Option<&str>, after: Option<&str>) -> Result<Vec<Violation>, BadSchema> {
    // No program was written for a schema that could not be used.
    let old = before.and_then(|text| parse(text).ok()).map(Value::Object);
    let old = old.filter(|old| compiled(old).is_ok());
    let directions = old.as_ref().map_or(&[][..], |old| directions(promise(old).unwrap_or_default()));
    let new = match after.map(parse) {
        Some(Ok(schema)) => Value::Object(schema),
        // The components that run it decide whether it has to be a valid schema.
        Some(Err(_)) if directions.is_empty() => return Ok(Vec::new()),
        Some(Err(bad)) => return Err(bad),
        // Without a schema any object is allowed.
        None => json!({}),
    };
    if let Err(found) = promise(&new) {
        let Ok(place) = format!("/{KEY}").parse::<JsonPointer>();
        let line = after.and_then(|text| Lines::of(Format::Json, text.as_bytes())?.at(&place));
        let reason = format!("`{KEY}` is {found}; write backward, forward, full or none");
        return Err(BadSchema { line, reason });
    }
    if let Some(found) = new.get(UNKNOWN_KEYS).filter(|value| ![IGNORED, "refused"].iter().any(|word| value == word)) {
        let Ok(place) = format!("/{UNKNOWN_KEYS}").parse::<JsonPointer>();
        let line = after.and_then(|text| Lines::of(Format::Json, text.as_bytes())?.at(&place));
        let reason = format!("`{UNKNOWN_KEYS}` is {}; write {IGNORED} or refused", cut(&found.to_string()));
        return Err(BadSchema { line, reason });
    }
    let Some(old) = old.filter(|_| !directions.is_empty()) else { return Ok(Vec::new()) };
    compiled(&new)?;
    // `format` is only an annotation to the validator, but may be more to a program.
    let with_formats = [before, after].into_iter().flatten().any(|text| text.contains("\"format\""));
    let mut violations = Vec::new();
    for asserted in [None, Some(true)].into_iter().take(1 + usize::from(with_formats)) {
        for direction in directions {
            if violations.iter().any(|violation: &Violation| violation.direction == *direction) {
                continue;
            }
            let (inner, outer) = match direction {
                Direction::Backward => (&new, &old),
                Direction::Forward => (&old, &new),
            };
            // Programs written for the outer schema read what the inner one allows.
            let outer = readable(outer);
            let found = match (&NormalSchema::new(inner, asserted), &NormalSchema::new(&outer, asserted)) {
                (Ok(inner), Ok(outer)) => differences(inner, outer),
                (Err(error), _) | (_, Err(error)) => unknown(why(error)),
            };
            violations.extend(found.into_iter().map(|(place, what)| Violation {
                pointer: place.to_string(),
                line: None,
                direction: *direction,
                what,
            }));
        }
    }
    if let Some(lines) = after.and_then(|text| Lines::of(Format::Json, text.as_bytes())) {
        for violation in &mut violations {
            let Ok(place) = violation.pointer.parse::<JsonPointer>();
            violation.line = explain::line(&new, &lines, &place);
        }
    }
    Ok(violations)
}

/// Reads the promise of a schema; an error is the word that is none.
fn promise(schema: &Value) -> Result<Compatibility, String> {
    match schema.get(KEY) {
        None => Ok(Compatibility::default()),
        Some(Value::String(word)) => word.parse().map_err(|()| format!("{word:?}")),
        Some(other) => Err(cut(&other.to_string())),
    }
}

/// The schema of what the programs of a schema can read: as it says, and with any keys besides
/// where they ignore keys that they do not know.
fn readable(schema: &Value) -> Cow<'_, Value> {
    match schema.get(UNKNOWN_KEYS) {
        Some(word) if word == IGNORED => Cow::Owned(opened(schema)),
        _ => Cow::Borrowed(schema),
    }
}

/// Lets keys in that a schema does not name. Within `not` and `if`, where more keys could mean
/// fewer settings, everything stays.
fn opened(schema: &Value) -> Value {
    const NAMED: &str = "properties patternProperties $defs definitions dependentSchemas";
    const WITHIN: &str = "items prefixItems additionalItems additionalProperties unevaluatedProperties contains allOf anyOf \
                          oneOf then else";
    const SHUT: &str = "additionalProperties unevaluatedProperties";
    let is_one_of = |list: &str, key: &str| list.split(' ').any(|one| one == key);
    match schema {
        Value::Array(items) => items.iter().map(opened).collect(),
        Value::Object(members) => {
            let kept = members.iter().filter(|(key, value)| !(**value == false && is_one_of(SHUT, key)));
            let members = kept.map(|(key, value)| {
                let value = match value {
                    Value::Object(named) if is_one_of(NAMED, key) => {
                        named.iter().map(|(name, schema)| (name.clone(), opened(schema))).collect()
                    }
                    value if is_one_of(WITHIN, key) => opened(value),
                    value => value.clone(),
                };
                (key.clone(), value)
            });
            members.collect()
        }
        other => other.clone(),
    }
}

/// One of the two schemas.
struct NormalSchema<'a> {
    written: &'a Value,
    normal: CanonicalSchema,
}

impl<'a> NormalSchema<'a> {
    fn new(written: &'a Value, asserted: Option<bool>) -> Result<Self, CanonicalizationError> {
        let options = || {
            let options = canonical::options().with_pattern_options(patterns()).offline();
            match asserted {
                Some(asserted) => options.should_validate_formats(asserted),
                None => options,
            }
        };
        let normal = options().canonicalize(written)?;
        // Settings are always an object.
        let object = options().with_draft(normal.draft()).canonicalize(&json!({"type": "object"}))?;
        let normal = normal.intersect(&object).unwrap_or(normal);
        Ok(NormalSchema { written, normal })
    }
}

/// Finds what `inner` allows and `outer` does not, or may not. It finds nothing only where it is
/// proven that there is nothing.
fn differences(inner: &NormalSchema<'_>, outer: &NormalSchema<'_>) -> Vec<(JsonPointer, Allowance)> {
    if explain::say_the_same(inner.written, outer.written) {
        return Vec::new();
    }
    for side in [inner, outer] {
        if let CanonicalView::Raw(raw) = side.normal.view() {
            let place = raw.pointer.filter(|place| !place.is_empty());
            let place =
                place.map_or_else(|| "one of the two schemas".to_owned(), |place| format!("{place} of a schema"));
            return unknown(format!("{place} is too complex to compare"));
        }
    }
    match outer.normal.covers(&inner.normal) {
        Ok(Containment::Yes) => Vec::new(),
        Ok(Containment::No | Containment::Unknown) => explain::walk(&inner.normal, &outer.normal),
        Err(error) => unknown(why(&error)),
    }
}

fn unknown(why: String) -> Vec<(JsonPointer, Allowance)> {
    vec![(JsonPointer::default(), Allowance::Unknown(why))]
}

/// Explains why two schemas cannot be compared.
fn why(error: &CanonicalizationError) -> String {
    match error {
        CanonicalizationError::IncompatibleOperands(OperandMismatch::Drafts { .. }) => {
            "the two are written in different versions of JSON Schema, by their `$schema`".to_owned()
        }
        CanonicalizationError::IncompatibleOperands(OperandMismatch::DocumentRoots) => {
            "both refer to themselves as `#`; write what holds itself as a definition, `#/$defs/…`".to_owned()
        }
        other => other.to_string(),
    }
}
