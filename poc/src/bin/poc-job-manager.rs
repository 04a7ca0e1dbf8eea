//! A small job manager like Nomad: it watches one key of Consul and restarts its job when that
//! changes.
//!
//! The only part of conf that it knows is `conf-local wait`, which it runs first: the key moves
//! before the host has the files.

use std::{
    path::PathBuf,
    process::{ExitCode, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use conf_core::consul::{Consul, ConsulCredentials, WatchIndex};
use poc::{Report, tether};
use tokio::process::{Child, Command};

/// Restarts a job when a key of Consul changes.
#[derive(Parser)]
struct Arguments {
    /// Consul's address
    #[arg(long)]
    consul: String,
    /// The key to watch
    #[arg(long)]
    key: String,
    /// The component of the key
    #[arg(long)]
    component: String,
    /// The program conf-local
    #[arg(long)]
    conf_local: PathBuf,
    /// The agent's socket
    #[arg(long)]
    socket: PathBuf,
    /// The job
    #[arg(last = true, required = true)]
    job: Vec<String>,
}

fn main() -> ExitCode {
    tether::obey();
    let arguments = Arguments::parse();
    tether::run("poc-job-manager", manage(&arguments))
}

async fn manage(arguments: &Arguments) -> Result<()> {
    let credentials = ConsulCredentials::from_variables(|name| std::env::var(name).ok());
    let consul = Consul::new(std::slice::from_ref(&arguments.consul), credentials)?;
    let mut seen = WatchIndex::default();
    let mut runs: Option<(Vec<u8>, Child)> = None;
    loop {
        let pin = match consul.watch(&arguments.key, &mut seen, Duration::from_secs(60)).await {
            Ok(Some(entry)) => entry.value,
            // Neither a missing key nor a missing Consul is a reason to restart the job.
            Ok(None) => continue,
            Err(error) => {
                eprintln!("poc-job-manager: {error}");
                tokio::time::sleep(Duration::from_millis(500)).await;
                continue;
            }
        };
        if runs.as_ref().is_some_and(|(running, _)| *running == pin) {
            continue;
        }
        let woken = SystemTime::now();
        let words = String::from_utf8_lossy(&pin).into_owned();
        if let Err(error) = wait_for_files(arguments, &words).await {
            Report::say(SystemTime::now(), "late", 0, &format!("{error:#}"));
            // The next query returns at once, as if the key were new.
            seen = WatchIndex::default();
            tokio::time::sleep(Duration::from_millis(500)).await;
            continue;
        }
        Report::say(woken, "woken", 0, &format!("{} {words}", arguments.key));
        if let Some((_, mut job)) = runs.take() {
            job.kill().await.context("cannot stop the job")?;
        }
        runs = Some((pin, start(arguments)?));
    }
}

async fn wait_for_files(arguments: &Arguments, pin: &str) -> Result<()> {
    let output = Command::from(tether::command(&arguments.conf_local))
        .args(["wait", &arguments.component, "--at", pin, "--timeout", "30", "--socket"])
        .arg(&arguments.socket)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run conf-local")?;
    if !output.status.success() {
        bail!("conf-local wait: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn start(arguments: &Arguments) -> Result<Child> {
    Command::from(tether::command(&arguments.job[0]))
        .args(&arguments.job[1..])
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", arguments.job[0]))
}
