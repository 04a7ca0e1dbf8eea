//! The command that `exec` runs.

use std::{
    io::{self, IsTerminal},
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    time::Duration,
};

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::process::{Child, Command};

use crate::{
    cli::{
        exec::{
            place::{ExportPlace, PlacedSnapshot},
            signals::Signals,
        },
        output::{Usage, note},
    },
    process::{LONGEST_LOOK, Process},
};

const CANNOT_WAIT: &str = "cannot wait for the command";

/// 10 s between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(10);

/// The running command.
pub(crate) struct Job {
    child: Child,
    process: Process,
    /// The command leads a process group of its own. Not on a terminal, where a background command
    /// could not read.
    leads: bool,
    /// The command must be told of a change.
    owed: bool,
}

/// How a command ended.
pub(crate) enum Ended {
    /// As `exec` wanted.
    Done,
    /// Meanwhile this signal asked `exec` to end too.
    Asked(Signal),
}

impl Job {
    pub(crate) fn start(words: &[String], place: &ExportPlace, snapshot: &PlacedSnapshot) -> anyhow::Result<Self> {
        let usage = || Usage("name a command after --".to_owned());
        let (program, arguments) = words.split_first().ok_or_else(usage)?;
        let leads = !io::stdin().is_terminal();
        let mut command = Command::new(program);
        command.args(arguments).env("CONF_EXPORT", &snapshot.directory).env("CONF_EXPORT_DIR", &place.export);
        command.env("CONF_SEQUENCE", snapshot.sequence.to_string()).env("CONF_LOCAL_SOCKET", &place.socket);
        if leads {
            command.process_group(0);
        }
        let failed = || format!("cannot start {program:?}");
        let child = command.spawn().with_context(failed)?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        // The command is a child that was not reaped, so that its number is its own, even if it has
        // ended.
        let process = Process::hold(pid.unwrap_or_default()).with_context(failed)?;
        Ok(Job { child, process, leads, owed: false })
    }

    /// Notes that the command must be told of a change.
    pub(crate) fn owe(&mut self) {
        self.owed = true;
    }

    /// Tells the command of changes until it ends. Returns its exit code, or 128 plus the signal
    /// that ended it. Dropping the future loses nothing.
    pub(crate) async fn attend(&mut self) -> anyhow::Result<u8> {
        loop {
            tokio::select! {
                ended = self.child.wait() => return ended.map(code_of).context(CANNOT_WAIT),
                () = until_it_can_be_told(&self.process), if self.owed => {
                    self.owed = false;
                    self.send(Signal::SIGHUP);
                }
            }
        }
    }

    /// Forwards a signal.
    pub(crate) fn forward(&self, signal: Signal) {
        // On a terminal the command is in the same group, and gets these from the terminal itself.
        if self.leads || !matches!(signal, Signal::SIGINT | Signal::SIGQUIT) {
            self.send(signal);
        }
    }

    /// Ends the command and all that it started: with SIGTERM first, later with SIGKILL.
    pub(crate) async fn end(mut self, signals: &mut Signals) -> anyhow::Result<Ended> {
        let mut asked = Ended::Done;
        self.send(Signal::SIGTERM);
        let ended = self.process.until_end().context(CANNOT_WAIT)?;
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
        // The number belongs to the group until the command is reaped.
        if self.leads {
            let _ = killpg(Pid::from_raw(self.process.identity.pid), Signal::SIGKILL);
        } else {
            self.send(Signal::SIGKILL);
        }
        self.child.wait().await.context(CANNOT_WAIT)?;
        Ok(asked)
    }

    fn send(&self, signal: Signal) {
        // A command that has ended needs no signal. Its end is noticed elsewhere.
        let _ = self.process.signal(signal);
    }
}

/// Ends once the process handles SIGHUP, which would end it otherwise. Never ends if the process
/// does.
async fn until_it_can_be_told(process: &Process) {
    let mut noted = false;
    let waiting = |_, pause| {
        if pause == LONGEST_LOOK && !noted {
            noted = true;
            note(
                "the command has no handler for SIGHUP yet, and gets the signal when it has one; or use --on-change restart",
            );
        }
    };
    if process.until_ready(Signal::SIGHUP, None, waiting).await.is_err() {
        // Its end is noticed elsewhere.
        std::future::pending::<()>().await;
    }
}

fn code_of(status: ExitStatus) -> u8 {
    let signal = || status.signal().map_or(1, |signal| 128 + signal);
    u8::try_from(status.code().unwrap_or_else(signal)).unwrap_or(1)
}
