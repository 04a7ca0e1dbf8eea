//! Compiles schemas and checks settings against them, inside the worker process.

use std::collections::HashMap;

pub(crate) use conf_core::settings::SCHEMA_FILE as FILE;
use conf_core::settings::{self, Format};
use jsonschema::{PatternOptions, Regex, Validator, error::ValidationErrorKind};
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
                let reason = format!("the schema does not allow {}", cut(&error.instance().to_string()));
                faults.push(SchemaFault::new(pointer, reason));
            }
            kind => {
                let of_type = matches!(kind, ValidationErrorKind::Type { .. });
                faults.push(SchemaFault { pointer, reason: cut(&error.to_string()), of_type });
            }
        }
    }
    faults
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
