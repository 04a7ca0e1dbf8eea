//! `conf-master policy`: holds a policy against what landed, and says what somebody may do.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use conf_core::terminal::{Table, note, print};
use libconf::name::{DatacenterName, PrincipalName};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde_json::json;

use crate::cli::client::connect::{ClientFlags, call};
use crate::cli::client::print::{print_faults, print_json, reason};
use crate::inspect::{PolicyExplanation, PolicyTrial};
use crate::text::count;

/// How long to wait for an answer.
const ANSWER: Duration = Duration::from_secs(60);

/// Flags of `policy`.
#[derive(Debug, clap::Args)]
pub(crate) struct PolicyFlags {
    /// What to do
    #[command(subcommand)]
    act: PolicyCommand,
}

/// A question about a policy.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum PolicyCommand {
    /// Hold a policy against the last 100 changes: whom it would have refused
    #[command(after_help = LIMITS)]
    Test {
        /// The policy.yaml
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// How to reach conf-master, and how to print its answer
        #[command(flatten)]
        client: ClientFlags,
    },
    /// Show what somebody may do to a branch or a tag, and which groups may do the rest
    Explain {
        /// Who
        #[arg(long = "as", value_name = "NAME")]
        name: PrincipalName,
        /// The branch, or refs/tags/… for a tag
        #[arg(value_name = "REF")]
        reference: String,
        /// Suppose that a change of it affects this datacenter; without it, those that run it now
        #[arg(long, value_name = "ID/VERSION")]
        datacenter: Option<DatacenterName>,
        /// How to reach conf-master, and how to print its answer
        #[command(flatten)]
        client: ClientFlags,
    },
}

const LIMITS: &str = "\
It knows of each change who made it, which refs it moved, and which datacenters it affected. It
cannot know whether a change took away more than the shrink guard allows, broke compatibility, or
changed keys that need a right of their own; nor what was refused when it was pushed.

Exit codes: 0 nothing would have been refused, 1 something would, or not reached, 2 wrong usage.";

/// Asks, and prints the answer.
pub(crate) async fn run(flags: &PolicyFlags) -> anyhow::Result<ExitCode> {
    match &flags.act {
        PolicyCommand::Test { file, client } => {
            let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            test(&text, client).await
        }
        PolicyCommand::Explain { name, reference, datacenter, client } => {
            let mut path = format!("api/v1/policy?as={name}&ref={}", utf8_percent_encode(reference, NON_ALPHANUMERIC));
            if let Some(datacenter) = datacenter {
                let _ = write!(path, "&datacenter={datacenter}");
            }
            let explanation: PolicyExplanation = client.connect()?.get_json(&path).await?;
            explain(&explanation, name, client)
        }
    }
}

async fn test(text: &str, client: &ClientFlags) -> anyhow::Result<ExitCode> {
    let body = json!({"policy": text});
    let servers = client.connect()?;
    let (status, answer) = call(&servers, Method::POST, "api/v1/policy/test", &[], Some(&body), ANSWER).await?;
    if !status.is_success() {
        print_faults(&answer);
        bail!("the policy was not tested: {}", reason(&answer));
    }
    let trial: PolicyTrial = serde_json::from_value(answer).context("the answer has another shape")?;
    if client.json {
        print_json(&trial)?;
    } else {
        let mut table = Table::with_header(["SEQUENCE", "WHEN", "WHO", "WHAT WOULD HAVE BEEN REFUSED"]);
        for one in &trial.refused {
            table.add_row([&format!("#{}", one.sequence), &one.when, &one.by, &one.reasons.join("\n")]);
        }
        if !trial.refused.is_empty() {
            print(table)?;
        }
        note(format_args!("{} of {} would have been refused", trial.refused.len(), count(trial.changes, "change")));
        if trial.unproven > 0 {
            note(format_args!("{} have no author whose name was proven, and were passed over", trial.unproven));
        }
    }
    Ok(ExitCode::from(u8::from(!trial.refused.is_empty())))
}

fn explain(explanation: &PolicyExplanation, name: &PrincipalName, client: &ClientFlags) -> anyhow::Result<ExitCode> {
    if client.json {
        return print_json(explanation);
    }
    let PolicyExplanation { policy, open, groups, datacenters, rights } = explanation;
    let list = |names: Vec<String>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let groups = list(groups.iter().map(ToString::to_string).collect());
    let datacenters = list(datacenters.iter().map(ToString::to_string).collect());
    let policy = policy.map_or_else(|| "none yet".to_owned(), |policy| policy.short());
    print(format!("policy {policy}; groups of {name}: {groups}; affected datacenters: {datacenters}"))?;
    let mut table = Table::with_header(["RIGHT", "MAY", "WHY NOT"]);
    for right in rights {
        let may = if right.lacks.is_none() { "yes" } else { "no" };
        table.add_row([&right.verb.to_string(), may, right.lacks.as_deref().unwrap_or_default()]);
    }
    print(table)?;
    if *open {
        note("this server is open: it asks nobody for a right");
    }
    Ok(ExitCode::SUCCESS)
}
