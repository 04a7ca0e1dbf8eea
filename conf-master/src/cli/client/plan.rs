//! `conf-master plan`: the effect of a change on a datacenter.

use std::{collections::BTreeMap, fmt::Write as _, process::ExitCode};

use conf_core::terminal::print;
use libconf::name::DatacenterName;

use crate::cli::client::connect::ClientFlags;
use crate::cli::client::print::print_json;
use crate::cli::supposed::SupposedRef;
use crate::judge::ChangePlan;

/// Flags of `plan`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct PlanFlags {
    /// The datacenter
    #[arg(value_name = "ID/VERSION")]
    datacenter: DatacenterName,
    /// Suppose that REF is at COMMIT: a full id, or a branch or tag on the server; repeat for more
    /// refs
    #[arg(long = "ref", value_name = "REF=COMMIT", required = true)]
    refs: Vec<SupposedRef>,
    /// How to reach conf-master, and how to print its answer
    #[command(flatten)]
    client: ClientFlags,
}

const EXAMPLE: &str = "\
What would merging a branch that is pushed do?
  conf-master plan us-west/v1 --ref services/web/master=services/web/feature
For what is not pushed yet: git push -o dry-run

Exit codes: 0 it could land, 1 refused or not reached, 2 wrong usage.";

/// Asks, and prints the answer.
pub(crate) async fn run(flags: &PlanFlags) -> anyhow::Result<ExitCode> {
    let refs: BTreeMap<String, &String> = flags.refs.iter().map(|one| (one.name.to_string(), &one.commit)).collect();
    let path = format!("api/v1/datacenters/{}/plan", flags.datacenter);
    let plan: ChangePlan = flags.client.connect()?.post_json(&path, &serde_json::json!({"refs": refs})).await?;
    if flags.client.json {
        print_json(&plan)?;
    } else {
        let mut text = String::new();
        for one in &plan.refused {
            one.refusal.to_string().lines().for_each(|line| {
                let _ = writeln!(text, "refused {}: {line}", one.name);
            });
        }
        print(text + &plan.to_string())?;
    }
    Ok(ExitCode::from(u8::from(!plan.refused.is_empty())))
}
