//! `conf-local exec`: runs a command on this host's configuration, and tells it when that changes.
//!
//! It registers itself with the agent, so that the agent signals a process that handles SIGHUP from
//! the start. How the command learns of a change is decided here. The command never starts before
//! its components are exported. The agent may be restarted meanwhile. If it is away at the start,
//! the export on disk is enough.

mod signals;
mod place;
mod relay;
mod job;

use std::{process::ExitCode, time::Duration};

use nix::sys::signal::Signal;

use crate::{
    cli::{
        exec::{
            job::Job,
            place::{ExportPlace, PlacedSnapshot, find},
            relay::Relaying,
            signals::Signals,
        },
        options::{ExecOptions, OnChange},
        output::note,
    },
    process::Family,
    service::RegisterRequest,
};

pub(crate) async fn run(options: ExecOptions) -> anyhow::Result<ExitCode> {
    let socket = options.socket;
    // Before any other process can know this one: a signal that came too early would end it.
    let mut signals = Signals::new()?;
    // A program that became this one may have started some. They are not the command's.
    let family = Family::new();
    // Without a number the agent registers the calling process, also in a container, where numbers
    // differ.
    let components = options.components.iter().cloned().collect();
    let request =
        RegisterRequest { components, pid: None, start: None, signal: None, delay_seconds: None, relay: None };
    let place = tokio::select! {
        found = find(&socket, &request) => found?,
        signal = signals.ends() => return Ok(code_of(signal)),
    };

    // The files that the command will read include all changes that were signalled up to here.
    signals.forget_changes();
    let snapshot = place.current()?;
    let mut read = place.content(&snapshot);
    let grace = Duration::from_secs(options.grace.into());
    let mut job = Job::start(&options.command, &place, &snapshot, &family)?;
    let relaying = Relaying::default();
    relaying.told(snapshot.sequence);
    let registering = relaying.keep_registered(&socket, &request, &place);
    tokio::pin!(registering);
    loop {
        let changed = tokio::select! {
            biased;
            signal = signals.next() => match signal {
                Signal::SIGHUP => true,
                Signal::SIGTERM => break,
                signal => {
                    job.forward(signal);
                    false
                }
            },
            ended = job.attend(&relaying) => {
                ended?;
                break;
            }
            () = relaying.missed.notified() => true,
            () = &mut registering => false,
        };
        if !changed {
            continue;
        }
        relaying.changes.set(relaying.changes.get() + 1);
        if options.on_change == OnChange::Restart {
            signals.forget_changes();
        }
        let Some(snapshot) = snapshot_now(&place, &relaying) else { continue };
        // The same content means that the command was told of this change together with an earlier
        // signal, or will be.
        let content = place.content(&snapshot);
        if content == read && !job.is_owed() {
            relaying.told(snapshot.sequence);
        } else if options.on_change == OnChange::Hup {
            job.owe(snapshot.sequence);
        } else {
            note(format_args!("change {}: starting the command anew", snapshot.sequence));
            let (_, asked) = job.end(grace, &mut signals).await?;
            if let Some(signal) = asked {
                return Ok(code_of(signal));
            }
            // This includes the changes that came while it ended.
            let snapshot = place.filled_now().unwrap_or(snapshot);
            read = place.content(&snapshot);
            job = Job::start(&options.command, &place, &snapshot, &family)?;
            relaying.told(snapshot.sequence);
            continue;
        }
        read = content;
    }
    let (code, _) = job.end(grace, &mut signals).await?;
    Ok(ExitCode::from(code))
}

/// Returns the snapshot that is current now if it holds all the components.
fn snapshot_now(place: &ExportPlace, relaying: &Relaying) -> Option<PlacedSnapshot> {
    let filled = place.filled_now();
    if let Err(why) = &filled {
        note(format_args!("{why}; the command goes on as it is"));
        if let Ok(snapshot) = place.current() {
            relaying.told(snapshot.sequence);
        }
    }
    filled.ok()
}

fn code_of(signal: Signal) -> ExitCode {
    ExitCode::from(128 + u8::try_from(signal as i32).unwrap_or(127))
}
