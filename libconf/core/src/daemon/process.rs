//! The life of a daemon's process: its start, its ready line, its stop.

use std::{
    error::Error,
    fmt,
    io::{self, Write as _},
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::daemon::{
    blocking::blocking,
    log::chain,
    reload::{Reload, Said},
};

/// How long after the signal the program leaves unfinished work behind; users are promised an end
/// within 5 s.
pub(crate) const LAST_MOMENT: Duration = Duration::from_millis(4500);

/// 5 s between two looks at the files of certificates.
const LOOK: Duration = Duration::from_secs(5);

/// The threads of a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// One for each processor: for a server of many clients.
    PerProcessor,
    /// One, besides those that block, which end soon after their work: for a program that must take
    /// little of a machine that is there for others.
    One,
}

/// 2 s: threads that block end so long after their last work. A change keeps a few busy for less.
const REST: Duration = Duration::from_secs(2);

impl Threads {
    fn runtime(self) -> io::Result<tokio::runtime::Runtime> {
        match self {
            Threads::PerProcessor => tokio::runtime::Builder::new_multi_thread().enable_all().build(),
            Threads::One => tokio::runtime::Builder::new_current_thread().thread_keep_alive(REST).enable_all().build(),
        }
    }
}

/// Runs a daemon until it ends. SIGTERM or SIGINT cancels the token that `work` gets; `work` then
/// has 4.5 s to finish its step. SIGHUP reads the options again by `reload`. An error is logged
/// with its causes, and the exit code is 1.
pub fn run<F, E>(threads: Threads, reload: Reload, work: impl FnOnce(CancellationToken) -> F) -> ExitCode
where
    F: Future<Output = Result<(), E>>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    raise_file_limit();
    close_memory();
    // libgit2 would keep up to 256 MiB of objects that were read, of each nearly once: all that is
    // looked at often is kept here in a form of its own.
    git2::opts::enable_caching(false);
    panics_abort();
    let runtime = match threads.runtime() {
        Ok(runtime) => runtime,
        Err(cause) => {
            tracing::error!("cannot start: {}", chain(&cause));
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        let stop = match attend_signals(reload) {
            Ok(stop) => stop,
            Err(cause) => return Err(cause.into()),
        };
        let too_late = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_MOMENT).await;
        };
        tokio::select! {
            outcome = work(stop.clone()) => outcome.map_err(Into::into),
            // Every step is safe against a kill, so leaving in the middle of a step harms nothing.
            () = too_late => {
                tracing::warn!("a step did not end in time; leaving without it");
                Ok(())
            }
        }
    });
    runtime.shutdown_timeout(Duration::from_millis(200));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            tracing::error!("{}", chain(cause.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Makes every panic end the process, in every build; the supervisor starts it fresh, so no daemon
/// is half alive.
fn panics_abort() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// Makes a token that SIGTERM or SIGINT cancels, and answers the other signals that people send to
/// daemons: none of them ends the process.
fn attend_signals(mut reload: Reload) -> io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let cancelled = stop.clone();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut user_1 = signal(SignalKind::user_defined1())?;
    let mut user_2 = signal(SignalKind::user_defined2())?;
    // The tasks live as long as the process: a later signal must not kill it. A file that hangs
    // while the options are read again must not hold up the stop.
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = hangup.recv() => reload = read_again(reload).await,
                () = tokio::time::sleep(LOOK) => {
                    // Most have none, and a look takes a thread.
                    if reload.has_certificates() {
                        reload = look(reload).await;
                    }
                }
                _ = user_1.recv() => tracing::info!("SIGUSR1 means nothing to this program; it is ignored"),
                _ = user_2.recv() => tracing::info!("SIGUSR2 means nothing to this program; it is ignored"),
            }
        }
    });
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if !cancelled.is_cancelled() {
                tracing::info!("stopping");
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
                cancelled.cancel();
            }
        }
    });
    Ok(stop)
}

/// Reads the options again, off the runtime's threads, and logs what is different.
async fn read_again(mut reload: Reload) -> Reload {
    let read = blocking(move || {
        let said = reload.again();
        (reload, said)
    });
    let (reload, said) = read.await;
    for said in said {
        match said {
            Said::Done(words) => tracing::info!("SIGHUP: {words}"),
            Said::Kept(words) => tracing::warn!("SIGHUP: {words}"),
        }
    }
    reload
}

/// Reads certificates that have changed, off the runtime's threads, and logs what came of it.
async fn look(reload: Reload) -> Reload {
    let looked = blocking(move || {
        let said = reload.look(false);
        (reload, said)
    });
    let (reload, said) = looked.await;
    for said in said {
        match said {
            Said::Done(words) => tracing::info!("{words}"),
            Said::Kept(words) => tracing::warn!("{words}"),
        }
    }
    reload
}

/// Raises the limit of open files. Each connection takes one, and the usual soft limit of 1,024 is
/// too low for a datacenter's hosts.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Keeps keys and secrets out of core files, and other processes of the same user out of this
/// one's memory. Programs that it starts are not concerned, and keep the limit that it was given.
fn close_memory() {
    if let Err(cause) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%cause, "a core file of this program could hold keys");
    }
}

/// Has this program and those that it starts leave no core file. It is for a daemon that starts no
/// program of somebody else.
pub fn no_core_files() {
    let limit = getrlimit(Resource::Core);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), ..limit });
}

/// Reports that the daemon can serve: `ready http=ADDRESS`, or over TLS `ready https=ADDRESS`, on
/// standard output, and to systemd.
pub fn ready(scheme: &str, address: SocketAddr) {
    say_ready(format_args!("{scheme}={address}"));
}

/// Reports that the daemon can serve on a Unix socket: `ready socket=PATH` on standard output, and
/// to systemd.
pub fn ready_on_socket(path: &Path) {
    say_ready(format_args!("socket={}", path.display()));
}

fn say_ready(at: fmt::Arguments<'_>) {
    // Standard output may be closed; the daemon goes on.
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "ready {at}").and_then(|()| out.flush());
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

/// Refuses an address that other machines reach, unless the server `is_protected`, or its operator
/// says that it need not be.
pub fn listen_guard(address: SocketAddr, is_protected: bool) -> Result<(), ListenRefused> {
    if address.ip().is_loopback() || is_protected { Ok(()) } else { Err(ListenRefused(address)) }
}

/// Refuses an address on which whoever is on the way could read and change everything.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0} can be reached from other machines, and there is no TLS here; give --tls-cert and --tls-key, listen on \
     127.0.0.1 or [::1], or say --insecure if the network itself is trusted"
)]
pub struct ListenRefused(SocketAddr);
