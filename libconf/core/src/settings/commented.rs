//! Settings as YAML for people, with comments from the schema.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::settings::schema::{Notes, Schema};

/// Writes settings, or a part of them, as YAML, which reads back to the same value. `schema`
/// describes that part. Keys that the schema has and the settings lack become comments, with their
/// default.
pub fn commented(settings: &Value, schema: Option<Schema<'_>>) -> String {
    let mut text = String::new();
    if let Some(schema) = schema {
        comment(&mut text, &schema.notes(), 0);
        if !text.is_empty() {
            text.push('\n');
        }
    }
    match settings {
        Value::Object(members) => object(&mut text, members, schema, 0),
        Value::Array(items) if !items.is_empty() => list(&mut text, items, schema, 0),
        value => drop(writeln!(text, "{}", scalar(value))),
    }
    text
}

fn object(text: &mut String, members: &Map<String, Value>, schema: Option<Schema<'_>>, depth: usize) {
    let indent = "  ".repeat(depth);
    let unset: Vec<_> = schema
        .map(Schema::properties)
        .unwrap_or_default()
        .into_iter()
        .filter(|(key, ..)| !members.contains_key(*key))
        .collect();
    if members.is_empty() {
        let _ = writeln!(text, "{indent}{{}}");
    }
    for (key, value) in members {
        let schema = schema.and_then(|schema| schema.property(key));
        if let Some(schema) = schema {
            comment(text, &schema.notes(), depth);
        }
        let _ = write!(text, "{indent}{}:", quoted(key));
        member(text, value, schema, depth);
    }
    for (key, schema, required) in unset {
        let notes = schema.notes();
        comment(text, &notes, depth);
        let value =
            notes.default.as_ref().map_or_else(String::new, |value| format!(" {}", one_line(&value.to_string())));
        let word = if required { "must be set" } else { "not set" };
        let _ = writeln!(text, "{indent}# {}:{value}  # {word}", one_line(&quoted(key)));
    }
}

fn list(text: &mut String, items: &[Value], schema: Option<Schema<'_>>, depth: usize) {
    let schema = schema.and_then(Schema::items);
    for item in items {
        let _ = write!(text, "{}-", "  ".repeat(depth));
        member(text, item, schema, depth);
    }
}

/// What comes after `key:` or `-`.
fn member(text: &mut String, value: &Value, schema: Option<Schema<'_>>, depth: usize) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            text.push('\n');
            object(text, members, schema, depth + 1);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            list(text, items, schema, depth + 1);
        }
        value => drop(writeln!(text, " {}", scalar(value))),
    }
}

fn comment(text: &mut String, notes: &Notes, depth: usize) {
    let indent = "  ".repeat(depth);
    for line in notes.description.iter().flat_map(|description| description.lines()) {
        let _ = writeln!(text, "{indent}# {}", one_line(line));
    }
    let mut facts: Vec<String> = notes.kind.iter().cloned().chain(notes.allowed.iter().cloned()).collect();
    facts.extend(notes.default.iter().map(|value| format!("default {value}")));
    facts.extend(notes.deprecated.then(|| "deprecated".to_owned()));
    if !facts.is_empty() {
        let _ = writeln!(text, "{indent}# {}", one_line(&facts.join("; ")));
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        value => value.to_string(),
    }
}

/// Text without quotes where no reader could take it for another type.
fn quoted(text: &str) -> String {
    let safe = |char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '-' | '.' | '/');
    // YAML readers differ about these words.
    let word =
        ["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text.to_ascii_lowercase().as_str());
    if text.starts_with(|char: char| char.is_ascii_alphabetic()) && text.chars().all(safe) && !word {
        return text.to_owned();
    }
    let mut shown = String::from('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => shown.extend(['\\', char]),
            '\n' => shown.push_str("\\n"),
            '\t' => shown.push_str("\\t"),
            char if is_invisible(char) => {
                let code = u32::from(char);
                let _ = if code > 0xffff { write!(shown, "\\U{code:08x}") } else { write!(shown, "\\u{code:04x}") };
            }
            char => shown.push(char),
        }
    }
    shown.push('"');
    shown
}

/// Makes one line of a stranger's text: no character in it ends the line, or acts on a terminal.
pub fn one_line(line: &str) -> String {
    line.chars().map(|char| if is_invisible(char) { ' ' } else { char }).collect()
}

fn is_invisible(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{2028}'..='\u{202e}' | '\u{200b}'..='\u{200f}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::settings::yaml;

    #[test]
    fn every_key_has_its_comment() {
        let schema = json!({
            "description": "The web server.",
            "required": ["name"],
            "properties": {
                "port": {"type": "integer", "minimum": 1, "default": 80, "description": "Where it listens.\nAbove 1024 without root."},
                "log": {"properties": {"level": {"enum": ["info", "warn"]}, "file": {"type": "string"}}},
                "name": {"type": "string", "description": "Its name\u{1b}[31m."},
                "peers": {"items": {"properties": {"host": {"description": "Where it is."}}}},
            },
        });
        let settings =
            json!({"port": 8080, "log": {"level": "warn"}, "peers": [{"host": "a b"}, []], "other": "no", "empty": {}});
        let text = commented(&settings, Some(Schema::new(&schema)));
        assert_eq!(
            text,
            "# The web server.\n\n# Where it listens.\n# Above 1024 without root.\n# integer; at least 1; default 80\nport: 8080\n\
             log:\n  # one of \"info\", \"warn\"\n  level: warn\n  # string\n  # file:  # not set\n\
             peers:\n  -\n    # Where it is.\n    host: \"a b\"\n  - []\nother: \"no\"\nempty: {}\n\
             # Its name [31m.\n# string\n# name:  # must be set\n"
        );
        assert_eq!(commented(&json!([1, "x"]), None), "- 1\n- x\n");
        assert_eq!(commented(&json!({}), None), "{}\n");
    }

    proptest! {
        #[test]
        fn commented_yaml_reads_back_to_the_same_value(
            keys in prop::collection::btree_map(".{0,6}|<<|yes|-|1|a: b|# x", prop_oneof![
                ".{0,8}|<<|~|null|0x1F|1e3|\\.inf|- a|a #b".prop_map(Value::from),
                any::<i64>().prop_map(Value::from), any::<u64>().prop_map(Value::from), any::<f64>().prop_map(Value::from),
                Just(json!([])), Just(json!({})), Just(json!([[1, ["a"]], {"b": {"c": [null]}}])),
            ], 0..6),
            description in ".{0,20}",
        ) {
            let settings = Value::Object(keys.iter().map(|(key, value)| (key.clone(), value.clone())).collect());
            let properties: Map<String, Value> =
                keys.keys().map(|key| (key.clone(), json!({"description": description, "default": description}))).collect();
            let schema = json!({"description": description, "properties": properties});
            let text = commented(&settings, Some(Schema::new(&schema)));
            let read: Value = yaml::from_yaml(&text).map_err(|fault| TestCaseError::fail(format!("{fault}\n{text}")))?;
            prop_assert_eq!(read, settings, "{}", text);
        }
    }
}
