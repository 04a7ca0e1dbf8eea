//! `conf-master token`: shows who has a token; makes one, replaces one, ends one.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use conf_core::access::{Scope, TokenId};
use conf_core::terminal::{Table, note, print};
use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};
use libconf::name::{DatacenterName, GroupName, PrincipalName};
use reqwest::Method;
use serde_json::{Value, json};

use crate::access::NewToken;
use crate::cli::client::connect::{ClientFlags, call};
use crate::cli::client::print::{print_faults, print_json, reason};
use crate::hooks::local;
use crate::tokens::{TokenAnswer, TokenCall};

/// How long to wait for an answer.
const ANSWER: Duration = Duration::from_secs(60);

/// Flags of `token`.
#[derive(Debug, clap::Args)]
pub(crate) struct TokenFlags {
    /// What to do
    #[command(subcommand)]
    act: TokenCommand,
}

/// An action on tokens.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token, and print it this once: the server keeps its hash alone
    Add {
        /// Whom it proves
        #[arg(value_name = "NAME")]
        name: PrincipalName,
        /// A group that it gives, besides those of the policy; may be repeated. `administrators`
        /// may do everything
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<GroupName>,
        /// It is for a conf-slave, which reads and reports for the datacenters of this pattern
        #[arg(long, value_name = "ID/VERSION", conflicts_with = "groups")]
        slave: Option<String>,
        /// It is for one host, which reads its datacenter and reports as itself
        #[arg(long, value_name = "ID/VERSION/HOST", value_parser = host, conflicts_with_all = ["groups", "slave"])]
        host: Option<Scope>,
        /// It is for all hosts of a datacenter: each joins by it once, and is known by its own key
        /// from then on
        #[arg(long, value_name = "ID/VERSION", conflicts_with_all = ["groups", "slave", "host"])]
        join: Option<DatacenterName>,
        /// How many hosts may join by it
        #[arg(long, value_name = "NUMBER", requires = "join", value_parser = clap::value_parser!(u32).range(1..))]
        hosts: Option<u32>,
        /// When it ends by itself: a time from now, such as 90d or 12h, or a date; without it, when
        /// it is revoked
        #[arg(long, value_name = "WHEN", value_parser = lives)]
        expires: Option<u32>,
        /// Write the token to this new file, which its owner alone reads, and print nothing
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// How to reach conf-master
        #[command(flatten)]
        way: Way,
    },
    /// Show all tokens: whose they are, until when they are good, when they were used; never the
    /// tokens themselves
    List {
        /// How to reach conf-master
        #[command(flatten)]
        way: Way,
    },
    /// End a token: what goes on with it ends within a second
    Revoke {
        /// The token, as `list` names it
        #[arg(value_name = "TOKEN")]
        id: TokenId,
        /// Also end the keys of all hosts that joined by it: a host comes back by another join
        /// token and with another key alone
        #[arg(long)]
        joined: bool,
        /// How to reach conf-master
        #[command(flatten)]
        way: Way,
    },
    /// Make a token good again that was suspended when the server was restored
    Resume {
        /// The token, as `list` names it
        #[arg(value_name = "TOKEN")]
        id: TokenId,
        /// How to reach conf-master
        #[command(flatten)]
        way: Way,
    },
    /// Make a token in place of one, for the same name, groups and length of time
    Rotate {
        /// The token, as `list` names it
        #[arg(value_name = "TOKEN")]
        id: TokenId,
        /// How long the old token stays good, so that its owner has time to take the new one
        #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = lives)]
        overlap: u32,
        /// Write the token to this new file, which its owner alone reads, and print nothing
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// How to reach conf-master
        #[command(flatten)]
        way: Way,
    },
}

/// How conf-master is reached about tokens.
#[derive(Debug, clap::Args)]
pub(crate) struct Way {
    /// On the server's own machine, as root or as its user: the repository that it serves. No token
    /// is needed
    #[arg(long, value_name = "DIR", hide_env = true)]
    repo: Option<PathBuf>,
    /// How to reach it over the network, and how to print its answer
    #[command(flatten)]
    client: ClientFlags,
}

/// Does what the flags say.
pub(crate) async fn run(flags: &TokenFlags) -> anyhow::Result<ExitCode> {
    match &flags.act {
        TokenCommand::List { way } => list(way).await,
        TokenCommand::Revoke { id, joined: false, way } => made(way, TokenCall::Revoke(id.clone()), None).await,
        TokenCommand::Revoke { id, joined: true, way } => made(way, TokenCall::RevokeJoined(id.clone()), None).await,
        TokenCommand::Resume { id, way } => made(way, TokenCall::Resume(id.clone()), None).await,
        TokenCommand::Rotate { id, overlap, out, way } => {
            made(way, TokenCall::Rotate(id.clone(), *overlap), out.as_deref()).await
        }
        TokenCommand::Add { name, groups, slave, host, join, hosts, expires, out, way } => {
            let scope = slave.clone().map(Scope::Slave).or_else(|| host.clone());
            let scope = scope.or_else(|| join.clone().map(Scope::Join)).unwrap_or_default();
            let groups = groups.iter().cloned().collect();
            let new = NewToken { name: name.clone(), groups, scope, lives: *expires, hosts: *hosts };
            made(way, TokenCall::Add(new), out.as_deref()).await
        }
    }
}

async fn list(way: &Way) -> anyhow::Result<ExitCode> {
    let answer = way.ask(TokenCall::List).await?;
    let Ok(TokenAnswer { tokens: Some(tokens), .. }) = answer else { return way.refused(&answer) };
    if way.client.json {
        return print_json(&tokens);
    }
    let mut table = Table::with_header(["TOKEN", "NAME", "GROUPS", "FOR", "MADE BY", "GOOD UNTIL", "LAST USED"]);
    for one in &tokens {
        let groups: Vec<String> = one.groups.iter().map(ToString::to_string).collect();
        let until = match (&one.revoked, &one.expires) {
            (Some(at), _) => format!("revoked {at}"),
            (None, Some(at)) if !one.good && one.suspended.is_none() => format!("expired {at}"),
            _ if !one.good => one.suspended.as_ref().map_or_else(String::new, |at| format!("suspended {at}")),
            (None, Some(at)) => at.clone(),
            (None, None) => "it is revoked".to_owned(),
        };
        let from = one.used_from.as_ref().map(|from| format!(" by {from}")).unwrap_or_default();
        let used = one.used.as_ref().map_or_else(|| "never".to_owned(), |at| format!("{at}{from}"));
        let by_key = if one.key { ", by its key" } else { "" };
        table.add_row([
            one.id.to_string(),
            one.name.to_string(),
            groups.join(", "),
            format!("{}{by_key}", one.scope),
            one.by.clone(),
            until,
            used,
        ]);
    }
    print(table)?;
    Ok(ExitCode::SUCCESS)
}

/// Asks for a change, and hands over the token that it made.
async fn made(way: &Way, call: TokenCall, out: Option<&Path>) -> anyhow::Result<ExitCode> {
    // A token that cannot be written would be lost, and good all the same.
    let file = out.map(|out| {
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(out);
        opened.with_context(|| format!("cannot make the file {}", out.display()))
    });
    let file = file.transpose()?;
    let answer = way.ask(call).await;
    let Ok(Ok(done)) = &answer else {
        if let Some(out) = out {
            let _ = std::fs::remove_file(out);
        }
        return way.refused(&answer?);
    };
    match (&done.token, file) {
        (Some(token), Some(mut file)) => {
            let written = writeln!(file, "{token}").and_then(|()| file.sync_all());
            written.context("the token was made, and cannot be written: revoke it")?;
        }
        (Some(_), None) | (None, _) if way.client.json => drop(print_json(done)?),
        (Some(token), None) => print(token)?,
        (None, _) => {}
    }
    for line in &done.notes {
        note(format_args!("conf-master: {line}"));
    }
    Ok(ExitCode::SUCCESS)
}

impl Way {
    /// Asks, and returns the answer or the words of a refusal as JSON.
    async fn ask(&self, about: TokenCall) -> anyhow::Result<Result<TokenAnswer, Value>> {
        if let Some(repo) = &self.repo {
            return Ok(local::tokens(repo, about)?.map_err(|words| json!({ "error": words })));
        }
        let (method, path, body) = match about {
            TokenCall::List => (Method::GET, "api/v1/tokens".to_owned(), None),
            TokenCall::Add(new) => (Method::POST, "api/v1/tokens".to_owned(), Some(serde_json::to_value(new)?)),
            TokenCall::Revoke(id) => (Method::DELETE, format!("api/v1/tokens/{id}"), None),
            TokenCall::RevokeJoined(id) => (Method::DELETE, format!("api/v1/tokens/{id}?joined=true"), None),
            TokenCall::Resume(id) => (Method::POST, format!("api/v1/tokens/{id}/resume"), None),
            TokenCall::Rotate(id, overlap) => {
                (Method::POST, format!("api/v1/tokens/{id}/rotate"), Some(json!({ "overlap": overlap })))
            }
        };
        let (status, answer) = call(&self.client.connect()?, method, &path, &[], body.as_ref(), ANSWER).await?;
        if !status.is_success() {
            return Ok(Err(answer));
        }
        Ok(Ok(serde_json::from_value(answer).context("conf-master's answer is not as expected")?))
    }

    fn refused(&self, answer: &Result<TokenAnswer, Value>) -> anyhow::Result<ExitCode> {
        let Err(answer) = answer else { bail!("conf-master's answer is not as expected") };
        if self.client.json {
            print_json(answer)?;
        } else {
            note(format_args!("conf-master: {}", reason(answer)));
            print_faults(answer);
        }
        Ok(ExitCode::FAILURE)
    }
}

/// Parses `ID/VERSION/HOST`.
fn host(text: &str) -> Result<Scope, String> {
    let (datacenter, host) = text.rsplit_once('/').ok_or("write it as ID/VERSION/HOST")?;
    let datacenter = datacenter.parse().map_err(|bad| format!("{bad}"))?;
    Ok(Scope::Host { datacenter, host: host.parse().map_err(|bad| format!("{bad}"))? })
}

/// Parses a time from now, such as `90d`, or a date, as seconds from now.
fn lives(text: &str) -> Result<u32, String> {
    const DAY: i64 = 24 * 3600;
    let bad = || "write it as 90d, 12h, 30min or 2030-01-31".to_owned();
    let days = text.strip_suffix('d').and_then(|days| days.parse::<i64>().ok()).map(|days| days.saturating_mul(DAY));
    let seconds = match (days, text.parse::<SignedDuration>(), text.parse::<Date>()) {
        (Some(seconds), _, _) => seconds,
        (None, Ok(duration), _) => duration.as_secs(),
        (None, Err(_), Ok(date)) => {
            let end = date.to_zoned(TimeZone::UTC).map_err(|_| bad())?.timestamp();
            end.as_second() - Timestamp::now().as_second()
        }
        (None, Err(_), Err(_)) => return Err(bad()),
    };
    if seconds < 0 || (seconds == 0 && text.contains('-')) {
        return Err("that time is over already".to_owned());
    }
    u32::try_from(seconds).map_err(|_| "that is more than a hundred years".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_people_do() {
        for (text, seconds) in
            [("90d", 90 * 24 * 3600), ("12h", 12 * 3600), ("30min", 1800), ("0s", 0), ("1h 5m", 3900)]
        {
            assert_eq!(lives(text), Ok(seconds), "{text}");
        }
        assert!(lives("2090-01-31").unwrap() > 1_000_000_000);
        for bad in ["", "soon", "-1h", "1999-01-31", "90", "d"] {
            assert!(lives(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_host_is_named_with_its_datacenter() {
        assert_eq!(host("lab/1/web-1").unwrap().to_string(), "host lab/1/web-1");
        for bad in ["web-1", "lab/web-1", "lab/1/", "lab/1/a b"] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }
}
