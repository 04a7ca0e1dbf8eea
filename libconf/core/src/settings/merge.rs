//! JSON Merge Patch.

use serde_json::{Map, Value};

/// JSON Merge Patch (RFC 7396) of objects: a null removes, an object is merged, everything else
/// replaces.
pub(crate) fn merge(settings: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match value {
            Value::Null => drop(settings.remove(key)),
            Value::Object(patch) => {
                let inner = settings.entry(key.as_str()).or_insert(Value::Null);
                if !inner.is_object() {
                    *inner = Value::Object(Map::new());
                }
                if let Value::Object(inner) = inner {
                    merge(inner, patch);
                }
            }
            value => drop(settings.insert(key.clone(), value.clone())),
        }
    }
}
