//! Compiles schemas and checks settings against them, inside the worker process.

use std::collections::HashMap;

pub(crate) use conf_core::settings::SCHEMA_FILE as FILE;
use conf_core::settings::{self, Format, JsonPointer};
use conf_core::suspect;
use jsonschema::{PatternOptions, Regex, ValidationError, Validator, error::ValidationErrorKind};
use libconf::name::ObjectId;
use serde_json::{Map, Value};

use crate::judge::schema::fault::{BadSchema, SchemaFault, SchemaFaults, cut};

/// The most faults that are told about one component's settings; more would help nobody.
pub(crate) const MOST_FAULTS: usize = 20;
/// The most memory of a compiled pattern, in bytes.
const PATTERN_BYTES: usize = 1 << 20;

/// Returns how patterns are compiled: by an engine that takes linear time, within a bound of
/// memory.
pub(crate) fn patterns() -> PatternOptions<Regex> {
    PatternOptions::regex().size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES)
}

/// Compiled schemas by blob id: a schema that many settings are checked against is compiled once.
#[derive(Default)]
pub(crate) struct CompiledSchemas(HashMap<ObjectId, Result<Validator, BadSchema>>);

/// How many compiled schemas are kept; then all are forgotten, which is simple and costs some
/// milliseconds.
const MOST_COMPILED: usize = 2000;

impl CompiledSchemas {
    /// Checks settings against a schema; `id` is its blob.
    pub(crate) fn check(&mut self, id: ObjectId, schema: &str, settings: &[Value]) -> SchemaFaults {
        if self.0.len() >= MOST_COMPILED && !self.0.contains_key(&id) {
            self.0.clear();
        }
        match self.0.entry(id).or_insert_with(|| compile(schema)) {
            Ok(validator) => Ok(settings.iter().map(|settings| faults(validator, settings)).collect()),
            Err(bad) => Err(bad.clone()),
        }
    }
}

fn compile(schema: &str) -> Result<Validator, BadSchema> {
    compiled(&Value::Object(parse(schema)?))
}

/// Parses the text of a schema.
pub(crate) fn parse(text: &str) -> Result<Map<String, Value>, BadSchema> {
    settings::parse(FILE, Format::Json, text.as_bytes())
        .map_err(|fault| BadSchema { line: fault.line, reason: fault.reason })
}

/// Compiles a schema, or says why it is not a schema.
pub(crate) fn compiled(schema: &Value) -> Result<Validator, BadSchema> {
    // Nothing remote is read: a schema elsewhere could be another one tomorrow.
    let options = jsonschema::options().with_pattern_options(patterns()).offline();
    options.build(schema).map_err(|error| {
        let place = error.instance_path().to_string();
        let at = if place.is_empty() { String::new() } else { format!("{place}: ") };
        BadSchema::new(format!("it is not a usable JSON Schema: {at}{}", cut(&error.to_string())))
    })
}

fn faults(validator: &Validator, settings: &Value) -> Vec<SchemaFault> {
    let mut faults = Vec::new();
    for error in validator.iter_errors(settings) {
        if faults.len() >= MOST_FAULTS {
            faults.push(SchemaFault::new("", "and more faults besides"));
            break;
        }
        let pointer = error.instance_path().to_string();
        let member = |key: &str| format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
        match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected }
            | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
                faults.extend(unexpected.iter().take(MOST_FAULTS).map(|key| {
                    SchemaFault::new(member(key), "the schema knows no such key; correct it, or take it out")
                }));
            }
            // The layer that removed the key is looked up at the key itself, not around it.
            ValidationErrorKind::Required { property: Value::String(key) } => {
                faults.push(SchemaFault::new(member(key), cut(&error.to_string())));
            }
            ValidationErrorKind::FalseSchema => {
                let instance = error.instance();
                let shown = hidden(&error).map_or_else(|| cut(&instance.to_string()), str::to_owned);
                faults.push(SchemaFault::new(pointer, format!("the schema does not allow {shown}")));
            }
            kind => {
                let of_type = matches!(kind, ValidationErrorKind::Type { .. });
                let words = hidden(&error).map(|hidden| error.masked_with(hidden).to_string());
                let reason = cut(&words.unwrap_or_else(|| error.to_string()));
                faults.push(SchemaFault { pointer, reason, of_type });
            }
        }
    }
    faults
}

/// What stands in a fault for a value that looks like a secret, or holds one: faults are shown,
/// logged and kept.
fn hidden(error: &ValidationError<'_>) -> Option<&'static str> {
    let Ok(place) = error.instance_path().to_string().parse::<JsonPointer>();
    let value = error.instance();
    let keys = place.parts().iter().map(String::as_str);
    suspect::is_in_value(keys, value).then(|| match &**value {
        Value::Object(_) => "this object",
        Value::Array(_) => "this list",
        _ => "this value",
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::judge::schema::fault::REASON_CHARS;

    fn check(schema: &str, settings: &Value) -> Vec<(String, String)> {
        let found = CompiledSchemas::default().check(ObjectId::ZERO, schema, std::slice::from_ref(settings));
        match found {
            Ok(found) => found.into_iter().flatten().map(|one| (one.pointer, one.reason)).collect(),
            Err(bad) => vec![(format!("schema {:?}", bad.line), bad.reason)],
        }
    }

    #[test]
    fn faults_name_their_place() {
        let schema = json!({
            "type": "object",
            "properties": {"port": {"type": "integer", "maximum": 65535}, "pool": {"properties": {"size": {}}, "additionalProperties": false}, "old": false},
            "required": ["port"],
        })
        .to_string();
        assert_eq!(check(&schema, &json!({"port": 80})), []);
        let one = |settings: Value| {
            let found = check(&schema, &settings);
            assert_eq!(found.len(), 1, "{found:?}");
            found.into_iter().next().unwrap()
        };
        assert_eq!(one(json!({})).0, "/port");
        assert!(one(json!({})).1.contains("\"port\" is a required property"));
        assert_eq!(one(json!({"port": "80"})), ("/port".into(), "\"80\" is not of type \"integer\"".into()));
        assert!(one(json!({"port": 70000})).1.contains("65535"));
        let (pointer, reason) = one(json!({"port": 1, "pool": {"a/b": 1}}));
        assert!(pointer == "/pool/a~1b" && reason.contains("no such key"), "{pointer}: {reason}");
        assert_eq!(one(json!({"port": 1, "old": 2})), ("/old".into(), "the schema does not allow 2".into()));
        let long = one(json!({"port": "x".repeat(10_000)})).1;
        assert!(long.chars().count() <= REASON_CHARS + 1, "{long}");
    }

    #[test]
    fn no_fault_quotes_what_looks_like_a_secret() {
        let one_of = json!([{"required": ["a"]}, {"required": ["b"]}]);
        let schema = json!({
            "properties": {
                "db_password": {"type": "integer"},
                "api": {"properties": {"token": {"maxLength": 3, "enum": ["x"]}}, "oneOf": one_of},
                "url": {"maxLength": 3},
                "list": {"maxItems": 1, "uniqueItems": true, "items": {"pattern": "^a"}},
                "secret": false,
                "port": {"maximum": 1},
            },
        });
        let faults = check(
            &schema.to_string(),
            &json!({
                "db_password": "canary",
                "api": {"token": "canary"},
                "url": "postgres://jo:canary@db/x",
                "list": [{"password": "canary"}, {"password": "canary"}, "ghp_canarycanarycanarycanarycanary00"],
                "secret": {"canary": "canary"},
                "port": 7,
            }),
        );
        assert!(faults.len() >= 8, "{faults:?}");
        assert!(!format!("{faults:?}").contains("canary"), "{faults:?}");
        let has = |place: &str, reason: &str| faults.contains(&(place.to_owned(), reason.to_owned()));
        assert!(has("/db_password", "this value is not of type \"integer\""), "{faults:?}");
        assert!(has("/secret", "the schema does not allow this object"), "{faults:?}");
        assert!(has("/port", "7 is greater than the maximum of 1"), "others are quoted: {faults:?}");
    }

    #[test]
    fn an_unusable_schema_is_a_fault() {
        for (schema, word) in [
            ("[]", "object"),
            ("{\"type\": \"object\",}", "trailing comma"),
            ("{\"type\": \"objekt\"}", "/type"),
            ("{\"properties\": 1}", "/properties"),
            ("{\"type\": \"object\", \"type\": \"array\"}", "stands twice"),
            ("{\"$ref\": \"https://example.com/schema.json\"}", "example.com"),
            ("{\"$ref\": \"#/$defs/nothing\"}", "nothing"),
            ("{\"$schema\": \"https://example.com/dialect\"}", "example.com"),
            ("{\"pattern\": \"(a\"}", "pattern"),
            ("{\"pattern\": \"(?=a)\"}", "pattern"),
            ("{\"pattern\": \"(((a{100}){100}){100}){100}\"}", "pattern"),
        ] {
            let found = check(schema, &json!({"a": "a"}));
            assert!(found.len() == 1 && found[0].0.starts_with("schema"), "{schema}: {found:?}");
            assert!(found[0].1.contains(word), "{schema}: {found:?}");
        }
        assert_eq!(check("{\n\n]", &json!({}))[0].0, "schema Some(3)");
    }
}
