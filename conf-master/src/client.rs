//! Client commands: what people ask a running conf-master.

use comfy_table::{Table, presets::NOTHING};
use libconf::tier::upstream::{Credentials, Upstreams};

use crate::{
    config::{Log, ServerFlags},
    deployments::Deployment,
};

fn connect(flags: &ServerFlags) -> anyhow::Result<Upstreams> {
    let credentials = Credentials::from_file(flags.token_file.clone());
    Ok(Upstreams::new(vec![flags.server.clone()], &credentials)?)
}

/// `conf-master log`
pub async fn log(flags: &Log) -> anyhow::Result<()> {
    let path = format!("api/v1/datacenters/{}/log?limit={}", flags.datacenter, flags.limit);
    let deployments: Vec<Deployment> = connect(&flags.server)?.get_json(&path).await?;
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&deployments)?);
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["SEQUENCE", "WHEN", "WHO", "WHAT CHANGED"]);
    for one in &deployments {
        table.add_row([format!("#{}", one.sequence), one.when.clone(), one.by.clone(), what_changed(one)]);
    }
    println!("{table}");
    Ok(())
}

/// How many components of one deployment the table names; `--json` has them all.
const MOST_NAMED: usize = 10;

fn what_changed(deployment: &Deployment) -> String {
    let parts = [("datacenter.yaml", deployment.datacenter), ("its class", deployment.class)];
    let mut lines: Vec<String> =
        parts.iter().filter(|(_, changed)| *changed).map(|(name, _)| (*name).to_owned()).collect();
    let short = |commit: &libconf::name::CommitId| commit.short();
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
    lines.join("\n")
}
