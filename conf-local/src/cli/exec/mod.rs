//! `conf-local exec`: runs a command on this host's configuration, and tells it when that changes.
//!
//! It registers itself with the agent, so the agent signals a process that handles SIGHUP from its first moment; what the
//! command makes of a change is decided here. The command never starts before its components are exported. The agent may
//! be restarted meanwhile; where it is away at the start, the export on disk is enough.

mod job;
mod place;
mod signals;

use std::{cell::Cell, process::ExitCode, time::Duration};

use libconf::name::Sequence;
use nix::sys::signal::Signal;
use tokio::sync::Notify;

use crate::cli::exec::{
    job::{Ended, Job},
    place::{Place, find},
    signals::Signals,
};
use crate::cli::{ClientError, note, socket::Socket};
use crate::{
    cli::config::{ExecOptions, OnChange},
    service::{RegisterRequest, Registered},
};

/// How often the registration is made sure of: a restarted agent keeps it, one that lost its state does not.
const RENEW: Duration = Duration::from_secs(60);

/// The same while the agent does not answer.
const RENEW_WHEN_AWAY: Duration = Duration::from_secs(2);

pub(crate) async fn run(options: ExecOptions) -> Result<ExitCode, ClientError> {
    let socket = Socket(options.socket.socket);
    // Before anybody can know of this process: a signal that came too early would end it.
    let mut signals = Signals::new()?;
    // The agent takes whoever asks, which is right in a container too, where numbers differ.
    let components = options.components.iter().cloned().collect();
    let request = RegisterRequest { components, pid: None, start: None, signal: None, delay_seconds: None };
    let place = tokio::select! {
        found = find(&socket, &request) => found?,
        signal = signals.ends() => return Ok(code_of(signal)),
    };

    // What is signalled up to here is in the files that the command will read.
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
        // A signal that was overtaken by the next change, of which the command was told with it.
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
            // What came while it ended is in this too.
            let snapshot = place.filled_now().unwrap_or(snapshot);
            read = place.content(&snapshot);
            job = Job::start(&options.command, &place, &snapshot)?;
        }
    }
}

/// What the loop and the registration tell each other.
struct Seen {
    /// Changes that this process was told of.
    changes: Cell<u64>,
    /// A change happened while it was not registered.
    missed: Notify,
}

/// Makes sure of the registration again and again; never ends.
async fn keep_registered(socket: &Socket, request: &RegisterRequest, place: &Place, began: Sequence, seen: &Seen) {
    let (mut known, mut registered, mut changes) = (began, place.registered, seen.changes.get());
    loop {
        let pause = if registered { RENEW.mul_f64(0.75 + rand::random::<f64>() / 4.0) } else { RENEW_WHEN_AWAY };
        tokio::time::sleep(pause).await;
        let answer: Result<Registered, _> = socket.post("/v1/watchers", request, Duration::ZERO).await;
        registered = answer.is_ok();
        if let Ok(answer) = answer {
            // It rose although no signal came since it was asked last: the registration had been lost.
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
