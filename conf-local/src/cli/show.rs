//! `conf-local status`, `history` and `verify`: tables for people, JSON for programs.

use std::{process::ExitCode, time::Duration};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::Value;

use crate::cli::{
    ClientError, print,
    socket::{Socket, VERIFY_WITHIN},
};
use crate::{
    cli::config::{OutputOptions, VerifyOptions},
    service::StatusAnswer,
    state::{HistoryEntry, VerifyReport},
};

pub(crate) async fn status(options: &OutputOptions) -> Result<ExitCode, ClientError> {
    let socket = Socket(options.socket.socket.clone());
    if options.json {
        print_json(&socket.get::<Value>("/v1/status", Duration::ZERO).await?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let answer: StatusAnswer = socket.get("/v1/status", Duration::ZERO).await?;
    print(&status_text(&answer))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn history(options: &OutputOptions) -> Result<ExitCode, ClientError> {
    let history: Vec<HistoryEntry> = Socket(options.socket.socket.clone()).get("/v1/history", Duration::ZERO).await?;
    if options.json {
        print_json(&history)?;
    } else if history.is_empty() {
        print("nothing was exported on this host yet")?;
    } else {
        print(&history_text(&history))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn verify(options: &VerifyOptions) -> Result<ExitCode, ClientError> {
    let socket = Socket(options.output.socket.socket.clone());
    let path = format!("/v1/verify?repair={}", options.repair);
    let report: VerifyReport = socket.post(&path, &(), VERIFY_WITHIN).await?;
    if options.output.json {
        print_json(&report)?;
    } else {
        print(&verify_text(&report, options.repair))?;
    }
    Ok(if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn status_text(answer: &StatusAnswer) -> String {
    let status = &answer.status;
    let mut facts = table();
    facts.add_row(["datacenter".to_owned(), status.datacenter.to_string()]);
    facts.add_row(["host".to_owned(), status.host.to_string()]);
    let exported = match (&status.commit, &status.since) {
        (Some(commit), since) => {
            let since = since.as_deref().map_or_else(String::new, |since| format!(", {}", ago(since)));
            format!("change {} ({}){since}", status.sequence, commit.short())
        }
        (None, _) => "nothing yet".to_owned(),
    };
    facts.add_row(["exported".to_owned(), exported]);
    facts.add_row(["central".to_owned(), format!("the newest up to change {}", status.central)]);
    let observes = if status.observe { " (observes: tells nobody, places nothing)" } else { "" };
    facts.add_row(["state".to_owned(), word(&status.state) + observes]);
    let pointer = status.pointer.map(|pointer| format!("{}/{}", pointer.sequence, pointer.commit.short()));
    facts.add_row(["pointer".to_owned(), pointer.unwrap_or_else(|| "not read yet".to_owned())]);
    let everything =
        if status.listed { "" } else { " (all of the datacenter: its inventory gives this host no choice)" };
    facts.add_row(["components".to_owned(), format!("{}{everything}", status.components)]);
    facts.add_row(["export".to_owned(), status.export.display().to_string()]);
    facts.add_row(["agent".to_owned(), status.agent.clone()]);
    let mut text = facts.to_string();

    if !answer.watchers.is_empty() {
        let mut watchers = table();
        watchers.set_header(["WATCHER", "COMPONENTS", "STATE", "CHANGE", "SINCE"]);
        for watcher in &answer.watchers {
            let components: Vec<String> = watcher.components.iter().map(ToString::to_string).collect();
            watchers.add_row([
                watcher.target.clone(),
                components.join(" "),
                word(&watcher.state),
                watcher.sequence.to_string(),
                ago(&watcher.when),
            ]);
        }
        text = format!("{text}\n\n{watchers}");
    }
    if !answer.processes.is_empty() {
        let mut processes = table();
        processes.set_header(["PROCESS", "PROGRAM", "RUNS ON", "SAID", ""]);
        for process in &answer.processes {
            let how = if process.errors.is_empty() { "" } else { "keeps older values" };
            let (pid, sequence) = (process.pid.to_string(), format!("change {}", process.sequence));
            processes.add_row([pid, process.program.clone(), sequence, ago(&process.when), how.to_owned()]);
        }
        text = format!("{text}\n\n{processes}");
    }
    if !status.placements.is_empty() {
        let mut places = table();
        places.set_header(["PLACED", "AT", "BY", "FILES", ""]);
        for one in &status.placements {
            let how = if one.error.is_some() { "failed" } else { "" };
            let (component, path) = (one.component.to_string(), one.path.display().to_string());
            places.add_row([component, path, word(&one.mode), one.files.to_string(), how.to_owned()]);
        }
        text = format!("{text}\n\n{places}");
    }
    let checks =
        status.checks.iter().map(|one| ("check", one.component.to_string(), &one.command, one.passed, &one.when));
    let probes =
        status.probes.iter().map(|one| ("probe", one.component.to_string(), &one.target, one.passed, &one.when));
    let looked: Vec<_> = checks.chain(probes).collect();
    if !looked.is_empty() {
        let mut shown = table();
        shown.set_header(["LOOKED AT", "COMPONENT", "BY", "", "SINCE"]);
        for (what, component, by, passed, when) in looked {
            let passed = if passed { "passed" } else { "failed" };
            shown.add_row([what, &component, by, passed, &ago(when)]);
        }
        text = format!("{text}\n\n{shown}");
    }
    if answer.problems.is_empty() {
        format!("{text}\n\nno problems")
    } else {
        format!("{text}\n\nproblems:\n- {}", answer.problems.join("\n- "))
    }
}

fn history_text(history: &[HistoryEntry]) -> String {
    let mut shown = table();
    shown.set_header(["CHANGE", "SNAPSHOT", "EXPORTED", "TOOK", "COMPONENTS"]);
    for entry in history {
        let mut changed: Vec<String> = entry
            .changed
            .iter()
            .take(10)
            .map(|(component, change)| format!("{component} {}", word(&change.kind)))
            .collect();
        if entry.changed_count > changed.len() {
            changed.push(format!("and {} more", entry.changed_count - changed.len()));
        }
        if changed.is_empty() {
            changed.push("none of this host's".to_owned());
        }
        shown.add_row([
            entry.sequence.to_string(),
            entry.commit.short(),
            ago(&entry.when),
            format!("{} ms", entry.took_ms),
            changed.join("\n"),
        ]);
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
        (_, false, true) => format!("{text}\nnot all could be mended; the agent tries again with the next change"),
        (_, false, false) => format!("{text}\n`conf-local verify --repair` mends what can be"),
    }
}

pub(crate) fn print_json(value: &impl Serialize) -> Result<(), ClientError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| ClientError::Print(error.into()))?;
    print(&text)
}

pub(crate) fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table
}

/// The word that stands in JSON for a plain enum.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

/// `12 s ago`; the time itself where it cannot be read.
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
