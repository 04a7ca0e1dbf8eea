//! The whole system on this machine: the three tiers, three jobs, and engineers who push changes
//! with the real git.

/// Lines and colours. Relies on no other module.
mod print;
/// Hosts, jobs and programs. Relies on no other module.
mod place;
/// Pushes with git. Relies on no other module.
mod engineers;
/// The changes to push. Relies on `engineers` and `place`.
mod story;
/// Observations of each tier. Relies on `place`.
mod observe;
/// Everything that runs. Relies on `engineers`, `observe` and `place`.
mod site;
/// The times of each change. Relies on `engineers`, `observe`, `place`, `print` and `story`.
mod timeline;
/// Commands for the reader. Relies on `place`, `print`, `site` and `story`.
mod try_it;
/// The demonstration. Relies on all of them.
mod show;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use poc::tether;
use tokio::signal::unix::{SignalKind, signal};

use crate::{print::say, show::Show};

/// Shows conf at work on this machine: conf-master, conf-slave, and three hosts, each with
/// conf-local and a job. Engineers push a change every few seconds, and a timeline shows when each
/// program has it.
#[derive(Parser)]
#[command(name = "./poc/run", version)]
struct Arguments {
    /// Make three changes, an update and a new secret, and end with 0 only if every job read every
    /// one of them
    #[arg(long)]
    once: bool,
    /// A real Consul for the pointers (with its usual environment variables); without it conf-slave
    /// stands in for one
    #[arg(long, value_name = "URL")]
    consul: Option<String>,
    /// Have every program speak TLS, with certificates of this run's own
    #[arg(long)]
    tls: bool,
    /// Seconds between two pushes
    #[arg(long, value_name = "SECONDS", default_value_t = 4.0, value_parser = parse_seconds)]
    every: f64,
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("not between 0.1 and 3600".to_owned()) }
}

fn main() -> ExitCode {
    tether::obey();
    let arguments = Arguments::parse();
    tether::run("\npoc", run(&arguments))
}

async fn run(arguments: &Arguments) -> Result<()> {
    let mut show = Show::new(arguments.consul.clone(), arguments.tls)?;
    let outcome = tokio::select! {
        outcome = show.play(arguments.once, arguments.every) => outcome,
        outcome = stopped() => outcome.and_then(|()| {
            if arguments.once {
                bail!("stopped before all changes were made");
            }
            say!("\nStopping.");
            Ok(())
        }),
    };
    show.timeline.summary();
    show.site.stop().await;
    outcome
}

/// Waits for Ctrl-C, a closed terminal, or SIGTERM.
async fn stopped() -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
