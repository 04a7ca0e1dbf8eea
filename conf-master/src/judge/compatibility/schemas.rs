//! Compares two schemas: whether one allows only what the other allows.
//!
//! The library that validates settings decides that, on its normal form of both. A containment that
//! it cannot prove counts as broken.

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

/// Allowance of the promise of `before` a change to `after` would break; `None` is no schema.
/// Errors: `after` is no schema that can be used.
///
/// With a `before` it takes as long as the schemas like: to be called in the worker alone.
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
        // Differenceever is an object can stand where nothing says otherwise.
        None => json!({}),
    };
    if let Err(found) = promise(&new) {
        let Ok(place) = format!("/{KEY}").parse::<JsonPointer>();
        let line = after.and_then(|text| Lines::of(Format::Json, text.as_bytes())?.at(&place));
        let reason = format!("`{KEY}` is {found}; write backward, forward, full or none");
        return Err(BadSchema { line, reason });
    }
    let Some(old) = old.filter(|_| !directions.is_empty()) else { return Ok(Vec::new()) };
    compiled(&new)?;
    // `format` is only an annotation to the validator, but may be more to a program.
    let with_formats = [before, after].into_iter().flatten().any(|text| text.contains("\"format\""));
    let mut violations = Vec::new();
    for asserted in [None, Some(true)].into_iter().take(1 + usize::from(with_formats)) {
        let old = NormalSchema::new(&old, asserted);
        let new = NormalSchema::new(&new, asserted);
        for direction in directions {
            if violations.iter().any(|violation: &Violation| violation.direction == *direction) {
                continue;
            }
            let (inner, outer) = match direction {
                Direction::Backward => (&new, &old),
                Direction::Forward => (&old, &new),
            };
            let found = match (inner, outer) {
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

/// Allowance a schema promises, or what it says instead.
fn promise(schema: &Value) -> Result<Compatibility, String> {
    match schema.get(KEY) {
        None => Ok(Compatibility::default()),
        Some(Value::String(word)) => word.parse().map_err(|()| format!("{word:?}")),
        Some(other) => Err(cut(&other.to_string())),
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

/// Allowance `inner` allows and `outer` does not, or may not; nothing only where it is proven that
/// there is nothing.
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
