//! `conf-master key`: shows the keys that sign; makes another one, revokes one.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use conf_core::git::{self, Durability};
use conf_core::secret::HostKey;
use conf_core::terminal::{Table, note, print};
use libconf::name::Sequence;
use serde_json::json;

use crate::cli::client::print::print_json;
use crate::hooks::local;
use crate::keys::{KeyAnswer, KeyCall, ListedKey};
use crate::standby::keys_file;
use crate::store;

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
    /// Write the signing key and the key for secrets into a file, sealed to the operator of a
    /// standby
    Export(ExportFlags),
    /// Give a standby the keys of its leader anew, after `rotate`
    Import(ImportFlags),
}

/// Where the keys of a server are, and go.
#[derive(Debug, clap::Args)]
pub(crate) struct ExportFlags {
    /// The repository of the server, as root or as its user
    #[arg(long, value_name = "DIR", hide_env = true)]
    repo: PathBuf,
    /// Seal the keys to this public key: age1… or ssh-ed25519 …; repeat for more
    #[arg(long = "recipient", value_name = "KEY", required = true, hide_env = true)]
    recipients: Vec<HostKey>,
    /// The file to write
    #[arg(long, value_name = "FILE", hide_env = true)]
    out: PathBuf,
}

/// Where keys are that were exported, and where they go.
#[derive(Debug, clap::Args)]
pub(crate) struct ImportFlags {
    /// The repository of the standby, as its user
    #[arg(long, value_name = "DIR", hide_env = true)]
    repo: PathBuf,
    /// The keys, as `export` has sealed them
    #[arg(long, value_name = "FILE", hide_env = true)]
    keys: PathBuf,
    /// The private key that opens them
    #[arg(long, value_name = "FILE", hide_env = true)]
    identity: PathBuf,
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
        KeyCommand::Export(flags) => export(flags),
        KeyCommand::Import(flags) => import(flags),
        KeyCommand::Revoke { fingerprint, way } => changed(way, KeyCall::Revoke(fingerprint.clone())),
    }
}

fn export(flags: &ExportFlags) -> anyhow::Result<ExitCode> {
    let sealed = keys_file::seal(&flags.repo.canonicalize()?, &flags.recipients)?;
    git::replace_file(&flags.out, &sealed, 0o600, Durability::Full)
        .with_context(|| format!("cannot write {}", flags.out.display()))?;
    note(format_args!("the keys are in {}, sealed", flags.out.display()));
    Ok(ExitCode::SUCCESS)
}

fn import(flags: &ImportFlags) -> anyhow::Result<ExitCode> {
    let repo = flags.repo.canonicalize()?;
    if !store::is_standby(&repo) {
        bail!("{} is no standby's repository, and keeps its keys", flags.repo.display());
    }
    let key = keys_file::put(&flags.keys, &flags.identity, &repo)?;
    note(format_args!("the standby signs with {} once it leads", key.fingerprint()));
    Ok(ExitCode::SUCCESS)
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
