//! `conf-master log`: a datacenter's deployments or the refused requests, newest first.

use std::process::ExitCode;

use conf_core::access::TokenId;
use conf_core::terminal::{Table, print};
use libconf::name::{CommitId, DatacenterName};

use crate::cli::client::connect::ClientFlags;
use crate::cli::client::print::print_json;
use crate::inspect::{Deployment, SecretEvent};
use crate::landing::{Record, RefusedRef};

/// Flags of `log`.
#[derive(Debug, clap::Args)]
pub(crate) struct LogFlags {
    /// The datacenter
    #[arg(value_name = "ID/VERSION", required_unless_present = "refused")]
    datacenter: Option<DatacenterName>,
    /// Show the refused requests, of every datacenter or of the one that is named
    #[arg(long)]
    refused: bool,
    /// The most entries to show
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// How to reach conf-master, and how to print its answer
    #[command(flatten)]
    client: ClientFlags,
}

/// Asks, and prints the answer.
pub(crate) async fn run(flags: &LogFlags) -> anyhow::Result<ExitCode> {
    let path = match &flags.datacenter {
        Some(datacenter) if !flags.refused => format!("api/v1/datacenters/{datacenter}/log?limit={}", flags.limit),
        _ => return refused(flags).await,
    };
    let deployments: Vec<Deployment> = flags.client.connect()?.get_json(&path).await?;
    if flags.client.json {
        return print_json(&deployments);
    }
    let mut table = Table::with_header(["SEQUENCE", "WHEN", "WHO", "WHAT CHANGED"]);
    for one in &deployments {
        table.add_row([
            format!("#{}", one.sequence),
            one.when.clone(),
            who(&one.by, one.proven, one.token.as_ref(), one.through.as_deref(), one.policy.as_ref()),
            what_changed(one),
        ]);
    }
    print(table)?;
    Ok(ExitCode::SUCCESS)
}

/// Names somebody, a line each: the name, how it was proven, from where, and under which policy.
fn who(
    by: &str,
    proven: Option<bool>,
    token: Option<&TokenId>,
    through: Option<&str>,
    policy: Option<&CommitId>,
) -> String {
    let unproven = (proven == Some(false)).then(|| format!("{by} (not proven)"));
    let mut lines = vec![unproven.unwrap_or_else(|| by.to_owned())];
    lines.extend(token.map(|token| format!("token {token}")));
    lines.extend(through.filter(|through| *through != by).map(str::to_owned));
    lines.extend(policy.map(|policy| format!("policy {}", policy.short())));
    lines.join("\n")
}

/// The most components of one deployment that the table names; `--json` has them all.
const MOST_NAMED: usize = 10;

fn what_changed(deployment: &Deployment) -> String {
    let parts = [("datacenter.yaml", deployment.datacenter), ("its class", deployment.class)];
    let mut lines: Vec<String> =
        parts.iter().filter(|(_, changed)| *changed).map(|(name, _)| (*name).to_owned()).collect();
    lines.extend(deployment.secrets.iter().take(MOST_NAMED).map(|one| {
        let what = match one.change {
            SecretEvent::NewValue => "has a new value",
            SecretEvent::OtherHosts => "is sealed to other hosts",
            SecretEvent::Removed => "is removed",
        };
        format!("the secret {} {what}", one.name)
    }));
    for one in deployment.components.iter().take(MOST_NAMED) {
        lines.push(match (one.before.as_ref().map(CommitId::short), one.after.as_ref().map(CommitId::short)) {
            (Some(before), Some(after)) => format!("{} {before} → {after}", one.component),
            (None, Some(after)) => format!("{} added at {after}", one.component),
            _ => format!("{} removed", one.component),
        });
    }
    if let more @ 1.. = deployment.components.len().saturating_sub(MOST_NAMED) {
        lines.push(format!("and {more} more"));
    }
    lines.extend(
        deployment
            .pushed
            .iter()
            .take(MOST_NAMED)
            .map(|one| format!("{} {} {} ({})", one.name, one.commit.short(), one.subject, one.author)),
    );
    if let more @ 1.. = deployment.pushed.len().saturating_sub(MOST_NAMED) + deployment.more_pushed {
        lines.push(format!("and {more} more commits"));
    }
    let breaking = deployment.breaking.iter().take(MOST_NAMED);
    lines.extend(breaking.map(|one| format!("{} breaks compatibility: {}", one.name, one.reason)));
    lines.join("\n")
}

async fn refused(flags: &LogFlags) -> anyhow::Result<ExitCode> {
    let datacenter = flags.datacenter.iter().map(|datacenter| format!("&datacenter={datacenter}"));
    let path = format!("api/v1/refused?limit={}{}", flags.limit, datacenter.collect::<String>());
    let records: Vec<Record> = flags.client.connect()?.get_json(&path).await?;
    if flags.client.json {
        return print_json(&records);
    }
    let mut table = Table::with_header(["WHEN", "WHO", "REQUEST", "WHAT WAS REFUSED"]);
    for one in &records {
        let by = one.by.as_ref().unwrap_or(&one.through);
        let who = who(by, None, one.token.as_ref(), Some(&one.through), one.policy.as_ref());
        table.add_row([&one.when, &who, &one.request, &what_was_refused(one)]);
    }
    print(table)?;
    Ok(ExitCode::SUCCESS)
}

fn what_was_refused(record: &Record) -> String {
    let line = |one: &RefusedRef| format!("{}: {}", one.name, one.refusal.reason);
    let mut lines: Vec<String> = record.refused.iter().take(MOST_NAMED).map(line).collect();
    if let more @ 1.. = record.refused.len().saturating_sub(MOST_NAMED) + record.more {
        lines.push(format!("and {more} more"));
    }
    if let Some(again) = record.again {
        let last = record.last.as_deref().unwrap_or("later");
        lines.push(format!("and {again} or more like it, until {last}"));
    }
    lines.join("\n")
}
