//! `conf-local exec`: runs a command on this host's configuration, and tells it when that changes.
//!
//! It registers itself with the agent, so that the agent signals a process that handles SIGHUP from
//! the start. How the command learns of a change is decided here. The command never starts before
//! its components are exported. The agent may be restarted meanwhile. If it is away at the start,
//! the export on disk is enough.

mod job;
mod place;
mod signals;

use std::{cell::Cell, process::ExitCode, time::Duration};

use libconf::name::Sequence;
use nix::sys::signal::Signal;
use tokio::sync::Notify;

use crate::{
    agent::AgentSocket,
    cli::{
        exec::{
            job::{Ended, Job},
            place::{ExportPlace, find},
            signals::Signals,
        },
        options::{ExecOptions, OnChange},
        output::note,
    },
    clock::random_up_to,
    service::{RegisterRequest, Registered},
};

/// 60 s between two renewals of the registration: a restarted agent keeps it, but one that lost its
/// state does not.
const RENEW: Duration = Duration::from_secs(60);

/// 2 s while the agent does not answer.
const RENEW_WHEN_AWAY: Duration = Duration::from_secs(2);

pub(crate) async fn run(options: ExecOptions) -> anyhow::Result<ExitCode> {
    let socket = options.socket;
    // Before any other process can know this one: a signal that came too early would end it.
    let mut signals = Signals::new()?;
    // Without a number the agent registers the calling process, also in a container, where numbers
    // differ.
    let components = options.components.iter().cloned().collect();
    let request = RegisterRequest { components, pid: None, start: None, signal: None, delay_seconds: None };
    let place = tokio::select! {
        found = find(&socket, &request) => found?,
        signal = signals.ends() => return Ok(code_of(signal)),
    };

    // The files that the command will read include all changes that were signalled up to here.
    signals.forget_changes();
    let snapshot = place.current()?;
    let mut read = place.content(&snapshot);
    let mut job = Job::start(&options.command, &place, &snapshot)?;
    let seen = Seen { changes: Cell::new(0), missed: Notify::new() };
    let registering = keep_registered(&socket, &request, &place, snapshot.sequence, &seen);
    tokio::pin!(registering);
    loop {
        let changed = tokio::select! {
            biased;
            signal = signals.next() => match signal {
                Signal::SIGHUP => true,
                signal => {
                    job.forward(signal);
                    false
                }
            },
            ended = job.attend() => return ended.map(ExitCode::from),
            () = seen.missed.notified() => true,
            () = &mut registering => false,
        };
        if !changed {
            continue;
        }
        seen.changes.set(seen.changes.get() + 1);
        if options.on_change == OnChange::Restart {
            signals.forget_changes();
        }
        let snapshot = match place.filled_now() {
            Ok(snapshot) => snapshot,
            Err(why) => {
                note(format_args!("{why}; the command goes on as it is"));
                continue;
            }
        };
        // The same content means that the command was told of this change together with an earlier
        // signal.
        let content = place.content(&snapshot);
        if content == read {
            continue;
        }
        read = content;
        if options.on_change == OnChange::Hup {
            job.owe();
        } else {
            note(format_args!("change {}: starting the command anew", snapshot.sequence));
            if let Ended::Asked(signal) = job.end(&mut signals).await? {
                return Ok(code_of(signal));
            }
            // This includes the changes that came while it ended.
            let snapshot = place.filled_now().unwrap_or(snapshot);
            read = place.content(&snapshot);
            job = Job::start(&options.command, &place, &snapshot)?;
        }
    }
}

/// What the loop and the registration share.
struct Seen {
    /// The number of changes that this process was told of.
    changes: Cell<u64>,
    /// A change happened while this process was not registered.
    missed: Notify,
}

/// Renews the registration again and again. Never ends.
async fn keep_registered(
    socket: &AgentSocket,
    request: &RegisterRequest,
    place: &ExportPlace,
    began: Sequence,
    seen: &Seen,
) {
    let (mut known, mut registered, mut changes) = (began, place.registered, seen.changes.get());
    loop {
        let pause = if registered { RENEW * 3 / 4 + random_up_to(RENEW / 4) } else { RENEW_WHEN_AWAY };
        tokio::time::sleep(pause).await;
        let answer: Result<Registered, _> = socket.post("/v1/watchers", request, Duration::ZERO).await;
        registered = answer.is_ok();
        if let Ok(answer) = answer {
            // It rose although no signal came since the last renewal: the registration had been
            // lost.
            if answer.watcher.sequence > known && seen.changes.get() == changes {
                seen.missed.notify_one();
            }
            known = known.max(answer.watcher.sequence);
            changes = seen.changes.get();
        }
    }
}

fn code_of(signal: Signal) -> ExitCode {
    ExitCode::from(128 + u8::try_from(signal as i32).unwrap_or(127))
}
