//! `conf-master secret`: lists a datacenter's secrets without their values, sets a value, makes a
//! new one, removes one.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use conf_core::{
    secret::MAX_VALUE_BYTES,
    terminal::{Table, note, print},
};
use libconf::name::{DatacenterName, SecretName};
use reqwest::Method;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::cli::client::connect::{ClientFlags, call};
use crate::cli::client::print::{print_faults, print_json, reason};
use crate::secrets::ListedSecret;
use crate::text::some_of;

/// How long to wait for an answer.
const ANSWER: Duration = Duration::from_secs(60);
/// The most hosts that the table names; `--json` has them all.
const MOST_NAMED: usize = 5;

/// Flags of `secret`.
#[derive(Debug, clap::Args)]
pub(crate) struct SecretFlags {
    /// What to do
    #[command(subcommand)]
    act: SecretCommand,
}

/// An action on secrets.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum SecretCommand {
    /// Show names, sources, readers, ages and hosts; never a value
    List {
        /// The datacenter
        #[arg(value_name = "ID/VERSION")]
        datacenter: DatacenterName,
        /// How to reach conf-master, and how to print its answer
        #[command(flatten)]
        client: ClientFlags,
    },
    /// Set a value, from a file or standard input; the end of a single line is not part of the
    /// value
    Set {
        /// The secret
        #[command(flatten)]
        which: NamedSecret,
        /// The file that holds the value; - is standard input
        #[arg(long, value_name = "FILE", default_value = "-")]
        file: PathBuf,
    },
    /// Make a new value, or take the value that conf-master's environment gives now
    Rotate(NamedSecret),
    /// Forget a value that no datacenter declares any more
    Remove(NamedSecret),
}

/// One secret.
#[derive(Debug, clap::Args)]
pub(crate) struct NamedSecret {
    /// The datacenter; all versions of its id share the value
    #[arg(value_name = "ID/VERSION")]
    datacenter: DatacenterName,
    /// The name of the secret
    #[arg(value_name = "NAME")]
    name: SecretName,
    /// How to reach conf-master, and how to print its answer
    #[command(flatten)]
    client: ClientFlags,
}

/// Does what the flags say.
pub(crate) async fn run(flags: &SecretFlags) -> anyhow::Result<ExitCode> {
    match &flags.act {
        SecretCommand::List { datacenter, client } => list(datacenter, client).await,
        SecretCommand::Set { which, file } => {
            let value = read(file)?;
            request(which, Method::PUT, "", Some(&json!({"value": &*value}))).await
        }
        SecretCommand::Rotate(which) => request(which, Method::POST, "/rotate", None).await,
        SecretCommand::Remove(which) => request(which, Method::DELETE, "", None).await,
    }
}

async fn list(datacenter: &DatacenterName, client: &ClientFlags) -> anyhow::Result<ExitCode> {
    let path = format!("api/v1/datacenters/{datacenter}/secrets");
    let listed: Vec<ListedSecret> = client.connect()?.get_json(&path).await?;
    if client.json {
        return print_json(&listed);
    }
    let mut table = Table::with_header(["NAME", "SOURCE", "READERS", "AGE", "VALID UNTIL", "HOSTS", "TO BE ROTATED"]);
    for one in &listed {
        let readers: Vec<String> = one.readers.iter().map(ToString::to_string).collect();
        table.add_row([
            one.name.to_string(),
            if one.declared { one.source.clone() } else { format!("{} (not declared here)", one.source) },
            readers.join("\n"),
            one.age_seconds.map(age).unwrap_or_default(),
            one.valid_until.clone().unwrap_or_default(),
            some_of(&one.hosts, MOST_NAMED).join(", "),
            // The newest first.
            some_of(one.left.iter().rev().map(|left| format!("{} left at #{}", left.host, left.since)), MOST_NAMED)
                .join("\n"),
        ]);
    }
    print(table)?;
    Ok(ExitCode::SUCCESS)
}

fn age(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Reads a value from a file or standard input. The end of a single line is not part of the value;
/// of several lines every byte is.
fn read(file: &Path) -> anyhow::Result<Zeroizing<String>> {
    let words = || format!("cannot read {}", file.display());
    let source: Box<dyn std::io::Read> = match file.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(std::fs::File::open(file).with_context(words)?),
    };
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_VALUE_BYTES + 2));
    source.take(MAX_VALUE_BYTES as u64 + 2).read_to_end(&mut bytes).with_context(words)?;
    let Ok(text) = std::str::from_utf8(&bytes) else {
        bail!("{} is not UTF-8; encode it as base64 first", file.display());
    };
    let line = text.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    let value = line.filter(|line| !line.contains('\n')).unwrap_or(text);
    Ok(Zeroizing::new(value.to_owned()))
}

async fn request(which: &NamedSecret, method: Method, end: &str, body: Option<&Value>) -> anyhow::Result<ExitCode> {
    let path = format!("api/v1/datacenters/{}/secrets/{}{end}", which.datacenter, which.name);
    let (status, answer) = call(&which.client.connect()?, method, &path, &[], body, ANSWER).await?;
    if which.client.json {
        print_json(&answer)?;
    } else if status.is_success() {
        let mut text = format!("{} of {}: #{}\n", which.name, which.datacenter, answer["sequence"]);
        for note in answer["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let _ = writeln!(text, "  {note}");
        }
        print(text)?;
    } else {
        note(format_args!("conf-master: {}", reason(&answer)));
        if answer["faults"].as_array().is_some_and(|faults| faults.len() > 1) {
            print_faults(&answer);
        }
    }
    Ok(if status.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
