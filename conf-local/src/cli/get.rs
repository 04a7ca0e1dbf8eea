//! `conf-local get`: a component's settings, or one value of them.

use std::time::Duration;

use anyhow::anyhow;
use conf_core::settings::{self, JsonPointer, Schema, commented};
use serde_json::Value;

use crate::cli::{
    options::GetOptions,
    output::{note, print},
};

pub(crate) async fn run(options: &GetOptions) -> anyhow::Result<()> {
    let socket = &options.socket;
    let sequence = options.sequence.map_or_else(String::new, |sequence| format!("?sequence={sequence}"));
    let settings: Value = socket.get(&format!("/v1/config/{}{sequence}", options.component), Duration::ZERO).await?;
    let key = options.positional_key.as_ref().or(options.key.as_ref());
    let value = match key {
        Some(key) => value_at(&settings, key)
            .map_err(|fault| anyhow!("{} has no value at {key:?}: {fault}", options.component))?,
        None => &settings,
    };
    if options.commented {
        let schema: Value = socket.get(&format!("/v1/schema/{}{sequence}", options.component), Duration::ZERO).await?;
        if schema.is_null() {
            note(format_args!(
                "{} has no {}, so there is nothing to comment",
                options.component,
                settings::SCHEMA_FILE
            ));
        }
        let Ok(pointer) = key.map_or("", String::as_str).parse::<JsonPointer>();
        let schema =
            (!schema.is_null()).then(|| Schema::new(&schema)).and_then(|schema| within(schema, &settings, &pointer));
        return print(&commented(value, schema));
    }
    print(&format!("{value:#}"))
}

/// Returns the part of a schema for the value at `pointer`.
fn within<'a>(schema: Schema<'a>, settings: &Value, pointer: &JsonPointer) -> Option<Schema<'a>> {
    let mut value = settings;
    pointer.parts().iter().try_fold(schema, |schema, part| {
        let inner = if value.is_array() { schema.items() } else { schema.property(part) };
        value = settings::member(value, part)?;
        inner
    })
}

/// Returns the value at a dotted key, or at a JSON Pointer (RFC 6901) if it starts with `/`. Lists
/// count from 0.
fn value_at<'a>(settings: &'a Value, key: &str) -> Result<&'a Value, String> {
    let Ok(pointer) = key.parse::<JsonPointer>();
    let parts = pointer.parts();
    parts.iter().enumerate().try_fold(settings, |value, (depth, part)| {
        let inner = match value {
            Value::Object(members) => members.get(part),
            Value::Array(items) => part.parse::<usize>().ok().and_then(|at| items.get(at)),
            _ => None,
        };
        inner.ok_or_else(|| {
            let place = if depth == 0 { "the settings".to_owned() } else { parts[..depth].join(".") };
            match value {
                Value::Object(members) if members.is_empty() => format!("{place} is empty"),
                Value::Object(members) => {
                    let known: Vec<_> = members.keys().map(String::as_str).take(20).collect();
                    let more = if members.len() > known.len() { ", …" } else { "" };
                    format!("known in {place} are {}{more}", known.join(", "))
                }
                Value::Array(items) => format!("{place} is a list of {} items, counted from 0", items.len()),
                _ => format!("{place} is a plain value"),
            }
        })
    })
}
