//! `conf-local explain`: which layers set a component's settings, and which one won.

use std::{process::ExitCode, time::Duration};

use conf_core::layers::Explained;

use crate::cli::{
    ClientError, print,
    show::{print_json, table},
    socket::Socket,
};
use crate::{cli::config::ExplainOptions, service::Explanation};

pub(crate) async fn run(options: &ExplainOptions) -> Result<ExitCode, ClientError> {
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
    let mut rows = table();
    for by in &key.set_by {
        let mark = if by.winner { "*" } else { "" };
        rows.add_row([mark.to_owned(), by.origin.to_string(), by.place(), by.shown()]);
    }
    format!("{}\n{rows}", key.shown())
}
