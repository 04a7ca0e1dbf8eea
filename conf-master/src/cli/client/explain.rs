//! `conf-master explain`: who set each key of a component's settings on a host, and when.

use std::{fmt::Write as _, process::ExitCode};

use conf_core::{
    layers::Explained,
    settings::one_line,
    terminal::{Table, print},
};
use libconf::name::{ComponentSelector, DatacenterName, HostName};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::cli::client::connect::ClientFlags;
use crate::cli::client::print::print_json;
use crate::inspect::Explanation;

/// Flags of `explain`.
#[derive(Debug, clap::Args)]
pub(crate) struct ExplainFlags {
    /// The datacenter
    #[arg(value_name = "ID/VERSION")]
    datacenter: DatacenterName,
    /// The component: KIND/NAME[/VERSION]
    #[arg(value_name = "COMPONENT")]
    component: ComponentSelector,
    /// Only the keys at or below this one: dotted, or a JSON Pointer
    #[arg(value_name = "KEY")]
    key: Option<String>,
    /// The host; without it, a host without roles
    #[arg(long, value_name = "NAME")]
    host: Option<HostName>,
    /// How to reach conf-master, and how to print its answer
    #[command(flatten)]
    client: ClientFlags,
}

/// Asks, and prints the answer.
pub(crate) async fn run(flags: &ExplainFlags) -> anyhow::Result<ExitCode> {
    let mut path = format!("api/v1/datacenters/{}/explain?component={}", flags.datacenter, flags.component);
    let more = [("key", flags.key.clone()), ("host", flags.host.as_ref().map(ToString::to_string))];
    for (name, value) in more.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        let _ = write!(path, "&{name}={}", utf8_percent_encode(&value, NON_ALPHANUMERIC));
    }
    let explanation: Explanation = flags.client.connect()?.get_json(&path).await?;
    if flags.client.json {
        return print_json(&explanation);
    }
    let Explanation { datacenter, component, host, sequence, keys, .. } = &explanation;
    let host = host.as_ref().map_or_else(|| "a host without roles".to_owned(), ToString::to_string);
    let mut text = format!("{component} on {host} of {datacenter} as of change {sequence}\n");
    if keys.is_empty() {
        text.push_str("it has no settings\n");
    }
    for key in keys {
        let _ = write!(text, "\n{}\n", of_key(key));
    }
    print(text)?;
    Ok(ExitCode::SUCCESS)
}

fn of_key(key: &Explained) -> String {
    let mut rows = Table::new();
    for by in &key.set_by {
        let mark = if by.winner { "*" } else { "" };
        let (author, date) = (by.author.as_deref().unwrap_or("?"), by.date.as_deref().unwrap_or("?"));
        rows.add_row([mark, &by.origin.to_string(), &by.place(), &one_line(author), date, &by.shown()]);
    }
    format!("{}\n{rows}", key.shown())
}
