//! The place of a value within settings.

use std::{convert::Infallible, fmt, str::FromStr};

use serde_json::Value;

/// A place within settings. It is read from a dotted key, or from a JSON Pointer (RFC 6901) when it
/// starts with `/`, and shown as a JSON Pointer. Items of a list count from 0. The empty pointer is
/// the whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JsonPointer(Vec<String>);

impl JsonPointer {
    /// The keys on the way, from the outside in.
    pub fn parts(&self) -> &[String] {
        &self.0
    }

    /// The place of `key` within the value here.
    #[must_use]
    pub fn join(&self, key: &str) -> Self {
        let mut parts = self.0.clone();
        parts.push(key.to_owned());
        JsonPointer(parts)
    }

    /// The value at this place.
    pub fn find<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(value, |value, part| member(value, part))
    }
}

/// One step inwards: a member of an object, or an item of a list by its number.
pub fn member<'a>(value: &'a Value, part: &str) -> Option<&'a Value> {
    match value {
        Value::Object(members) => members.get(part),
        Value::Array(items) => part.parse::<usize>().ok().and_then(|at| items.get(at)),
        _ => None,
    }
}

impl FromStr for JsonPointer {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(JsonPointer(match text.strip_prefix('/') {
            Some(pointer) => pointer.split('/').map(|part| part.replace("~1", "/").replace("~0", "~")).collect(),
            None if text.is_empty() => Vec::new(),
            None => text.split('.').map(str::to_owned).collect(),
        }))
    }
}

impl fmt::Display for JsonPointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| write!(f, "/{}", part.replace('~', "~0").replace('/', "~1")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn dotted_keys_and_pointers_lead_to_one_place() {
        let settings = json!({"a": {"b.c": [1, {"d/e": 2}]}, "": 3});
        for (text, shown, value) in [
            ("/a/b.c/1/d~1e", "/a/b.c/1/d~1e", Some(json!(2))),
            ("/a/b.c/0", "/a/b.c/0", Some(json!(1))),
            ("a.b.c", "/a/b/c", None),
            ("a", "/a", Some(json!({"b.c": [1, {"d/e": 2}]}))),
            ("/", "/", Some(json!(3))),
            ("", "", Some(settings.clone())),
            ("/a/b.c/2", "/a/b.c/2", None),
        ] {
            let Ok(pointer) = text.parse::<JsonPointer>();
            assert_eq!(pointer.to_string(), shown);
            assert_eq!(pointer.find(&settings).cloned(), value, "{text}");
        }
    }
}
