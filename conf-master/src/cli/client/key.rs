//! `conf-master key`: shows the keys that sign; makes another one, revokes one.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use conf_core::terminal::{Table, note, print};
use libconf::name::Sequence;
use serde_json::json;

use crate::cli::client::print::print_json;
use crate::hooks::local;
use crate::keys::{KeyAnswer, KeyCall, ListedKey};

/// Flags of `key`.
#[derive(Debug, clap::Args)]
pub(crate) struct KeyFlags {
    /// What to do
    #[command(subcommand)]
    act: KeyCommand,
}

/// An action on keys.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum KeyCommand {
    /// Make another key, which signs from this change on, and print its public line. Conf-slaves
    /// and hosts follow by themselves
    Rotate {
        /// Revoke the old key at once: it has leaked
        #[arg(long, hide_env = true)]
        revoke_old: bool,
        /// How to reach conf-master
        #[command(flatten)]
        way: Way,
    },
    /// Show all keys: which one signs, and what became of the others
    List {
        /// How to reach conf-master
        #[command(flatten)]
        way: Way,
    },
    /// Revoke a key that does not sign any more: what it signed while it did still counts, and
    /// nothing else
    Revoke {
        /// The key, as `list` names it
        #[arg(value_name = "FINGERPRINT")]
        fingerprint: String,
        /// How to reach conf-master
        #[command(flatten)]
        way: Way,
    },
}

/// How conf-master is reached about keys.
#[derive(Debug, clap::Args)]
pub(crate) struct Way {
    /// The repository that conf-master serves, on its own machine, as root or as its user
    #[arg(long, value_name = "DIR", hide_env = true)]
    repo: PathBuf,
    /// Print JSON, with everything that the server answered
    #[arg(long, hide_env = true)]
    json: bool,
}

/// Does what the flags say.
pub(crate) fn run(flags: &KeyFlags) -> anyhow::Result<ExitCode> {
    match &flags.act {
        KeyCommand::List { way } => list(way),
        KeyCommand::Rotate { revoke_old, way } => changed(way, KeyCall::Rotate { revokes_old: *revoke_old }),
        KeyCommand::Revoke { fingerprint, way } => changed(way, KeyCall::Revoke(fingerprint.clone())),
    }
}

fn list(way: &Way) -> anyhow::Result<ExitCode> {
    let keys = match local::keys(&way.repo, KeyCall::List)? {
        Ok(KeyAnswer { keys: Some(keys), .. }) => keys,
        Ok(_) => bail!("conf-master's answer is not as expected"),
        Err(words) => return refused(way, &words),
    };
    if way.json {
        return print_json(&keys);
    }
    let at = |change: Option<Sequence>| change.map_or_else(|| "-".to_owned(), |change| format!("#{change}"));
    let mut table = Table::with_header(["KEY", "SIGNS", "FROM", "SINCE", "REPLACED", "REVOKED"]);
    for ListedKey { fingerprint, signs, from, since, replaced, revoked } in keys {
        let signs = if signs { "now" } else { "-" };
        let since = since.unwrap_or_else(|| "-".to_owned());
        table.add_row([fingerprint, signs.to_owned(), at(from), since, at(replaced), at(revoked)]);
    }
    print(table)?;
    Ok(ExitCode::SUCCESS)
}

fn changed(way: &Way, call: KeyCall) -> anyhow::Result<ExitCode> {
    let is_rotation = matches!(call, KeyCall::Rotate { .. });
    let done = match local::keys(&way.repo, call)? {
        Ok(done) => done,
        Err(words) => return refused(way, &words),
    };
    if way.json {
        print_json(&done)?;
    } else if let Some(public) = done.public.as_ref().filter(|_| is_rotation) {
        print(public)?;
    }
    for line in &done.notes {
        note(format_args!("conf-master: {line}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn refused(way: &Way, words: &str) -> anyhow::Result<ExitCode> {
    if way.json {
        print_json(&json!({ "error": words }))?;
    } else {
        note(format_args!("conf-master: {words}"));
    }
    Ok(ExitCode::FAILURE)
}
