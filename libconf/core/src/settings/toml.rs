//! Reads TOML as a JSON value.

use serde_json::{Number, Value};

use crate::settings::fault::{Fault, too_deep, without_value};

pub(crate) fn from_toml(text: &str) -> Result<Value, Fault> {
    let table = text.parse::<toml::Table>().map_err(|error| {
        let line = error.span().map_or(0, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        match error.message() {
            deep if deep.contains("recursion") => Fault::new(line, too_deep()),
            large if large.contains("value was too large") || large.starts_with("invalid type: integer") => {
                Fault::new(line, "TOML has no whole number beyond 64 bits with a sign; write it in quotes")
            }
            large if large.contains("number overflowed") => {
                Fault::new(line, "the number is beyond what a number can hold; write it in quotes")
            }
            reason => Fault::new(line, without_value(&reason.lines().collect::<Vec<_>>().join("; "))),
        }
    })?;
    toml_to_json(toml::Value::Table(table))
}

fn toml_to_json(value: toml::Value) -> Result<Value, Fault> {
    Ok(match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => Value::Number(number.into()),
        toml::Value::Boolean(value) => Value::Bool(value),
        toml::Value::Datetime(time) => Value::String(time.to_string()),
        toml::Value::Float(number) => Number::from_f64(number)
            .map(Value::Number)
            .ok_or_else(|| Fault::new(0, format!("JSON has no number {number}; write it as text, in quotes")))?,
        toml::Value::Array(values) => Value::Array(values.into_iter().map(toml_to_json).collect::<Result<_, _>>()?),
        toml::Value::Table(table) => Value::Object(
            table.into_iter().map(|(key, value)| Ok((key, toml_to_json(value)?))).collect::<Result<_, Fault>>()?,
        ),
    })
}
