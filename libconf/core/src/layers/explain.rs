//! Who said what about each key of a component's settings, and who had the last word.

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::{
    layers::{
        layer::{Layer, Origin},
        stack::Stack,
    },
    settings::{JsonPointer, member, merge, one_line},
};
use libconf::name::CommitId;

/// One key, and all layers that set or removed it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    /// Its JSON Pointer.
    pub pointer: String,
    /// Its value; absent when it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub value: Option<Value>,
    /// The lowest layer first; the last one decided.
    pub set_by: Vec<SetBy>,
}

/// What one layer says about a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetBy {
    /// Who.
    #[serde(flatten)]
    pub origin: Origin,
    /// The file, in its branch.
    pub file: String,
    /// The line, counted from 1, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The branch or tag, where the asker knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The commit in which the file was read, or which changed it last: whoever answers says which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<CommitId>,
    /// Who wrote that commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// When, as RFC 3339 has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// The value that it sets; absent when it removes what was there.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub value: Option<Value>,
    /// It had the last word.
    pub winner: bool,
}

/// Longer values are cut where a person reads them.
const MOST_CHARACTERS: usize = 60;

impl Explained {
    /// For people, on one line: `<pointer> = <value>`.
    pub fn shown(&self) -> String {
        format!("{} = {}", one_line(&self.pointer), shown(self.value.as_ref(), "(removed)"))
    }
}

impl SetBy {
    /// The value, for people, on one line.
    pub fn shown(&self) -> String {
        shown(self.value.as_ref(), "(removes it)")
    }

    /// Where it stands: `<branch or tag>@<commit> <file>:<line>`.
    pub fn place(&self) -> String {
        let reference = self.reference.as_deref().unwrap_or("?");
        let commit = self.commit.map_or_else(|| "?".to_owned(), |commit| commit.short());
        let line = self.line.map_or_else(String::new, |line| format!(":{line}"));
        format!("{reference}@{commit} {}{line}", self.file)
    }
}

impl Stack {
    /// The layer that had the last word about the value at a JSON Pointer, or at a dotted key: it set it, set something in
    /// it, or removed it.
    pub fn winner(&self, pointer: &str) -> Option<&Layer> {
        let Ok(pointer) = pointer.parse();
        self.layers.iter().rev().find(|layer| says(&layer.values, &pointer) != Says::Nothing)
    }

    /// For every key of the settings at or below `at`, and for every one that a layer removes, who says what.
    pub fn explain(&self, at: Option<&JsonPointer>) -> Vec<Explained> {
        explain(self, at.unwrap_or(&JsonPointer::default()))
    }
}

fn shown(value: Option<&Value>, absent: &str) -> String {
    let Some(value) = value else { return absent.to_owned() };
    let text = one_line(&value.to_string());
    match text.char_indices().nth(MOST_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A null is a value here.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// What a layer says about one place.
#[derive(Debug, PartialEq)]
pub(crate) enum Says<'a> {
    /// It leaves the place as it is.
    Nothing,
    /// This stands there.
    Value(&'a Value),
    /// Nothing stands there, since it removed or replaced what is around it.
    Gone,
}

pub(crate) fn says<'a>(values: &'a Map<String, Value>, pointer: &JsonPointer) -> Says<'a> {
    let Some((first, rest)) = pointer.parts().split_first() else { return Says::Nothing };
    let Some(mut value) = values.get(first) else { return Says::Nothing };
    for part in rest {
        value = match (member(value, part), value) {
            (Some(inner), _) => inner,
            (None, Value::Object(_)) => return Says::Nothing,
            (None, _) => return Says::Gone,
        };
    }
    Says::Value(value)
}

pub(crate) fn explain(stack: &Stack, at: &JsonPointer) -> Vec<Explained> {
    let settings = Value::Object(stack.merged());
    let mut keys = BTreeSet::new();
    if let Some(value) = at.find(&settings) {
        leaves(value, at.clone(), &mut |leaf, _| _ = keys.insert(leaf));
    }
    // What layers remove is explained as well.
    for layer in stack.layers.iter().filter(|layer| layer.origin != Origin::Component) {
        let mut removed = |key: JsonPointer, value: &Value| {
            if value.is_null() && key.parts().starts_with(at.parts()) && key.find(&settings).is_none() {
                keys.insert(key);
            }
        };
        for (key, value) in &layer.values {
            leaves(value, JsonPointer::default().join(key), &mut removed);
        }
    }
    if at.find(&settings).is_none() && keys.is_empty() {
        // Somebody may have removed all that is around it.
        keys.insert(at.clone());
    }
    let explained = keys.into_iter().map(|key| {
        let value = key.find(&settings).cloned();
        Explained { set_by: set_by(stack, &key), pointer: key.to_string(), value }
    });
    explained.filter(|one| !one.set_by.is_empty()).collect()
}

/// Plain values, lists, and objects with nothing in them.
fn leaves(value: &Value, at: JsonPointer, tell: &mut impl FnMut(JsonPointer, &Value)) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            members.iter().for_each(|(key, value)| leaves(value, at.join(key), tell));
        }
        value => tell(at, value),
    }
}

fn set_by(stack: &Stack, key: &JsonPointer) -> Vec<SetBy> {
    let mut told: Vec<SetBy> = Vec::new();
    for layer in &stack.layers {
        let value = match says(&layer.values, key) {
            Says::Nothing => continue,
            Says::Value(value) => said(layer, value),
            Says::Gone => None,
        };
        // What was not there need not be removed; but who wrote a null wants to see it.
        if value.is_none() && told.is_empty() && says(&layer.values, key) == Says::Gone {
            continue;
        }
        told.push(SetBy {
            origin: layer.origin.clone(),
            file: layer.file.clone(),
            line: layer.line_at(key),
            reference: None,
            commit: None,
            author: None,
            date: None,
            value,
            winner: false,
        });
    }
    if let Some(last) = told.last_mut() {
        last.winner = true;
    }
    told
}

/// The value that a layer brings: in a patch a null removes, at any depth of objects.
fn said(layer: &Layer, value: &Value) -> Option<Value> {
    match value {
        value if layer.origin == Origin::Component => Some(value.clone()),
        Value::Null => None,
        Value::Object(patch) => {
            let mut brought = Map::new();
            merge(&mut brought, patch);
            Some(Value::Object(brought))
        }
        value => Some(value.clone()),
    }
}
