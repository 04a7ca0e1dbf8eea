//! Writes new values into an existing TOML text, so that unchanged values keep their place, form
//! and comments.

use serde_json::{Map, Value as Json};
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, TableLike, Value};

/// Writes `values` over `old`, which may be empty; the error names a value that TOML cannot hold.
pub(crate) fn write(old: &str, values: &Map<String, Json>) -> Result<String, String> {
    // A text that cannot be parsed has no comments to keep.
    let mut document: DocumentMut = old.parse().unwrap_or_default();
    set_all(document.as_table_mut(), values)?;
    Ok(document.to_string())
}

fn set_all(table: &mut dyn TableLike, values: &Map<String, Json>) -> Result<(), String> {
    let gone: Vec<String> =
        table.iter().map(|(key, _)| key.to_owned()).filter(|key| !values.contains_key(key)).collect();
    gone.iter().for_each(|key| drop(table.remove(key)));
    for (key, value) in values {
        match (table.get_mut(key), value) {
            (Some(item), value) if says(item, value) => {}
            (Some(item), Json::Object(values)) if item.is_table_like() => {
                if let Some(inner) = item.as_table_like_mut() {
                    set_all(inner, values)?;
                }
            }
            (Some(item), value) if item.is_value() && !value.is_object() => {
                let mut new = inline(value)?;
                if let Some(old) = item.as_value() {
                    *new.decor_mut() = old.decor().clone();
                }
                *item = Item::Value(new);
            }
            _ => {
                table.remove(key);
                table.insert(key, block(value)?);
            }
        }
    }
    Ok(())
}

/// Tells whether an item already has this value.
fn says(item: &Item, value: &Json) -> bool {
    match (item, value) {
        (Item::Value(held), value) => value_says(held, value),
        (Item::ArrayOfTables(tables), Json::Array(values)) => {
            tables.len() == values.len()
                && tables.iter().zip(values).all(|(table, value)| {
                    value.as_object().is_some_and(|values| {
                        table.len() == values.len()
                            && values.iter().all(|(key, value)| table.get(key).is_some_and(|item| says(item, value)))
                    })
                })
        }
        _ => false,
    }
}

fn value_says(held: &Value, value: &Json) -> bool {
    match (held, value) {
        (Value::String(held), Json::String(text)) => held.value() == text,
        (Value::Integer(held), Json::Number(number)) => number.as_i64() == Some(*held.value()),
        (Value::Float(held), Json::Number(number)) => {
            number.is_f64() && number.as_f64().is_some_and(|number| number.to_bits() == held.value().to_bits())
        }
        (Value::Boolean(held), Json::Bool(truth)) => held.value() == truth,
        (Value::Datetime(held), Json::String(text)) => held.value().to_string() == *text,
        (Value::Array(held), Json::Array(values)) => {
            held.len() == values.len() && held.iter().zip(values).all(|(held, value)| value_says(held, value))
        }
        (Value::InlineTable(held), Json::Object(values)) => {
            held.len() == values.len()
                && values.iter().all(|(key, value)| held.get(key).is_some_and(|held| value_says(held, value)))
        }
        _ => false,
    }
}

/// Makes an item with a place of its own: objects become tables with a header.
fn block(value: &Json) -> Result<Item, String> {
    let Json::Object(values) = value else { return inline(value).map(Item::Value) };
    let mut table = Table::new();
    // A table that holds only tables needs a header only when it is empty.
    table.set_implicit(!values.is_empty() && values.values().all(Json::is_object));
    for (key, value) in values {
        table.insert(key, block(value)?);
    }
    Ok(Item::Table(table))
}

fn inline(value: &Json) -> Result<Value, String> {
    Ok(match value {
        Json::Null => return Err("TOML has no null; leave the key out".to_owned()),
        Json::Bool(truth) => (*truth).into(),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(float)) if number.is_f64() => float.into(),
            _ => return Err(format!("TOML has no number as large as {number}; write it as text, in quotes")),
        },
        Json::String(text) => text.as_str().into(),
        Json::Array(values) => {
            let values = values.iter().map(inline).collect::<Result<Array, _>>()?;
            Value::Array(values)
        }
        Json::Object(values) => {
            let mut table = InlineTable::new();
            for (key, value) in values {
                table.insert(key, inline(value)?);
            }
            Value::InlineTable(table)
        }
    })
}
