//! Looks whether secrets that this host has itself have other values, and has the components that
//! read them rendered again. Relies on `snapshot` and `state`.
//!
//! Files are looked at every second, by `stat`: a notice of the kernel would miss a file that is
//! not there yet, one behind a link that is exchanged, and one on a network file system. A look
//! costs some microseconds. Commands run again after a period, since nothing tells when their
//! output changes. One that hangs delays the other commands by its time limit, and no file.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use conf_core::retry::Backoff;
use tokio::{
    task::spawn_blocking,
    time::{sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    snapshot::HostSecrets,
    state::{Agent, WriterRequest},
};

/// 1 s between two looks at the files.
const LOOK: Duration = Duration::from_secs(1);
/// 30 s: a value that cannot be rendered is tried again within this.
const MUCH_LATER: Duration = Duration::from_secs(30);

/// Looks until `stop`, which ends a running command.
pub(crate) async fn run(secrets: Arc<HostSecrets>, agent: Agent, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        _ = async { tokio::join!(look(&secrets, &agent), run_commands(&secrets, &stop)) } => {}
    }
}

async fn look(secrets: &Arc<HostSecrets>, agent: &Agent) -> Infallible {
    let mut backoff = Backoff::new(LOOK, MUCH_LATER);
    let (mut again, mut failed) = (Instant::now(), None);
    loop {
        let looking = secrets.clone();
        // It fails only if it panics, which ends the process.
        let _ = spawn_blocking(move || looking.look_at_files()).await;
        if secrets.stale().is_empty() {
            backoff.reset();
            failed = None;
        } else if again <= Instant::now() {
            let rendered = agent.ask(|reply| WriterRequest::Secrets { reply }).await;
            failed = rendered
                .err()
                .map(|error| format!("a secret of this host has a new value, which is not exported: {error}"));
            again = Instant::now() + backoff.next_wait();
        }
        let problems = || secrets.problems().into_iter().chain(failed.clone()).collect();
        agent.update(|view| view.status.secrets = problems());
        let changed = secrets.changed.notified();
        if secrets.is_wanted() {
            tokio::select! {
                () = sleep(LOOK) => {}
                () = changed => {}
            }
        } else {
            changed.await;
        }
    }
}

async fn run_commands(secrets: &Arc<HostSecrets>, stop: &CancellationToken) -> Infallible {
    loop {
        let rescheduled = secrets.rescheduled.notified();
        let Some((command, due)) = secrets.next_command() else {
            rescheduled.await;
            continue;
        };
        tokio::select! {
            () = sleep_until(due.into()) => {}
            () = rescheduled => continue,
        }
        let (secrets, stop) = (secrets.clone(), stop.clone());
        let _ = spawn_blocking(move || secrets.renew(&command, &|| stop.is_cancelled())).await;
    }
}
