//! `conf-master update`: replaces a section's configuration, from a shell.

use std::fmt::Write as _;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use conf_core::{
    daemon::chain,
    terminal::{note, print},
    upstream::UpstreamError,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::cli::client::connect::{ClientFlags, call};
use crate::cli::client::print::{print_faults, print_json, words};
use crate::cli::client::show;
use crate::delivery::Delivery;
use crate::judge::ChangePlan;
use crate::landing::SectionName;

/// How long to wait for an answer, beyond the time for delivery.
const ANSWER: Duration = Duration::from_secs(90);
/// How often a request without an answer is sent. It has a key, so that it lands once at most.
const TRIES: u32 = 3;

/// Flags of `update`.
#[derive(Debug, clap::Args)]
pub(crate) struct UpdateFlags {
    /// The section to replace: KIND/NAME or KIND/NAME@BRANCH, datacenters/ID/VERSION,
    /// datacenter-configuration/CLASS, or a layer of one of the last two, as in
    /// datacenters/us-west/v1:services/web
    #[arg(value_name = "SECTION")]
    section: SectionName,
    /// A file with the new content, JSON or HOCON; - reads standard input
    #[arg(long, value_name = "F")]
    file: PathBuf,
    /// The version that the change was made from, -1 for a new section; without it the newest
    /// version is replaced
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    version: Option<i64>,
    /// The version of the component's schema that the content is written for
    #[arg(long, value_name = "N", default_value_t = 1)]
    schema_version: i64,
    /// The idempotency key: a request that is sent again with the same key lands once; without it a
    /// random key is made
    #[arg(long, value_name = "K")]
    idempotency_key: Option<String>,
    /// Wait until every host runs the change, at most this many seconds; exit code 1 when some
    /// hosts do not
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "30")]
    wait: Option<u64>,
    /// Allow a change that removes more than the shrink guard allows
    #[arg(long)]
    allow_shrink: bool,
    /// Allow a change that breaks the promise of the class about compatible settings, for this
    /// reason
    #[arg(long, value_name = "REASON")]
    breaking: Option<String>,
    /// A dry run: nothing lands
    #[arg(long)]
    dry_run: bool,
    /// How to reach conf-master, and how to print its answer
    #[command(flatten)]
    client: ClientFlags,
}

/// Sends the update, and prints the answer.
pub(crate) async fn run(flags: &UpdateFlags) -> anyhow::Result<ExitCode> {
    let text = read(flags)?;
    let version = match flags.version {
        Some(version) => version,
        None => newest(flags).await?,
    };
    let mut body = json!({
        "request": {
            "section": flags.section,
            "config": text,
            "schemaVersion": flags.schema_version,
            "version": version,
        },
        "allowShrink": flags.allow_shrink,
        "dryRun": flags.dry_run,
    });
    if let Some(reason) = &flags.breaking {
        body["breaking"] = json!(reason);
    }
    let (status, answer) = send(flags, &body).await?;
    if flags.client.json {
        print_json(&answer)?;
    } else {
        tell(flags, status, &answer)?;
    }
    let late = answer["delivery"]["complete"] == false;
    Ok(if status.is_success() && !late { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read(flags: &UpdateFlags) -> anyhow::Result<String> {
    if flags.file.as_os_str() == "-" {
        let mut text = String::new();
        io::stdin().lock().read_to_string(&mut text).context("cannot read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(&flags.file).with_context(|| format!("cannot read {}", flags.file.display()))
}

async fn newest(flags: &UpdateFlags) -> anyhow::Result<i64> {
    let (_, answer) = show::ask(&flags.client, &flags.section, "").await?;
    answer["version"].as_i64().with_context(|| format!("{} cannot be read: {}", flags.section, answer["error"]))
}

/// Sends the request until somebody answers.
async fn send(flags: &UpdateFlags, body: &Value) -> anyhow::Result<(StatusCode, Value)> {
    let key = flags.idempotency_key.clone().unwrap_or_else(|| format!("{:032x}", rand::random::<u128>()));
    let (query, wait) = match flags.wait {
        Some(seconds) => (format!("?wait=delivered&timeout={seconds}"), ANSWER + Duration::from_secs(seconds)),
        None => (String::new(), ANSWER),
    };
    let path = format!("api/v1/config/update{query}");
    let servers = flags.client.connect()?;
    let mut tries = 0;
    loop {
        let headers = [("idempotency-key", key.as_str())];
        tries += 1;
        match call(&servers, Method::POST, &path, &headers, Some(body), wait).await {
            Err(UpstreamError::Unreachable { cause, .. }) if tries < TRIES && !cause.is_connect() => {
                note(format_args!(
                    "no answer ({}); sent again with the same key, so that it lands once",
                    chain(&cause)
                ));
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            answer => return Ok(answer?),
        }
    }
}

fn tell(flags: &UpdateFlags, status: StatusCode, answer: &Value) -> io::Result<()> {
    if !status.is_success() {
        note(format_args!("conf-master: {}", words(&answer["error"])));
        print_faults(answer);
        return Ok(());
    }
    let mut text = String::new();
    if answer["dryRun"] == true {
        let _ = writeln!(text, "{}: it would land; nothing did", flags.section);
    } else {
        let _ = writeln!(text, "{}: version {}, #{}", flags.section, answer["version"], answer["sequence"]);
    }
    for note in answer["notes"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "  {}", words(note));
    }
    if let Ok(plan) = serde_json::from_value::<ChangePlan>(answer["plan"].clone()) {
        text.push_str(&plan.to_string());
    }
    if let Ok(delivery) = serde_json::from_value::<Delivery>(answer["delivery"].clone()) {
        for line in delivery.to_string().lines() {
            let _ = writeln!(text, "  {line}");
        }
    }
    print(text)
}
