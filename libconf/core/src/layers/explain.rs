//! The layers that set or removed each key of a component's settings, and the one that decided.

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
    /// Its value; absent when a layer removed it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub value: Option<Value>,
    /// The lowest layer first; the last one decided.
    pub set_by: Vec<SetBy>,
}

/// The word of one layer about a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetBy {
    /// The layer.
    #[serde(flatten)]
    pub origin: Origin,
    /// The file, in its branch.
    pub file: String,
    /// The line, counted from 1, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The branch or tag, if the answering program knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The commit in which the file was read, or the one that changed it last; the answering
    /// program tells which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<CommitId>,
    /// The author of that commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The commit's time, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// The value that the layer sets; absent when it removes the key.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub value: Option<Value>,
    /// True for the layer that decided.
    pub winner: bool,
}

/// The most characters of a value that a person reads.
const MOST_CHARACTERS: usize = 60;

impl Explained {
    /// The key and its value for people, on one line: `<pointer> = <value>`.
    pub fn shown(&self) -> String {
        format!("{} = {}", one_line(&self.pointer), shown(self.value.as_ref(), "(removed)"))
    }
}

impl SetBy {
    /// The value, for people, on one line.
    pub fn shown(&self) -> String {
        shown(self.value.as_ref(), "(removes it)")
    }

    /// The place of the value: `<branch or tag>@<commit> <file>:<line>`.
    pub fn place(&self) -> String {
        let reference = self.reference.as_deref().unwrap_or("?");
        let commit = self.commit.map_or_else(|| "?".to_owned(), |commit| commit.short());
        let line = self.line.map_or_else(String::new, |line| format!(":{line}"));
        format!("{reference}@{commit} {}{line}", self.file)
    }
}

impl Stack {
    /// The layer that decided about the value at a JSON Pointer, or at a dotted key: the last one
    /// that set it, set something in it, or removed it.
    pub fn winner(&self, pointer: &str) -> Option<&Layer> {
        let Ok(pointer) = pointer.parse();
        self.layers.iter().rev().find(|layer| says(&layer.values, &pointer) != Says::Nothing)
    }

    /// Explains every key of the settings at or below `at`, and every key that a layer removes
    /// there.
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

/// Keeps a null: it is a value here.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// The word of a layer about one place.
#[derive(Debug, PartialEq)]
pub(crate) enum Says<'a> {
    /// The layer leaves the place as it is.
    Nothing,
    /// The layer sets this value.
    Value(&'a Value),
    /// The layer removed or replaced the object around the place.
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
    // Removed keys are explained as well.
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
        // A layer may have removed an object around the place.
        keys.insert(at.clone());
    }
    let explained = keys.into_iter().map(|key| {
        let value = key.find(&settings).cloned();
        Explained { set_by: set_by(stack, &key), pointer: key.to_string(), value }
    });
    explained.filter(|one| !one.set_by.is_empty()).collect()
}

/// Visits plain values, lists, and empty objects.
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
        // A key that was never set need not be removed; but the author of a null wants to see it.
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

/// The value that a layer sets: in a patch a null removes, at any depth of objects.
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
