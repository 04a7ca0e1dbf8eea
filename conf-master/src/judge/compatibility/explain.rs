//! Explains where two schemas differ, for people. That they differ was decided before.

use std::collections::BTreeMap;

use conf_core::settings::{JsonPointer, Lines, Schema};
use jsonschema::JsonType;
use jsonschema::canonical::{ArrayView, CanonicalSchema, CanonicalView, Containment, ObjectView, Satisfiability};
use serde_json::{Map, Value};

use crate::judge::compatibility::violation::Allowance;
use crate::judge::schema::compile::MOST_FAULTS;
use crate::judge::schema::fault::cut;

/// The most references that are followed in a row.
const MOST_HOPS: usize = 16;
/// The depth below which only the place above is told.
const MOST_LEVELS: usize = 16;

/// Finds the places where `inner` allows more than `outer`, at least one.
pub(crate) fn walk(inner: &CanonicalSchema, outer: &CanonicalSchema) -> Vec<(JsonPointer, Allowance)> {
    let mut walking = Walking { found: Vec::new(), seen: Vec::new() };
    walking.at(inner, outer, &JsonPointer::default(), 0);
    let mut found = walking.found;
    if found.is_empty() {
        found.push((JsonPointer::default(), remainder(inner, outer)));
    }
    if found.len() > MOST_FAULTS {
        found.truncate(MOST_FAULTS);
        found.push((JsonPointer::default(), Allowance::More));
    }
    found
}

struct Walking {
    found: Vec<(JsonPointer, Allowance)>,
    /// Pairs of definitions that were compared, or are being compared: a recursive schema has no
    /// end.
    seen: Vec<(String, String)>,
}

impl Walking {
    /// Notes the differences at a place, if there are any.
    fn at(&mut self, inner: &CanonicalSchema, outer: &CanonicalSchema, place: &JsonPointer, level: usize) {
        if self.found.len() > MOST_FAULTS || matches!(outer.covers(inner), Ok(Containment::Yes)) {
            return;
        }
        if let (CanonicalView::Reference(inner), CanonicalView::Reference(outer)) = (inner.view(), outer.view()) {
            if self.seen.contains(&(inner.clone(), outer.clone())) {
                return;
            }
            self.seen.push((inner, outer));
        }
        let known = self.found.len();
        if level < MOST_LEVELS && same_otherwise(inner, outer) {
            if let (Some(inner), Some(outer)) = (object(inner, 0), object(outer, 0)) {
                self.objects(&inner, &outer, place, level + 1);
            }
            if let (Some(inner), Some(outer)) = (array(inner, 0), array(outer, 0)) {
                self.arrays(&inner, &outer, place, level + 1);
            }
        }
        if self.found.len() == known {
            self.found.push((place.clone(), remainder(inner, outer)));
        }
    }

    fn objects(&mut self, inner: &ObjectView, outer: &ObjectView, place: &JsonPointer, level: usize) {
        for key in outer.required.iter().filter(|key| !inner.required.contains(key)) {
            self.found.push((place.join(key), Allowance::LeftOut));
        }
        if let Some(named) = only(outer) {
            match only(inner) {
                Some(may) => {
                    let strangers = may.iter().filter(|key| !named.contains(key));
                    self.found.extend(strangers.map(|key| (place.join(key), Allowance::Key)));
                }
                None => self.found.push((place.clone(), Allowance::OtherKeys)),
            }
        }
        let mut names: Vec<&String> = inner.properties.keys().chain(outer.properties.keys()).collect();
        names.sort();
        names.dedup();
        for key in names {
            // Patterns that a key matches are not considered here.
            let of = |view: &ObjectView| match view.properties.get(key) {
                Some(schema) => Some(Some(schema.clone())),
                None if view.pattern_properties.is_empty() => Some(view.additional_properties.clone()),
                None => None,
            };
            match (of(inner), of(outer)) {
                (_, Some(None) | None) | (None, _) => {}
                (Some(Some(inner)), Some(Some(outer))) if is_nothing(&outer) => {
                    if !is_nothing(&inner) {
                        self.found.push((place.join(key), Allowance::Key));
                    }
                }
                (Some(Some(inner)), Some(Some(outer))) => self.at(&inner, &outer, &place.join(key), level),
                (Some(None), Some(Some(outer))) => {
                    let what =
                        if is_nothing(&outer) { Allowance::Key } else { Allowance::Values("anything".to_owned()) };
                    self.found.push((place.join(key), what));
                }
            }
        }
        let other = place.join("*");
        for (pattern, outer) in &outer.pattern_properties {
            if let Some(inner) = inner.pattern_properties.get(pattern) {
                self.at(inner, outer, &other, level);
            }
        }
        match (&inner.additional_properties, &outer.additional_properties) {
            (inner, Some(outer)) if is_nothing(outer) => {
                if !inner.as_ref().is_some_and(is_nothing) {
                    self.found.push((place.clone(), Allowance::OtherKeys));
                }
            }
            (Some(inner), Some(outer)) => self.at(inner, outer, &other, level),
            (None, Some(_)) => self.found.push((other, Allowance::Values("anything".to_owned()))),
            (_, None) => {}
        }
    }

    fn arrays(&mut self, inner: &ArrayView, outer: &ArrayView, place: &JsonPointer, level: usize) {
        let item = |view: &ArrayView, at: usize| view.prefix_items.get(at).or(view.items.as_ref()).cloned();
        let prefix = inner.prefix_items.len().max(outer.prefix_items.len());
        for at in 0..=prefix {
            let place = place.join(&if at == prefix { "*".to_owned() } else { at.to_string() });
            match (item(inner, at), item(outer, at)) {
                (Some(inner), Some(outer)) => self.at(&inner, &outer, &place, level),
                (None, Some(_)) => self.found.push((place, Allowance::Values("anything".to_owned()))),
                (_, None) => {}
            }
        }
    }
}

/// Lists the keys that an object may have, when it may have no others.
fn only(view: &ObjectView) -> Option<Vec<String>> {
    let values = match view.property_names.as_ref()?.view() {
        CanonicalView::Const(value) => vec![value],
        CanonicalView::Enum(values) => values,
        CanonicalView::False => Vec::new(),
        _ => return None,
    };
    values.into_iter().map(|value| value.as_str().map(str::to_owned)).collect()
}

fn is_nothing(schema: &CanonicalSchema) -> bool {
    schema.satisfiability() == Satisfiability::No
}

/// Tells whether the difference is within objects or lists: the types are the same.
fn same_otherwise(inner: &CanonicalSchema, outer: &CanonicalSchema) -> bool {
    let of = |schema: &CanonicalSchema| Schema::new(&schema.to_json_schema()).notes().kind;
    of(inner) == of(outer)
}

/// Returns the part of a schema about objects, when there is one such part.
fn object(schema: &CanonicalSchema, hops: usize) -> Option<ObjectView> {
    match part(schema, JsonType::Object, hops)?.view() {
        CanonicalView::Object(view) => Some(view),
        _ => Some(ObjectView {
            min_properties: None,
            max_properties: None,
            required: Vec::new(),
            property_names: None,
            properties: BTreeMap::new(),
            pattern_properties: BTreeMap::new(),
            additional_properties: None,
            violations: Vec::new(),
        }),
    }
}

/// Returns the part of a schema about lists, when there is one such part.
fn array(schema: &CanonicalSchema, hops: usize) -> Option<ArrayView> {
    match part(schema, JsonType::Array, hops)?.view() {
        CanonicalView::Array(view) => Some(view),
        // A schema without a part about lists is reported as a whole.
        _ => None,
    }
}

/// Returns the one part of a schema about this type.
fn part(schema: &CanonicalSchema, wanted: JsonType, hops: usize) -> Option<CanonicalSchema> {
    if hops > MOST_HOPS {
        return None;
    }
    match schema.view() {
        CanonicalView::Object(_) if wanted == JsonType::Object => Some(schema.clone()),
        CanonicalView::Array(_) if wanted == JsonType::Array => Some(schema.clone()),
        CanonicalView::MultiType(types) if types.contains(wanted) => Some(schema.clone()),
        CanonicalView::True => Some(schema.clone()),
        CanonicalView::TypedGroup(group) if group.ty == wanted => part(&group.body, wanted, hops + 1),
        CanonicalView::Reference(uri) => part(&schema.definition(&uri)?, wanted, hops + 1),
        CanonicalView::AnyOf(parts) | CanonicalView::OneOf(parts) => {
            let mut of_type = parts.iter().filter_map(|one| part(one, wanted, hops + 1));
            of_type.next().filter(|_| of_type.next().is_none())
        }
        _ => None,
    }
}

/// Describes what `inner` allows and `outer` does not.
fn remainder(inner: &CanonicalSchema, outer: &CanonicalSchema) -> Allowance {
    let proven = matches!(outer.covers(inner), Ok(Containment::No));
    match inner.subtract(outer) {
        Ok(left) if proven => Allowance::Values(words(left.to_json_schema())),
        Ok(left) => Allowance::Unknown(format!("perhaps {}", words(left.to_json_schema()))),
        Err(_) if proven => Allowance::Values("other values".to_owned()),
        Err(_) => Allowance::Unknown("the two are too complex to compare".to_owned()),
    }
}

/// Describes what a schema allows, in a line.
fn words(mut schema: Value) -> String {
    if let Some(members) = schema.as_object_mut() {
        members.remove("$schema");
    }
    let notes = Schema::new(&schema).notes();
    let told = usize::from(notes.kind.is_some()) + notes.allowed.len();
    let members = schema.as_object().map_or(usize::MAX, Map::len);
    if told == 0 || told != members {
        return match &schema {
            Value::Bool(true) => "anything".to_owned(),
            Value::Object(members) if members.is_empty() => "anything".to_owned(),
            schema => cut(&format!("what is as {schema} says")),
        };
    }
    let kind = notes.kind.map(|kind| format!("any {kind}"));
    let all: Vec<String> = kind.into_iter().chain(notes.allowed).collect();
    cut(&all.join(", "))
}

/// Tells whether two schemas differ only in their annotations.
pub(crate) fn say_the_same(one: &Value, other: &Value) -> bool {
    // An annotation that a reference leads to is a rule.
    one == other || (refer_to_definitions(one) && refer_to_definitions(other) && bare(one) == bare(other))
}

/// Tells whether every reference leads to a definition or to the whole schema.
fn refer_to_definitions(schema: &Value) -> bool {
    let leads_there = |reference: &Value| {
        let reference = reference.as_str().and_then(|reference| reference.strip_prefix('#'));
        reference.is_some_and(|place| {
            let name = ["/$defs/", "/definitions/"].iter().find_map(|folder| place.strip_prefix(folder));
            place.is_empty() || name.is_some_and(|name| !name.contains('/'))
        })
    };
    match schema {
        Value::Object(members) => members.iter().all(|(key, value)| {
            // A setting may have such a name; then the answer is only more careful.
            let refers = key == "$ref" || key == "$dynamicRef" || key == "$recursiveRef";
            (!refers || leads_there(value)) && refer_to_definitions(value)
        }),
        Value::Array(items) => items.iter().all(refer_to_definitions),
        _ => true,
    }
}

/// Removes the annotations of a schema.
fn bare(schema: &Value) -> Value {
    const NOTES: &str = "title description $comment default examples deprecated readOnly writeOnly";
    const NAMED: &str =
        "properties patternProperties $defs definitions dependentSchemas dependentRequired dependencies";
    const LITERAL: &str = "const enum required";
    let is_one_of = |list: &str, key: &str| list.split(' ').any(|one| one == key);
    let Value::Object(members) = schema else {
        return match schema {
            Value::Array(items) => Value::Array(items.iter().map(bare).collect()),
            other => other.clone(),
        };
    };
    let kept = members.iter().filter(|(key, _)| !is_one_of(NOTES, key) && !key.starts_with("x-"));
    let said = kept.map(|(key, value)| {
        let value = match value {
            value if is_one_of(LITERAL, key) => value.clone(),
            Value::Object(named) if is_one_of(NAMED, key) => {
                Value::Object(named.iter().map(|(name, schema)| (name.clone(), bare(schema))).collect())
            }
            value => bare(value),
        };
        (key.clone(), value)
    });
    Value::Object(said.collect())
}

/// Finds the line of a schema about a place in the settings, or about the value around it.
pub(crate) fn line(schema: &Value, lines: &Lines, place: &JsonPointer) -> Option<usize> {
    let mut spoken = vec![JsonPointer::default()];
    let mut at = JsonPointer::default();
    for part in place.parts() {
        at = followed(schema, at);
        let Some(node) = at.find(schema) else { break };
        let named = ["properties", part.as_str()];
        let ways: [&[&str]; 5] =
            [&named, &["prefixItems", part], &["items"], &["additionalProperties"], &["patternProperties"]];
        let ways = if part == "*" { &ways[2..] } else { &ways[..] };
        let way = ways.iter().map(|way| way.iter().fold(JsonPointer::default(), |place, step| place.join(step)));
        let Some(way) = way.into_iter().find(|way| way.find(node).is_some()) else {
            spoken.push(at.join("properties"));
            break;
        };
        at = way.parts().iter().fold(at, |at, step| at.join(step));
        spoken.push(at.clone());
    }
    spoken.iter().rev().find_map(|place| lines.at(place))
}

/// Follows local references from a place.
fn followed(schema: &Value, mut at: JsonPointer) -> JsonPointer {
    for _ in 0..MOST_HOPS {
        let referred = at.find(schema).and_then(|node| node.get("$ref")?.as_str()?.strip_prefix('#'));
        let Some(Ok(referred)) = referred.map(str::parse::<JsonPointer>) else { break };
        at = referred;
    }
    at
}
