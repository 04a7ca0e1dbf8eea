//! `config.schema.json`: what a component's settings must be like, as JSON Schema.
//!
//! A schema is a program that its author writes: one with a loop, or one that doubles at each step, would run for ever or
//! use up all memory. So it is worked out in a process of its own (`worker`), which can be ended.

mod worker;

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use conf_core::{
    sandbox::Worker,
    settings::{self, Format},
};
use jsonschema::{PatternOptions, Validator, error::ValidationErrorKind};
use libconf::name::ObjectId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::judge::endless::{Endless, Known};

pub use crate::judge::schema::worker::{ARGUMENT as WORKER, run as run_worker};
pub use conf_core::settings::SCHEMA_FILE as FILE;

/// The most faults that are told of one component's settings; more would help nobody.
pub(crate) const MOST_FAULTS: usize = 20;
/// How long a reason may be: it may hold a value as long as its author likes.
const REASON_CHARS: usize = 300;
/// A compiled pattern takes at most so much memory.
pub(crate) const PATTERN_BYTES: usize = 1 << 20;

/// One place where settings are not as their schema says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaFault {
    /// The place, a JSON Pointer.
    pub pointer: String,
    /// What is wrong there.
    pub reason: String,
    /// It is a value of another type.
    #[serde(default)]
    pub of_type: bool,
}

impl SchemaFault {
    /// A fault that is not one of type.
    pub fn new(pointer: impl Into<String>, reason: impl Into<String>) -> Self {
        SchemaFault { pointer: pointer.into(), reason: reason.into(), of_type: false }
    }
}

/// Why a schema cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{reason}")]
pub struct BadSchema {
    /// The line in its file, counted from 1.
    pub line: Option<usize>,
    /// What is wrong and what to write instead.
    pub reason: String,
}

impl BadSchema {
    fn new(reason: impl Into<String>) -> Self {
        BadSchema { line: None, reason: reason.into() }
    }
}

/// What each of several settings lacks; none where they are as the schema says.
pub type Found = Result<Vec<Vec<SchemaFault>>, BadSchema>;

/// The way to the process that works schemas out.
#[derive(Debug, Default)]
pub struct Schemas {
    worker: Mutex<Option<Worker>>,
    /// Schemas that never came to an end.
    endless: Endless<()>,
}

impl Schemas {
    /// Holds settings against a schema; `id` is the blob that `schema` is. Bounds: five seconds, then the schema is at fault.
    pub fn check(&self, id: ObjectId, schema: &[u8], settings: &[Value]) -> Found {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        match self.endless.known(id) {
            Known::Nothing => {}
            Known::Endless(()) => return Err(worker::endless()),
            Known::TooMany => {
                return Err(BadSchema::new("other schemas took up all the time there is; push again in a minute"));
            }
        }
        let question = worker::Question { id, schema: String::from_utf8_lossy(schema).into_owned(), settings };
        let found = worker::ask(&mut worker, &question);
        if found.as_ref().is_err_and(|bad| *bad == worker::endless()) {
            self.endless.remember(id, ());
        }
        found
    }
}

/// Compiled schemas by blob id, so that one that many settings are held against is compiled once.
#[derive(Default)]
struct Compiled(HashMap<ObjectId, Result<Validator, BadSchema>>);

/// How many compiled schemas are kept; then all are forgotten, which is simple and costs some milliseconds.
const MOST_COMPILED: usize = 2000;

impl Compiled {
    fn check(&mut self, id: ObjectId, schema: &str, settings: &[Value]) -> Found {
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
    let schema = settings::parse(FILE, Format::Json, schema.as_bytes())
        .map_err(|fault| BadSchema { line: fault.line, reason: fault.reason })?;
    compiled(&Value::Object(schema))
}

/// The validator of a schema, or why it is none.
pub(crate) fn compiled(schema: &Value) -> Result<Validator, BadSchema> {
    let patterns = PatternOptions::regex().size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES);
    // A schema that is elsewhere could be another tomorrow: what is here must stand alone.
    let options = jsonschema::options().with_pattern_options(patterns).offline();
    options.build(schema).map_err(|error| {
        let place = error.instance_path().to_string();
        let at = if place.is_empty() { String::new() } else { format!("{place}: ") };
        BadSchema::new(format!("it is no JSON Schema that can be used: {at}{}", cut(&error.to_string())))
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
        match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected }
            | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
                faults.extend(unexpected.iter().take(MOST_FAULTS).map(|key| {
                    SchemaFault::new(member(&pointer, key), "the schema knows no such key; correct it, or take it out")
                }));
            }
            // Whoever took it away is sought there, not around it.
            ValidationErrorKind::Required { property: Value::String(key) } => {
                faults.push(SchemaFault::new(member(&pointer, key), cut(&error.to_string())));
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

fn member(pointer: &str, key: &str) -> String {
    format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// No longer than people read, and without control characters.
pub(crate) fn cut(words: &str) -> String {
    let letters = words.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    let mut words: String = letters.take(REASON_CHARS + 1).collect();
    if let Some((end, _)) = words.char_indices().nth(REASON_CHARS) {
        words.truncate(end);
        words.push('…');
    }
    words
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(schema: &str, settings: &Value) -> Vec<(String, String)> {
        let found = Compiled::default().check(ObjectId::ZERO, schema, std::slice::from_ref(settings));
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
    fn a_schema_that_is_none_says_so() {
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
