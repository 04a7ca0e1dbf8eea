//! A component's settings: its one settings file as a JSON object, and that object's canonical bytes.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// The notation of a settings file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `config.yaml`, `config.yml`
    Yaml,
    /// `config.json`
    Json,
    /// `config.toml`
    Toml,
}

/// Why a component has no settings that anyone could read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {reason}", line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct SettingsFault {
    /// Which file, relative to the component's root.
    pub file: String,
    /// The line, counted from 1, where the fault has one.
    pub line: Option<usize>,
    /// What is wrong and what to write instead.
    pub reason: String,
}

/// Finds the one settings file among a component's files, and refuses what cannot be there.
///
/// `paths` are relative to the component's root; `config.*` counts at the root alone, a template anywhere. A `raw`
/// component has no settings file.
pub fn choose<'a>(
    paths: impl IntoIterator<Item = &'a str>,
    raw: bool,
) -> Result<Option<(&'a str, Format)>, SettingsFault> {
    let _ = (paths.into_iter().next(), raw);
    unimplemented!()
}

/// Reads one settings file; its top level must be an object.
pub fn parse(file: &str, format: Format, bytes: &[u8]) -> Result<Map<String, Value>, SettingsFault> {
    let _ = (file, format, bytes);
    unimplemented!()
}

/// A component's settings from its files (path relative to its root, content): an object, `{}` where there is no file.
pub fn read(files: &BTreeMap<String, Vec<u8>>, raw: bool) -> Result<Value, SettingsFault> {
    let settings = match choose(files.keys().map(String::as_str), raw)? {
        Some((file, format)) => parse(file, format, &files[file])?,
        None => Map::new(),
    };
    Ok(Value::Object(settings))
}

/// The same settings as the same bytes everywhere: keys sorted, no spaces, numbers as they are shortest.
pub fn to_canonical(settings: &Value) -> Vec<u8> {
    let _ = settings;
    unimplemented!()
}
