//! `conf-master log`: a datacenter's deployments, or what was refused, newest first.

use std::process::ExitCode;

use comfy_table::{Table, presets::NOTHING};
use libconf::name::DatacenterName;

use crate::cli::client::ServerFlags;
use crate::{
    inspect::deployments::{Deployment, SecretEvent},
    landing::audit::{Record, RefusedRef},
};

/// Flags of `log`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Which datacenter
    #[arg(value_name = "ID/VERSION", required_unless_present = "refused")]
    pub datacenter: Option<DatacenterName>,
    /// Show what was refused, for whichever datacenter or for the one named
    #[arg(long)]
    pub refused: bool,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub limit: usize,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// How to reach conf-master
    #[command(flatten)]
    pub server: ServerFlags,
}

/// `conf-master log`
pub async fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    let path = match &flags.datacenter {
        Some(datacenter) if !flags.refused => format!("api/v1/datacenters/{datacenter}/log?limit={}", flags.limit),
        _ => return refused(flags).await,
    };
    let deployments: Vec<Deployment> = flags.server.connect()?.get_json(&path).await?;
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&deployments)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["SEQUENCE", "WHEN", "WHO", "WHAT CHANGED"]);
    for one in &deployments {
        table.add_row([format!("#{}", one.sequence), one.when.clone(), one.by.clone(), what_changed(one)]);
    }
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}

/// How many components of one deployment the table names; `--json` has them all.
const MOST_NAMED: usize = 10;

fn what_changed(deployment: &Deployment) -> String {
    let parts = [("datacenter.yaml", deployment.datacenter), ("its class", deployment.class)];
    let mut lines: Vec<String> =
        parts.iter().filter(|(_, changed)| *changed).map(|(name, _)| (*name).to_owned()).collect();
    let short = |commit: &libconf::name::CommitId| commit.short();
    lines.extend(deployment.secrets.iter().take(MOST_NAMED).map(|one| {
        let what = match one.change {
            SecretEvent::NewValue => "has a new value",
            SecretEvent::OtherHosts => "is sealed to other hosts",
            SecretEvent::Removed => "is removed",
        };
        format!("the secret {} {what}", one.name)
    }));
    for one in deployment.components.iter().take(MOST_NAMED) {
        lines.push(match (one.before.as_ref().map(short), one.after.as_ref().map(short)) {
            (Some(before), Some(after)) => format!("{} {before} → {after}", one.component),
            (None, Some(after)) => format!("{} added at {after}", one.component),
            _ => format!("{} removed", one.component),
        });
    }
    if let more @ 1.. = deployment.components.len().saturating_sub(MOST_NAMED) {
        lines.push(format!("and {more} more"));
    }
    let breaking = deployment.breaking.iter().take(MOST_NAMED);
    lines.extend(breaking.map(|one| format!("{} breaks compatibility: {}", one.name, one.reason)));
    lines.join("\n")
}

async fn refused(flags: &Flags) -> anyhow::Result<ExitCode> {
    let datacenter = flags.datacenter.iter().map(|datacenter| format!("&datacenter={datacenter}"));
    let path = format!("api/v1/refused?limit={}{}", flags.limit, datacenter.collect::<String>());
    let records: Vec<Record> = flags.server.connect()?.get_json(&path).await?;
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&records)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["WHEN", "WHO", "REQUEST", "WHAT WAS REFUSED"]);
    for one in &records {
        let who = one.by.as_ref().unwrap_or(&one.through);
        table.add_row([&one.when, who, &one.request, &what_was_refused(one)]);
    }
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}

fn what_was_refused(record: &Record) -> String {
    let line = |one: &RefusedRef| format!("{}: {}", one.name, one.refusal.reason);
    let mut lines: Vec<String> = record.refused.iter().take(MOST_NAMED).map(line).collect();
    if let more @ 1.. = record.refused.len().saturating_sub(MOST_NAMED) + record.more {
        lines.push(format!("and {more} more"));
    }
    lines.join("\n")
}
