//! Facts about keys from a `config.schema.json`, for people. conf-master checks settings against
//! the schema at landing; nothing is checked here.

use std::str::FromStr;

use serde_json::Value;

/// The name of the schema file, at a component's root.
pub const SCHEMA_FILE: &str = "config.schema.json";

/// The most schemas that one place is described by: `$ref` leads to `$ref`, `allOf` to `allOf`.
const MOST_HOPS: usize = 16;
/// The most values of an `enum` that are shown; the rest are counted.
const MOST_SHOWN: usize = 20;

/// The promise that a change makes to other programs: `x-compatibility` of a schema, and
/// `compatibility: settings:` of a class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compatibility {
    /// Whatever is allowed after a change was allowed before: configuration arrives before the
    /// programs that need it.
    #[default]
    Backward,
    /// Values that were allowed before a change are allowed after it: new programs may read an
    /// older configuration.
    Forward,
    /// Backward and forward.
    Full,
    /// No promise.
    None,
}

impl FromStr for Compatibility {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        match word {
            "backward" => Ok(Compatibility::Backward),
            "forward" => Ok(Compatibility::Forward),
            "full" => Ok(Compatibility::Full),
            "none" => Ok(Compatibility::None),
            _ => Err(()),
        }
    }
}

/// A schema at one place.
#[derive(Clone, Copy, Debug)]
pub struct Schema<'a> {
    root: &'a Value,
    node: &'a Value,
}

/// Facts about one value. All of it is text of the schema's author: it may hold anything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notes {
    /// `description`, or else `title`.
    pub description: Option<String>,
    /// `type`, as in `integer` or `string or null`.
    pub kind: Option<String>,
    /// The rules for the value: `one of 1, 2`, `at least 1`.
    pub allowed: Vec<String>,
    /// The value when the key is not set.
    pub default: Option<Value>,
    /// True when the key should not be used any more.
    pub deprecated: bool,
}

impl<'a> Schema<'a> {
    /// A whole schema, at the place of all settings.
    pub fn new(root: &'a Value) -> Self {
        Schema { root, node: root }
    }

    /// The schema of the member `key` of an object.
    pub fn property(self, key: &str) -> Option<Self> {
        let named = self.parts().into_iter().find_map(|part| part.node.get("properties")?.get(key));
        let named = named.or_else(|| {
            self.parts()
                .into_iter()
                .find_map(|part| part.node.get("additionalProperties").filter(|one| one.is_object()))
        });
        named.map(|node| Schema { node, ..self })
    }

    /// What it says about the items of a list.
    pub fn items(self) -> Option<Self> {
        let items = self.parts().into_iter().find_map(|part| part.node.get("items").filter(|items| items.is_object()));
        items.map(|node| Schema { node, ..self })
    }

    /// The members of an object that the schema names, in order, each with whether it is required.
    pub fn properties(self) -> Vec<(&'a str, Self, bool)> {
        let parts = self.parts();
        let required = |key: &str| {
            let mut lists = parts.iter().filter_map(|part| part.node.get("required")?.as_array());
            lists.any(|list| list.iter().any(|one| one == key))
        };
        let mut properties: Vec<(&str, Self, bool)> = Vec::new();
        for members in parts.iter().filter_map(|part| part.node.get("properties")?.as_object()) {
            for (key, node) in members {
                if !properties.iter().any(|(known, ..)| known == key) {
                    properties.push((key, Schema { node, ..self }, required(key)));
                }
            }
        }
        properties
    }

    /// The facts about the value itself.
    pub fn notes(self) -> Notes {
        let parts = self.parts();
        let text = |key: &str| parts.iter().find_map(|part| part.node.get(key)?.as_str()).map(str::to_owned);
        let any = |key: &str| parts.iter().find_map(|part| part.node.get(key));
        let mut notes = Notes {
            description: text("description").or_else(|| text("title")),
            default: any("default").cloned(),
            deprecated: any("deprecated") == Some(&Value::Bool(true)),
            ..Notes::default()
        };
        notes.kind = any("type").and_then(|kind| match kind {
            Value::String(kind) => Some(kind.clone()),
            Value::Array(kinds) => Some(kinds.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or ")),
            _ => None,
        });
        for part in &parts {
            notes.allowed.extend(part.rules());
        }
        notes
    }

    fn rules(self) -> Vec<String> {
        let mut rules = Vec::new();
        if let Some(Value::Array(values)) = self.node.get("enum") {
            let shown: Vec<_> = values.iter().take(MOST_SHOWN).map(Value::to_string).collect();
            let more = values.len().saturating_sub(MOST_SHOWN);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            rules.push(format!("one of {}{more}", shown.join(", ")));
        }
        if let Some(value) = self.node.get("const") {
            rules.push(format!("always {value}"));
        }
        for (key, words) in [
            ("minimum", "at least"),
            ("exclusiveMinimum", "more than"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "less than"),
            ("multipleOf", "a multiple of"),
            ("minLength", "characters: at least"),
            ("maxLength", "characters: at most"),
            ("minItems", "items: at least"),
            ("maxItems", "items: at most"),
            ("pattern", "matches"),
            ("format", "format"),
        ] {
            match self.node.get(key) {
                Some(Value::Number(number)) => rules.push(format!("{words} {number}")),
                Some(Value::String(text)) => rules.push(format!("{words} {text}")),
                _ => {}
            }
        }
        if self.node.get("uniqueItems") == Some(&Value::Bool(true)) {
            rules.push("no item twice".to_owned());
        }
        rules
    }

    /// The node and the nodes that it refers to, nearest first.
    fn parts(self) -> Vec<Self> {
        let mut parts = vec![self];
        let mut at = 0;
        while at < parts.len() && parts.len() < MOST_HOPS {
            let node = parts[at].node;
            at += 1;
            let referred = node.get("$ref").and_then(Value::as_str).and_then(|name| name.strip_prefix('#'));
            let referred = referred.and_then(|pointer| self.root.pointer(pointer));
            let all = node.get("allOf").and_then(Value::as_array).into_iter().flatten();
            parts.extend(referred.into_iter().chain(all).map(|node| Schema { node, ..self }));
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn notes_are_found_through_references() {
        let root = json!({
            "$defs": {
                "port": {"type": "integer", "minimum": 1, "maximum": 65535, "description": "A TCP port."},
                "loop": {"$ref": "#/$defs/loop"},
            },
            "required": ["port"],
            "properties": {
                "port": {"$ref": "#/$defs/port", "default": 80},
                "level": {"enum": ["info", "warn"], "title": "How much is logged", "deprecated": true},
                "list": {"items": {"type": ["string", "null"], "pattern": "^a"}, "minItems": 1, "uniqueItems": true},
                "loop": {"$ref": "#/$defs/loop"},
                "nothing": true,
            },
            "allOf": [{"properties": {"more": {"const": 1}}, "required": ["more"]}],
            "additionalProperties": {"type": "boolean"},
        });
        let schema = Schema::new(&root);
        let notes = |key: &str| schema.property(key).unwrap().notes();
        assert_eq!(
            notes("port"),
            Notes {
                description: Some("A TCP port.".to_owned()),
                kind: Some("integer".to_owned()),
                allowed: vec!["at least 1".to_owned(), "at most 65535".to_owned()],
                default: Some(json!(80)),
                deprecated: false,
            }
        );
        assert_eq!(notes("level").allowed, ["one of \"info\", \"warn\""]);
        assert!(notes("level").deprecated);
        assert_eq!(notes("list").allowed, ["items: at least 1", "no item twice"]);
        let items = schema.property("list").unwrap().items().unwrap().notes();
        assert_eq!((items.kind.as_deref(), &*items.allowed), (Some("string or null"), &["matches ^a".to_owned()][..]));
        assert_eq!(notes("loop"), Notes::default());
        assert_eq!(notes("nothing"), Notes::default());
        assert_eq!(notes("other").kind.as_deref(), Some("boolean"));
        let named: Vec<_> = schema.properties().into_iter().map(|(key, _, required)| (key, required)).collect();
        assert!(
            named.contains(&("port", true)) && named.contains(&("more", true)) && named.contains(&("level", false))
        );
        assert!(Schema::new(&json!([1])).property("a").is_none());
    }
}
