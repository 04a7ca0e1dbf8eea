//! Changes of a schema, and the promises that they keep.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::judge::compatibility::schemas::compare;
use crate::judge::compatibility::violation::Direction;
use crate::judge::schema::compile::compiled;

/// Lists each place that breaks the promise, and its direction.
fn found(before: &Value, after: &Value) -> Vec<(Direction, String, String)> {
    let found = compare(Some(&before.to_string()), Some(&after.to_string())).unwrap();
    found.into_iter().map(|one| (one.direction, one.pointer.clone(), one.to_string())).collect()
}

#[test]
fn annotations_that_act_as_rules_are_compared() {
    let referred = |most: u64| {
        json!({
            "properties": {"port": {"$ref": "#/x-types/port"}},
            "x-types": {"port": {"type": "integer", "maximum": most}},
        })
    };
    let within = |most: u64| {
        json!({
            "properties": {"port": {"$ref": "#/$defs/web/x-port"}},
            "$defs": {"web": {"x-port": {"type": "integer", "maximum": most}}},
        })
    };
    let required = |key: &str, with: Value| json!({"dependentRequired": {key: with}});
    let draft_7 =
        |with: Value| json!({"$schema": "http://json-schema.org/draft-07/schema#", "dependencies": {"title": with}});
    for (before, after) in [
        (referred(100), referred(1000)),
        (within(100), within(1000)),
        (required("description", json!(["lang"])), json!({"dependentRequired": {}})),
        (required("x-a", json!(["lang"])), json!({"dependentRequired": {}})),
        (draft_7(json!(["l"])), draft_7(json!([]))),
    ] {
        assert!(!places(&before, &after, "backward").is_empty(), "{before} to {after}");
    }
    let noted = |note: &str| json!({"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "description": note}}});
    assert_eq!(places(&noted("one"), &noted("two"), "full"), [""; 0]);
}

fn promising(mut schema: Value, promise: &str) -> Value {
    schema["x-compatibility"] = json!(promise);
    schema
}

fn places(before: &Value, after: &Value, promise: &str) -> Vec<String> {
    found(&promising(before.clone(), promise), after).into_iter().map(|(_, place, _)| place).collect()
}

#[expect(clippy::needless_pass_by_value, reason = "its callers write one down")]
fn properties(properties: Value) -> Value {
    json!({"type": "object", "properties": properties})
}

/// A change: its name, the schemas before and after, and the places that break backward and forward
/// compatibility.
type Case = (&'static str, Value, Value, &'static [&'static str], &'static [&'static str]);

#[test]
fn widening_breaks_backward_and_narrowing_breaks_forward() {
    let port = |schema: Value| properties(json!({"port": schema}));
    let shut = |schema: Value| json!({"type": "object", "properties": schema, "additionalProperties": false});
    let whole = || json!({"type": "integer"});
    let cases: Vec<Case> = vec![
        ("nothing", port(whole()), port(json!({"type": "integer", "description": "a port", "default": 80})), &[], &[]),
        (
            "a key comes",
            port(whole()),
            properties(json!({"port": whole(), "host": {"type": "string"}})),
            &[],
            &["/host"],
        ),
        (
            "a key goes",
            properties(json!({"port": whole(), "host": {"type": "string"}})),
            port(whole()),
            &["/host"],
            &[],
        ),
        ("a key comes, others are shut out", shut(json!({"a": {}})), shut(json!({"a": {}, "b": {}})), &["/b"], &[]),
        ("a key goes, others are shut out", shut(json!({"a": {}, "b": {}})), shut(json!({"a": {}})), &[], &["/b"]),
        ("others are let in", shut(json!({"a": {}})), properties(json!({"a": {}})), &[""], &[]),
        (
            "others are let in as text",
            shut(json!({})),
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            &[""],
            &[],
        ),
        ("a type", port(whole()), port(json!({"type": "string"})), &["/port"], &["/port"]),
        ("a type more", port(whole()), port(json!({"type": ["integer", "string"]})), &["/port"], &[]),
        ("whole to all numbers", port(whole()), port(json!({"type": "number"})), &["/port"], &[]),
        (
            "a range",
            port(json!({"type": "integer", "minimum": 1})),
            port(json!({"type": "integer", "minimum": 0})),
            &["/port"],
            &[],
        ),
        (
            "another way to say it",
            port(json!({"type": "integer", "minimum": 1})),
            port(json!({"type": "integer", "exclusiveMinimum": 0})),
            &[],
            &[],
        ),
        (
            "a multiple",
            port(json!({"type": "integer", "multipleOf": 2})),
            port(json!({"type": "integer", "multipleOf": 4})),
            &[],
            &["/port"],
        ),
        ("an enum", port(json!({"enum": ["a", "b"]})), port(json!({"enum": ["a"]})), &[], &["/port"]),
        ("a const", port(json!({"const": "a"})), port(json!({"enum": ["b", "a"]})), &["/port"], &[]),
        (
            "a length",
            port(json!({"type": "string", "maxLength": 3})),
            port(json!({"type": "string", "maxLength": 4})),
            &["/port"],
            &[],
        ),
        (
            "a pattern",
            port(json!({"type": "string", "pattern": "^a$"})),
            port(json!({"type": "string"})),
            &["/port"],
            &[],
        ),
        (
            "another pattern",
            port(json!({"type": "string", "pattern": "^a+$"})),
            port(json!({"type": "string", "pattern": "^b+$"})),
            &["/port"],
            &["/port"],
        ),
        (
            "a format",
            port(json!({"type": "string", "format": "ipv4"})),
            port(json!({"type": "string"})),
            &["/port"],
            &[],
        ),
        (
            "items",
            port(json!({"type": "array", "items": whole()})),
            port(json!({"type": "array", "items": {"type": "number"}})),
            &["/port/*"],
            &[],
        ),
        (
            "a number of items",
            port(json!({"type": "array", "minItems": 1})),
            port(json!({"type": "array"})),
            &["/port"],
            &[],
        ),
        (
            "no item twice",
            port(json!({"type": "array", "uniqueItems": true})),
            port(json!({"type": "array"})),
            &["/port"],
            &[],
        ),
        ("required", json!({"required": ["port"]}), json!({}), &["/port"], &[]),
        (
            "deep",
            port(properties(json!({"a": whole()}))),
            port(properties(json!({"a": {"type": "string"}}))),
            &["/port/a"],
            &["/port/a"],
        ),
        (
            "all of",
            port(json!({"allOf": [{"type": "integer"}, {"minimum": 1}]})),
            port(json!({"type": "integer", "minimum": 2})),
            &[],
            &["/port"],
        ),
        ("any of", port(json!({"anyOf": [whole(), {"type": "string"}]})), port(whole()), &[], &["/port"]),
        (
            "one of",
            port(json!({"oneOf": [whole(), {"type": "string"}]})),
            port(json!({"anyOf": [{"type": "string"}, whole()]})),
            &[],
            &[],
        ),
        (
            "one more",
            port(json!({"oneOf": [whole(), {"type": "string"}]})),
            port(json!({"oneOf": [whole(), {"type": "string"}, {"type": "null"}]})),
            &["/port"],
            &[],
        ),
        (
            "a definition",
            json!({"$defs": {"p": whole()}, "properties": {"port": {"$ref": "#/$defs/p"}}}),
            json!({"$defs": {"q": {"type": "number"}}, "properties": {"port": {"$ref": "#/$defs/q"}}}),
            &["/port"],
            &[],
        ),
        (
            "patterns of keys",
            json!({"patternProperties": {"^x-": whole()}}),
            json!({"patternProperties": {"^x-": {"type": "number"}}}),
            &["/*"],
            &[],
        ),
        (
            "names of keys",
            json!({"propertyNames": {"maxLength": 3}}),
            json!({"propertyNames": {"maxLength": 2}}),
            &[],
            &[""],
        ),
        ("needed together", json!({"dependentRequired": {"a": ["b"]}}), json!({}), &[""], &[]),
        (
            "if and then",
            json!({"if": {"required": ["a"]}, "then": {"required": ["b"]}}),
            json!({"if": {"required": ["a"]}, "then": {"required": ["b"]}, "properties": {"c": whole()}}),
            &[],
            &[""],
        ),
        (
            "a tree",
            json!({"$defs": {"n": {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}}}, "properties": {"root": {"$ref": "#/$defs/n"}}}),
            json!({"$defs": {"n": {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}, "v": whole()}}}, "properties": {"root": {"$ref": "#/$defs/n"}}}),
            // Little is proven about recursive schemas: a definition that refers to itself counts
            // as broken where it differs.
            &["/root"],
            &["/root/v"],
        ),
    ];
    let mut wrong = Vec::new();
    for (what, before, after, backward, forward) in cases {
        for (promise, expected) in [("backward", backward), ("forward", forward), ("none", &[][..])] {
            let seen = places(&before, &after, promise);
            if seen != expected {
                wrong.push(format!(
                    "{what}, {promise}: {seen:?} for {expected:?}: {:?}",
                    found(&promising(before.clone(), promise), &after)
                ));
            }
        }
        let both = places(&before, &after, "full").len();
        if both != backward.len() + forward.len() {
            wrong.push(format!("{what}, full: {both} for {backward:?} and {forward:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn programs_that_ignore_unknown_keys_read_new_ones() {
    let ignoring = |mut schema: Value| {
        schema["x-unknown-keys"] = json!("ignored");
        schema
    };
    let shut = |properties: Value| json!({"type": "object", "properties": properties, "additionalProperties": false});
    let whole = || json!({"type": "integer"});
    let deep =
        |inner: Value| shut(json!({"pool": shut(inner.clone()), "list": {"type": "array", "items": shut(inner)}}));
    let (one, two) = (json!({"a": whole()}), json!({"a": whole(), "b": whole()}));
    // What the schema says, a change, and the places that break backward and forward compatibility.
    let cases: Vec<(Value, Value, &[&str], &[&str])> = vec![
        (shut(one.clone()), shut(two.clone()), &["/b"], &[]),
        (ignoring(shut(one.clone())), shut(two.clone()), &[], &[]),
        (ignoring(deep(one.clone())), deep(two.clone()), &[], &[]),
        (deep(one.clone()), deep(two.clone()), &["/list/*/b", "/pool/b"], &[]),
        // The programs ignore keys and not values.
        (ignoring(shut(one.clone())), shut(json!({"a": {"type": "string"}})), &["/a"], &["/a"]),
        (ignoring(json!({"additionalProperties": {"type": "string"}})), json!({}), &["/*"], &[]),
        // Programs that are written for the new schema say for themselves what they ignore.
        (ignoring(shut(two.clone())), shut(one.clone()), &[], &["/b"]),
        (shut(two.clone()), ignoring(shut(one.clone())), &[], &[]),
        (
            ignoring(json!({"not": {"properties": {"a": true}, "additionalProperties": false}})),
            json!({"not": {"properties": {"a": true, "b": true}, "additionalProperties": false}}),
            &[],
            &[""],
        ),
    ];
    for (before, after, backward, forward) in cases {
        assert_eq!(places(&before, &after, "backward"), backward, "backward: {before} to {after}");
        assert_eq!(places(&before, &after, "forward"), forward, "forward: {before} to {after}");
    }
    let words = &found(&shut(one.clone()), &shut(two))[0].2;
    assert!(words.contains("x-unknown-keys") && words.contains("Conf-Compatibility: breaking"), "{words}");
    let mut typo = shut(one);
    typo["x-unknown-keys"] = json!("ignore");
    let bad = compare(None, Some(&typo.to_string())).unwrap_err();
    assert!(bad.reason.contains("write ignored or refused"), "{}", bad.reason);
}

/// Makes small values of few words, so that schemas of the same words often match them.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2..4i64).prop_map(Value::from),
        prop_oneof![Just(0.5), Just(1.0), Just(2.5)].prop_map(Value::from),
        "[ab]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[abc]", inner, 0..4).prop_map(Value::from_iter),
        ]
    })
}

/// Makes small schemas of the same words, with every keyword that is compared.
fn schema() -> impl Strategy<Value = Value> {
    let number = || (-1..4i64).prop_map(Value::from);
    let count = || (0..3u64).prop_map(Value::from);
    let kind = || prop::sample::select(vec!["null", "boolean", "integer", "number", "string", "array", "object"]);
    let flat = prop_oneof![
        kind().prop_map(|kind| json!({"type": kind})),
        prop::collection::btree_set(kind(), 1..4).prop_map(|kinds| json!({"type": kinds})),
        (number(), number()).prop_map(|(from, to)| json!({"minimum": from, "maximum": to})),
        (kind(), number()).prop_map(|(kind, from)| json!({"type": kind, "exclusiveMinimum": from})),
        number().prop_map(|to| json!({"type": "integer", "exclusiveMaximum": to})),
        (1..3u64).prop_map(|of| json!({"type": "number", "multipleOf": of})),
        (count(), count()).prop_map(|(from, to)| json!({"type": "string", "minLength": from, "maxLength": to})),
        prop::sample::select(vec!["a", "^a", "b$", "^[ab]$", "^a*$"])
            .prop_map(|it| json!({"type": "string", "pattern": it})),
        prop::sample::select(vec!["ipv4", "date"]).prop_map(|it| json!({"type": "string", "format": it})),
        prop::collection::vec(value(), 1..4).prop_map(|values| json!({"enum": values})),
        value().prop_map(|value| json!({"const": value})),
        Just(json!({})),
        Just(json!(true)),
        Just(json!(false)),
    ];
    flat.prop_recursive(3, 16, 3, move |inner| {
        let several = || prop::collection::vec(inner.clone(), 1..3);
        let named = || prop::collection::btree_map("[abc]", inner.clone(), 0..3);
        let keys = || prop::collection::btree_set("[abc]", 0..3);
        prop_oneof![
            4 => (named(), keys()).prop_map(|(named, keys)| json!({"type": "object", "properties": named, "required": keys})),
            2 => (named(), inner.clone()).prop_map(|(named, rest)| json!({"properties": named, "additionalProperties": rest})),
            1 => (named(), prop::sample::select(vec!["a", "^[ab]$"]), inner.clone())
                .prop_map(|(named, pattern, it)| json!({"properties": named, "patternProperties": {pattern: it}})),
            1 => (inner.clone(), count()).prop_map(|(it, most)| json!({"propertyNames": it, "maxProperties": most})),
            1 => (keys(), count()).prop_map(|(keys, least)| json!({"dependentRequired": {"a": keys}, "minProperties": least})),
            1 => inner.clone().prop_map(|it| json!({"dependentSchemas": {"a": it}})),
            2 => (inner.clone(), count(), any::<bool>()).prop_map(|(it, most, once)| json!({"type": "array", "items": it, "maxItems": most, "uniqueItems": once})),
            1 => (several(), inner.clone()).prop_map(|(first, rest)| json!({"prefixItems": first, "items": rest})),
            1 => (inner.clone(), count()).prop_map(|(it, least)| json!({"contains": it, "minContains": least})),
            1 => several().prop_map(|all| json!({"allOf": all})),
            1 => several().prop_map(|any| json!({"anyOf": any})),
            1 => several().prop_map(|one| json!({"oneOf": one})),
            1 => inner.clone().prop_map(|it| json!({"not": it})),
            1 => (inner.clone(), inner.clone(), inner.clone()).prop_map(|(it, then, other)| json!({"if": it, "then": then, "else": other})),
            1 => (inner.clone(), inner.clone()).prop_map(|(it, other)| json!({"$defs": {"d": it}, "allOf": [{"$ref": "#/$defs/d"}, other]})),
            1 => inner.clone().prop_map(|it| json!({"properties": {"a": it}, "unevaluatedProperties": false})),
        ]
    })
}

/// Makes pairs that are often alike: the second may extend or restrict the first.
fn pair() -> impl Strategy<Value = (Value, Value)> {
    (schema(), schema(), 0..6u8).prop_map(|(one, other, how)| {
        let object = |schema: Value| if schema.is_object() { schema } else { json!({"allOf": [schema]}) };
        let other = match how {
            0 => other,
            1 => json!({"allOf": [one, other]}),
            2 => json!({"anyOf": [one, other]}),
            3 => json!({"properties": {"a": one, "b": other}}),
            4 => json!({"properties": {"a": one}, "required": ["a"]}),
            _ => merged(one.clone(), other),
        };
        let one = if how == 3 || how == 4 { json!({"properties": {"a": one}}) } else { one };
        (object(one), object(other))
    })
}

/// Merges the keywords of both; the second's win.
fn merged(one: Value, other: Value) -> Value {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => Value::Object(one.into_iter().chain(other).collect()),
        (one, _) => one,
    }
}

proptest! {
    /// A change that is called compatible is: no value is allowed on one side and not on the other.
    #[test]
    fn a_change_called_compatible_is_compatible((before, after) in pair(), values in prop::collection::vec(value(), 60)) {
        let (Ok(old), Ok(new)) = (compiled(&before), compiled(&after)) else { return Ok(()) };
        let broken: Vec<Direction> = found(&promising(before.clone(), "full"), &after).into_iter().map(|one| one.0).collect();

        for value in values.iter().map(|value| if value.is_object() { value.clone() } else { json!({"a": value}) }) {
            let (was, is) = (old.is_valid(&value), new.is_valid(&value));
            prop_assert!(was || !is || broken.contains(&Direction::Backward), "{} is allowed after and was not before", value);
            prop_assert!(is || !was || broken.contains(&Direction::Forward), "{} was allowed before and is not after", value);
        }
    }
}
