//! `conf-master secret`: what may be known of a datacenter's secrets; a given value, a new one, removal.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use comfy_table::{Table, presets::NOTHING};
use conf_core::secret::MAX_VALUE_BYTES;
use libconf::name::{DatacenterName, HostName, SecretName};
use reqwest::Method;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::cli::client::ServerFlags;
use crate::{fault::refusal::Fault, secrets::list::Listed};

/// How long an answer is waited for.
const ANSWER: Duration = Duration::from_secs(60);
/// How many hosts the table names; `--json` has them all.
const MOST_NAMED: usize = 5;

/// Flags of `secret`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// What to do
    #[command(subcommand)]
    pub act: Act,
}

/// What to do with secrets.
#[derive(Debug, clap::Subcommand)]
pub enum Act {
    /// Show names, sources, readers, ages and hosts; never a value
    List {
        /// Which datacenter
        #[arg(value_name = "ID/VERSION")]
        datacenter: DatacenterName,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// How to reach conf-master
        #[command(flatten)]
        server: ServerFlags,
    },
    /// Give a value, from a file or standard input; of a single line the line's end is not part of it
    Set {
        /// Which secret
        #[command(flatten)]
        which: Which,
        /// The file that holds the value; - is standard input
        #[arg(long, value_name = "FILE", default_value = "-")]
        file: PathBuf,
    },
    /// Make a new value, or take the one that conf-master's environment gives now
    Rotate(Which),
    /// Forget a value that nobody declares any more
    Remove(Which),
}

/// One secret.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// Which datacenter; all versions of its id share the value
    #[arg(value_name = "ID/VERSION")]
    pub datacenter: DatacenterName,
    /// Which secret
    #[arg(value_name = "NAME")]
    pub name: SecretName,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// How to reach conf-master
    #[command(flatten)]
    pub server: ServerFlags,
}

/// `conf-master secret`
pub async fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    match &flags.act {
        Act::List { datacenter, json, server } => list(datacenter, *json, server).await,
        Act::Set { which, file } => {
            let value = read(file)?;
            order(which, Method::PUT, "", Some(&json!({"value": &*value}))).await
        }
        Act::Rotate(which) => order(which, Method::POST, "/rotate", None).await,
        Act::Remove(which) => order(which, Method::DELETE, "", None).await,
    }
}

async fn list(datacenter: &DatacenterName, as_json: bool, server: &ServerFlags) -> anyhow::Result<ExitCode> {
    let path = format!("api/v1/datacenters/{datacenter}/secrets");
    let listed: Vec<Listed> = server.connect()?.get_json(&path).await?;
    if as_json {
        println!("{}", serde_json::to_string_pretty(&listed)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["NAME", "SOURCE", "READERS", "AGE", "VALID UNTIL", "HOSTS"]);
    for one in &listed {
        let readers: Vec<String> = one.readers.iter().map(ToString::to_string).collect();
        table.add_row([
            one.name.to_string(),
            if one.declared { one.source.clone() } else { format!("{} (not declared here)", one.source) },
            readers.join("\n"),
            one.age_seconds.map(age).unwrap_or_default(),
            one.valid_until.clone().unwrap_or_default(),
            hosts(&one.hosts),
        ]);
    }
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}

fn hosts(hosts: &[HostName]) -> String {
    let mut named: Vec<String> = hosts.iter().take(MOST_NAMED).map(ToString::to_string).collect();
    if let more @ 1.. = hosts.len().saturating_sub(MOST_NAMED) {
        named.push(format!("{more} more"));
    }
    named.join(", ")
}

fn age(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A value from a file or standard input. The end of its only line is not part of it; of several lines every byte is.
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

async fn order(which: &Which, method: Method, end: &str, body: Option<&Value>) -> anyhow::Result<ExitCode> {
    let path = format!("api/v1/datacenters/{}/secrets/{}{end}", which.datacenter, which.name);
    let servers = which.server.connect()?;
    let Some(server) = servers.in_order().first().cloned() else { bail!("no server was given") };
    let (status, answer) = server.call(method, &path, &[], body, ANSWER).await?;
    if which.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else if status.is_success() {
        println!("{} of {}: #{}", which.name, which.datacenter, answer["sequence"]);
        for note in answer["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            println!("  {note}");
        }
    } else {
        eprintln!("conf-master: {}", answer["error"].as_str().unwrap_or("no reason was given"));
        let faults = answer["faults"].as_array().filter(|faults| faults.len() > 1);
        for fault in
            faults.into_iter().flatten().filter_map(|fault| serde_json::from_value::<Fault>(fault.clone()).ok())
        {
            eprintln!("  {fault}");
        }
    }
    Ok(if status.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
