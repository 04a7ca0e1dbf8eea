//! `conf-local explain`: the layers that set a component's settings, and the one that won.

use std::time::Duration;

use conf_core::{layers::Explained, terminal::Table};

use crate::{cli::options::ExplainOptions, service::Explanation};

pub(crate) async fn run(options: &ExplainOptions) -> anyhow::Result<()> {
    let key = options.key.as_ref().map_or_else(String::new, |key| format!("?key={}", encoded(key)));
    let path = format!("/v1/explain/{}{key}", options.component);
    let explanation: Explanation = options.output.socket.get(&path, Duration::ZERO).await?;
    options.output.print(&explanation, || text(&explanation))
}

/// Percent-encodes the value of a query.
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
    let mut rows = Table::new();
    for by in &key.set_by {
        let mark = if by.winner { "*" } else { "" };
        rows.add_row([mark.to_owned(), by.origin.to_string(), by.place(), by.shown()]);
    }
    format!("{}\n{rows}", key.shown())
}
