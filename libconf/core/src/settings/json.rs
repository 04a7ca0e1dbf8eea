//! JSON as this project reads it: a duplicate key is a fault.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

use crate::settings::fault::{Fault, shown, too_deep, without_value};

/// Reads a text; a fault names its line.
pub(crate) fn read(text: &str) -> Result<Value, Fault> {
    serde_json::from_str::<OnceEach>(text).map(|OnceEach(value)| value).map_err(|error| {
        let words = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let reason = match words.strip_suffix(&place).unwrap_or(&words) {
            "recursion limit exceeded" => too_deep(),
            "number out of range" => "the number is beyond what a number can hold; write it in quotes".to_owned(),
            reason => without_value(reason),
        };
        Fault::new(error.line(), reason)
    })
}

/// A JSON value without duplicate keys: RFC 8259 leaves their meaning open, and readers differ.
struct OnceEach(Value);

impl<'de> Deserialize<'de> for OnceEach {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OnceEachVisitor).map(OnceEach)
    }
}

struct OnceEachVisitor;

impl<'de> Visitor<'de> for OnceEachVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(OnceEach(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(de::Error::custom(format_args!("`{}` stands twice; keep one", shown(&key))));
            }
            object.insert(key, map.next_value::<OnceEach>()?.0);
        }
        Ok(Value::Object(object))
    }
}
