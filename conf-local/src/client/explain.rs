//! `conf-local explain`: which layers set a component's settings, and which one won.

use std::{process::ExitCode, time::Duration};

use libconf::tier::{
    commented::one_line,
    layers::{Explained, SetBy},
};
use serde_json::Value;

use super::{
    ClientError, print,
    show::{print_json, table},
    socket::Socket,
};
use crate::{config::ExplainOptions, service::Explanation};

/// Longer values are cut; `--json` has all of them.
const MOST_CHARACTERS: usize = 60;

pub(super) async fn run(options: &ExplainOptions) -> Result<ExitCode, ClientError> {
    let socket = Socket(options.output.socket.socket.clone());
    let key = options.key.as_ref().map_or_else(String::new, |key| format!("?key={}", encoded(key)));
    let path = format!("/v1/explain/{}{key}", options.component);
    let explanation: Explanation = socket.get(&path, Duration::ZERO).await?;
    if options.output.json {
        print_json(&explanation)?;
    } else {
        print(&text(&explanation))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A value of a query, with everything escaped that could mean something else there.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

fn text(explanation: &Explanation) -> String {
    let Explanation { component, sequence, commit, keys } = explanation;
    let head = format!("{component} as of change {sequence} ({})", commit.short());
    if keys.is_empty() {
        return format!("{head}: it has no settings");
    }
    keys.iter().fold(head, |text, key| format!("{text}\n\n{}", of_key(key)))
}

fn of_key(key: &Explained) -> String {
    let value = key.value.as_ref().map_or_else(|| "(removed)".to_owned(), shown);
    let mut rows = table();
    for by in &key.set_by {
        let value = by.value.as_ref().map_or_else(|| "(removes it)".to_owned(), shown);
        let mark = if by.winner { "*" } else { "" };
        rows.add_row([mark.to_owned(), by.origin.to_string(), place(by), value]);
    }
    format!("{} = {value}\n{rows}", one_line(&key.pointer))
}

/// `<branch or tag>@<commit> <file>:<line>`
fn place(by: &SetBy) -> String {
    let reference = by.reference.as_deref().unwrap_or("?");
    let commit = by.commit.map_or_else(|| "?".to_owned(), |commit| commit.short());
    let line = by.line.map_or_else(String::new, |line| format!(":{line}"));
    format!("{reference}@{commit} {}{line}", by.file)
}

fn shown(value: &Value) -> String {
    let text = one_line(&value.to_string());
    match text.char_indices().nth(MOST_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
