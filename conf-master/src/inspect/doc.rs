//! A component's settings as its `config.schema.json` describes them, as Markdown.

use std::fmt::Write as _;

use conf_core::settings::{Notes, Schema};
use libconf::name::{CommitId, ComponentName};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The most levels of objects that are described; a schema may refer to itself.
const MOST_LEVELS: usize = 16;
/// The most keys that are described.
const MOST_KEYS: usize = 2000;

/// The description of a component's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Doc {
    /// The component.
    pub(crate) component: ComponentName,
    /// The branch or tag that was read.
    pub(crate) reference: String,
    /// Its commit.
    pub(crate) commit: CommitId,
    /// The text.
    pub(crate) markdown: String,
}

/// Describes a schema: one row for each key, in order; the items of a list are `key[]`.
pub(crate) fn markdown(component: &ComponentName, schema: &Value) -> String {
    let mut text = format!("# {component}\n\n");
    let whole = Schema::new(schema);
    if let Some(description) = whole.notes().description {
        let _ = writeln!(text, "{}\n", cell(&description));
    }
    let mut rows = Vec::new();
    describe(whole, "", 0, &mut rows);
    if rows.is_empty() {
        text.push_str("The schema names no key.\n");
        return text;
    }
    text.push_str("| key | type | default | allowed | description |\n|---|---|---|---|---|\n");
    rows.iter().for_each(|row| text.push_str(row));
    text
}

fn describe(schema: Schema<'_>, above: &str, level: usize, rows: &mut Vec<String>) {
    if level >= MOST_LEVELS {
        return;
    }
    for (key, inner, required) in schema.properties() {
        if rows.len() >= MOST_KEYS {
            return;
        }
        let path = if above.is_empty() { key.to_owned() } else { format!("{above}.{key}") };
        rows.push(row(&path, &inner.notes(), required));
        describe(inner, &path, level + 1, rows);
        if let Some(items) = inner.items().filter(|items| !items.properties().is_empty()) {
            describe(items, &format!("{path}[]"), level + 1, rows);
        }
    }
}

fn row(path: &str, notes: &Notes, required: bool) -> String {
    let default = notes.default.as_ref().map_or_else(String::new, |value| code(&value.to_string()));
    let mut words: Vec<String> = Vec::new();
    if required {
        words.push("**Required.**".to_owned());
    }
    if notes.deprecated {
        words.push("**Deprecated.**".to_owned());
    }
    words.extend(notes.description.as_deref().map(cell));
    let (kind, allowed) = (notes.kind.as_deref().map(cell).unwrap_or_default(), cell(&notes.allowed.join("; ")));
    format!("| {} | {kind} | {default} | {allowed} | {} |\n", code(path), words.join(" "))
}

/// Writes text for a cell: one line, with the characters escaped that mean something to Markdown's
/// tables or HTML.
fn cell(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;").replace('`', "\\`")
}

/// Writes text as code, in which only a backtick and a bar have a meaning.
fn code(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.contains('`') { cell(&line) } else { format!("`{}`", line.replace('|', "\\|")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_key_is_a_row_and_text_stays_in_its_cell() {
        let schema = json!({
            "description": "What <web> does.",
            "required": ["port"],
            "properties": {
                "port": {"type": "integer", "maximum": 65535, "default": 80, "description": "Where it\nlistens | answers."},
                "pool": {"properties": {"size": {"type": "integer", "deprecated": true}}},
                "hosts": {"items": {"properties": {"name": {"enum": ["a", "b|c"]}}}},
                "loop": {"$ref": "#"},
            },
        });
        let text = markdown(&"services/web".parse().unwrap(), &schema);
        for line in [
            "# services/web",
            "What &lt;web> does.",
            "| `port` | integer | `80` | at most 65535 | **Required.** Where it listens \\| answers. |",
            "| `pool.size` | integer |  |  | **Deprecated.** |",
            "| `hosts[].name` |  |  | one of \"a\", \"b\\|c\" |  |",
        ] {
            assert!(text.lines().any(|one| one == line), "{line:?} is not in:\n{text}");
        }
        assert!(text.lines().count() <= MOST_KEYS + 10);
        assert!(markdown(&"services/web".parse().unwrap(), &json!({})).contains("names no key"));
    }
}
