//! The command that `exec` runs.

use std::{
    io::{self, IsTerminal},
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    time::Duration,
};

use conf_core::daemon::chain;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::process::{Child, Command};

use crate::cli::{
    ClientError,
    exec::{
        place::{Place, Snapshot},
        signals::Signals,
    },
    note,
};
use crate::process::handle::{Process, Readiness};

/// What a command gets to end by itself before it is ended by force.
const GRACE: Duration = Duration::from_secs(10);

/// Between two looks at a command that has no handler yet.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// The running command.
pub(crate) struct Job {
    child: Child,
    process: Process,
    /// It leads a process group of its own. On a terminal it does not: a command in the background could not read there.
    leads: bool,
    /// It is to be told of a change.
    owed: bool,
}

/// How the end of a command came about.
pub(crate) enum Ended {
    /// It ended as wanted.
    Done,
    /// Meanwhile this process was asked to end too.
    Asked(Signal),
}

impl Job {
    pub(crate) fn start(words: &[String], place: &Place, snapshot: &Snapshot) -> Result<Self, ClientError> {
        let (program, arguments) =
            words.split_first().ok_or_else(|| ClientError::Usage("name a command after --".to_owned()))?;
        let leads = !io::stdin().is_terminal();
        let mut command = Command::new(program);
        command.args(arguments).env("CONF_EXPORT", &snapshot.directory).env("CONF_EXPORT_DIR", &place.export);
        command.env("CONF_SEQUENCE", snapshot.sequence.to_string()).env("CONF_LOCAL_SOCKET", &place.socket);
        if leads {
            command.process_group(0);
        }
        let failed = |source| ClientError::System { what: format!("cannot start {program:?}"), source };
        let child = command.spawn().map_err(failed)?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        // It is our own child and not waited for, so its number is its own, even if it has ended.
        let process =
            Process::hold(pid.unwrap_or_default()).map_err(|error| failed(io::Error::other(chain(&error))))?;
        Ok(Job { child, process, leads, owed: false })
    }

    /// It is to be told that something changed.
    pub(crate) fn owe(&mut self) {
        self.owed = true;
    }

    /// Tells the command what is owed, until it has ended by itself; gives its exit code, or 128 and the signal that
    /// ended it. Dropping this loses nothing.
    pub(crate) async fn attend(&mut self) -> Result<u8, ClientError> {
        loop {
            tokio::select! {
                ended = self.child.wait() => {
                    let failed = |source| ClientError::System { what: "cannot wait for the command".to_owned(), source };
                    return ended.map(code_of).map_err(failed);
                }
                () = until_it_can_be_told(&self.process), if self.owed => {
                    self.owed = false;
                    self.send(Signal::SIGHUP);
                }
            }
        }
    }

    /// Hands a signal on.
    pub(crate) fn forward(&self, signal: Signal) {
        // On a terminal the command is in the same group, and has these from the terminal itself.
        if self.leads || !matches!(signal, Signal::SIGINT | Signal::SIGQUIT) {
            self.send(signal);
        }
    }

    /// Ends the command and what it started: asked first, by force when it takes too long.
    pub(crate) async fn end(mut self, signals: &mut Signals) -> Result<Ended, ClientError> {
        let failed = |source| ClientError::System { what: "cannot wait for the command".to_owned(), source };
        let mut asked = Ended::Done;
        self.send(Signal::SIGTERM);
        let ended = self.process.until_end().map_err(failed)?;
        let late = tokio::time::sleep(GRACE);
        tokio::pin!(late);
        loop {
            tokio::select! {
                _ = ended.readable() => break,
                () = &mut late => break,
                signal = signals.ends() => {
                    asked = Ended::Asked(signal);
                    self.forward(signal);
                }
            }
        }
        // Not waited for yet, so the number is still the group's.
        if self.leads {
            let _ = killpg(Pid::from_raw(self.process.identity.pid), Signal::SIGKILL);
        } else {
            self.send(Signal::SIGKILL);
        }
        self.child.wait().await.map_err(failed)?;
        Ok(asked)
    }

    fn send(&self, signal: Signal) {
        // One that has ended needs no signal; its end is seen elsewhere.
        let _ = self.process.signal(signal);
    }
}

/// Ends once SIGHUP would not end the process, for which it needs a handler.
async fn until_it_can_be_told(process: &Process) {
    let (mut look, mut held_back) = (FIRST_LOOK, false);
    loop {
        match process.readiness(Signal::SIGHUP) {
            Ok(Readiness::Handled) => return,
            Ok(Readiness::HeldBack) if held_back => return,
            Ok(Readiness::HeldBack) => held_back = true,
            Ok(Readiness::Ignored | Readiness::Deadly) => held_back = false,
            // Its end is seen elsewhere.
            Err(_) => return std::future::pending().await,
        }
        tokio::time::sleep(look).await;
        let last = look;
        look = (look * 2).min(LONGEST_LOOK);
        if last < LONGEST_LOOK && look == LONGEST_LOOK {
            note("the command has no handler for SIGHUP yet; it is told when it has one (or take --on-change restart)");
        }
    }
}

fn code_of(status: ExitStatus) -> u8 {
    let signal = || status.signal().map_or(1, |signal| 128 + signal);
    u8::try_from(status.code().unwrap_or_else(signal)).unwrap_or(1)
}
