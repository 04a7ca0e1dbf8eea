//! `conf-local status`, `history` and `verify`: tables for people, JSON for programs.

use std::{process::ExitCode, time::Duration};

use conf_core::{freshness::FreshnessState, terminal::Table};
use serde::Serialize;
use serde_json::Value;

use crate::{
    cli::{
        options::{OutputOptions, VerifyOptions},
        output::{print, print_json},
        socket::VERIFY_WITHIN,
    },
    service::StatusAnswer,
    state::{HistoryEntry, VerifyReport},
};

pub(crate) async fn status(options: &OutputOptions) -> anyhow::Result<()> {
    if options.json {
        return print_json(&options.socket.get::<Value>("/v1/status", Duration::ZERO).await?);
    }
    let answer: StatusAnswer = options.socket.get("/v1/status", Duration::ZERO).await?;
    print(&status_text(&answer))
}

pub(crate) async fn history(options: &OutputOptions) -> anyhow::Result<()> {
    let history: Vec<HistoryEntry> = options.socket.get("/v1/history", Duration::ZERO).await?;
    options.print(&history, || history_text(&history))
}

pub(crate) async fn verify(options: &VerifyOptions) -> anyhow::Result<ExitCode> {
    let path = format!("/v1/verify?repair={}", options.repair);
    let report: VerifyReport = options.output.socket.post(&path, &(), VERIFY_WITHIN).await?;
    options.output.print(&report, || verify_text(&report, options.repair))?;
    Ok(if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn status_text(answer: &StatusAnswer) -> String {
    let StatusAnswer { status, watchers, processes, problems } = answer;
    let mut text = facts(answer).to_string();
    let watchers = watchers.iter().map(|watcher| {
        let components: Vec<String> = watcher.components.iter().map(ToString::to_string).collect();
        let (target, change) = (watcher.target.clone(), watcher.sequence.to_string());
        [target, components.join(" "), word(&watcher.state), change, ago(&watcher.when)]
    });
    section(&mut text, ["WATCHER", "COMPONENTS", "STATE", "CHANGE", "SINCE"], watchers);
    let processes = processes.iter().map(|process| {
        let how = if process.errors.is_empty() { "" } else { "keeps older values" };
        let (pid, sequence) = (process.pid.to_string(), format!("change {}", process.sequence));
        [pid, process.program.clone(), sequence, ago(&process.when), how.to_owned()]
    });
    section(&mut text, ["PROCESS", "PROGRAM", "RUNS ON", "SAID", ""], processes);
    let places = status.placements.iter().map(|one| {
        let how = if one.error.is_some() { "failed" } else { "" };
        let (component, path) = (one.component.to_string(), one.path.display().to_string());
        [component, path, word(&one.mode), one.files.to_string(), how.to_owned()]
    });
    section(&mut text, ["PLACED", "AT", "BY", "FILES", ""], places);
    let checks =
        status.checks.iter().map(|one| ("check", one.component.to_string(), &one.command, one.passed, &one.when));
    let probes =
        status.probes.iter().map(|one| ("probe", one.component.to_string(), &one.target, one.passed, &one.when));
    let results = checks.chain(probes).map(|(what, component, by, passed, when)| {
        let passed = if passed { "passed" } else { "failed" };
        [what.to_owned(), component, by.clone(), passed.to_owned(), ago(when)]
    });
    section(&mut text, ["LOOKED AT", "COMPONENT", "BY", "", "SINCE"], results);
    if problems.is_empty() {
        format!("{text}\n\nno problems")
    } else {
        format!("{text}\n\nproblems:\n- {}", problems.join("\n- "))
    }
}

fn facts(answer: &StatusAnswer) -> Table {
    let status = &answer.status;
    let exported = match (&status.commit, &status.since) {
        (Some(commit), since) => {
            let since = since.as_deref().map_or_else(String::new, |since| format!(", {}", ago(since)));
            format!("change {} ({}){since}", status.sequence, commit.short())
        }
        (None, _) => "nothing yet".to_owned(),
    };
    let observes = if status.observe { " (observes: tells no process, places nothing)" } else { "" };
    let pointer = status.pointer.map(|pointer| format!("{}/{}", pointer.sequence, pointer.commit.short()));
    let chosen = status.listed || status.shut_out.is_some();
    let everything = if chosen { "" } else { " (all of the datacenter: its inventory gives this host no choice)" };
    let mut facts = Table::new();
    for fact in [
        ["datacenter", &status.datacenter.to_string()],
        ["host", status.host.as_str()],
        ["exported", &exported],
        ["central", &format!("the newest up to change {}", status.central)],
        ["freshness", &freshness(&status.freshness)],
        ["state", &(word(&status.state) + observes)],
        ["pointer", pointer.as_deref().unwrap_or("not read yet")],
        ["components", &format!("{}{everything}", status.components)],
        ["export", &status.export.display().to_string()],
        ["agent", &status.agent],
    ] {
        facts.add_row(fact);
    }
    facts
}

/// How long conf-master was not heard. The remark stands among the problems, if it is one.
fn freshness(state: &FreshnessState) -> String {
    match (&state.time, state.stale) {
        (Some(time), true) => format!("stale: conf-master was heard {}", ago(time)),
        (Some(time), false) => format!("conf-master was heard {}", ago(time)),
        (None, _) => state.remark.clone().unwrap_or_else(|| "not known".to_owned()),
    }
}

/// Appends a table, unless it has no rows.
fn section<const N: usize>(text: &mut String, header: [&str; N], rows: impl Iterator<Item = [String; N]>) {
    let mut shown = Table::with_header(header);
    rows.for_each(|row| shown.add_row(row));
    if !shown.is_empty() {
        *text = format!("{text}\n\n{shown}");
    }
}

fn history_text(history: &[HistoryEntry]) -> String {
    if history.is_empty() {
        return "nothing was exported on this host yet".to_owned();
    }
    let mut shown = Table::with_header(["CHANGE", "SNAPSHOT", "EXPORTED", "TOOK", "COMPONENTS"]);
    for entry in history {
        let changed = entry.changed.iter().take(10);
        let mut changed: Vec<String> =
            changed.map(|(component, change)| format!("{component} {}", word(&change.kind))).collect();
        if entry.changed_count > changed.len() {
            changed.push(format!("and {} more", entry.changed_count - changed.len()));
        }
        if changed.is_empty() {
            changed.push("none of this host's".to_owned());
        }
        let (sequence, took) = (entry.sequence.to_string(), format!("{} ms", entry.took_ms));
        shown.add_row([sequence, entry.commit.short(), ago(&entry.when), took, changed.join("\n")]);
    }
    shown.to_string()
}

fn verify_text(report: &VerifyReport, repair: bool) -> String {
    let VerifyReport { sequence, objects, components, problems, repaired } = report;
    let mut text = format!("change {sequence}: {objects} objects and {components} components checked");
    for problem in problems {
        let mended = if repaired.contains(problem) { "mended: " } else { "" };
        text = format!("{text}\n- {mended}{problem}");
    }
    match (problems.is_empty(), report.is_whole(), repair) {
        (true, _, _) => format!("{text}\nno problems"),
        (_, true, _) => format!("{text}\nall mended"),
        (_, false, true) => {
            format!(
                "{text}\nnot everything could be mended; the agent tries again within a minute, and its log says why"
            )
        }
        (_, false, false) => format!("{text}\n`conf-local verify --repair` mends what can be"),
    }
}

/// Returns the JSON word of a plain enum.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

/// Formats a time as `12 s ago`, or returns it unchanged if it cannot be read.
fn ago(when: &str) -> String {
    let Ok(when) = when.parse::<jiff::Timestamp>() else { return when.to_owned() };
    let seconds = jiff::Timestamp::now().duration_since(when).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}
