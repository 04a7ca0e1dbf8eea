//! The command that `exec` runs.

use std::{
    collections::BTreeSet,
    io::{self, IsTerminal},
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    time::Duration,
};

use anyhow::Context as _;
use libconf::name::Sequence;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    signal::unix::{self, SignalKind},
    time::{Instant, sleep, sleep_until},
};

use crate::{
    cli::{
        exec::{
            place::{ExportPlace, PlacedSnapshot},
            relay::Relaying,
            signals::Signals,
        },
        output::{Usage, note},
    },
    process::{Descendant, END_WITHIN, FIRST_LOOK, Family, LONGEST_LOOK, Process, adopt, reap_adopted},
};

const CANNOT_WAIT: &str = "cannot wait for the command";

/// 5 ms between two looks at what is left of the command, doubling up to 100 ms.
const LOOK: Duration = Duration::from_millis(5);
const LATER_LOOK: Duration = Duration::from_millis(100);

/// The running command.
pub(crate) struct Job {
    child: Child,
    process: Process,
    /// The command leads a process group of its own. Not on a terminal: there the shell that
    /// started `exec` stops and resumes its group, of which the command stays a member.
    leads: bool,
    /// The change that the command must be told of.
    owed: Option<Sequence>,
    /// The exit code, once the command has ended.
    code: Option<u8>,
    /// What is the command's of the processes below this one.
    family: Family,
    /// All of it was asked to end.
    asked: bool,
    /// A process below this one has ended.
    ended: unix::Signal,
}

impl Job {
    /// Starts the command.
    pub(crate) fn start(
        words: &[String],
        place: &ExportPlace,
        snapshot: &PlacedSnapshot,
        family: &Family,
    ) -> anyhow::Result<Self> {
        let usage = || Usage("name a command after --".to_owned());
        let (program, arguments) = words.split_first().ok_or_else(usage)?;
        let leads = !io::stdin().is_terminal();
        let mut command = Command::new(program);
        command.args(arguments).env("CONF_EXPORT", &snapshot.directory).env("CONF_EXPORT_DIR", &place.export);
        command.env("CONF_SEQUENCE", snapshot.sequence.to_string()).env("CONF_LOCAL_SOCKET", &place.socket);
        command.envs([family.variable()]);
        if leads {
            command.process_group(0);
        }
        let failed = || format!("cannot start {program:?}");
        adopt().with_context(failed)?;
        let ended = unix::signal(SignalKind::child()).with_context(failed)?;
        let child = command.spawn().with_context(failed)?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        // The command is a child that was not reaped, so that its number is its own, even if it has
        // ended.
        let process = Process::hold(pid.unwrap_or_default()).with_context(failed)?;
        Ok(Job { child, process, leads, owed: None, code: None, family: family.clone(), asked: false, ended })
    }

    /// Notes that the command must be told of a change.
    pub(crate) fn owe(&mut self, change: Sequence) {
        self.owed = Some(change);
    }

    /// True if the command must be told of a change.
    pub(crate) fn is_owed(&self) -> bool {
        self.owed.is_some()
    }

    /// Tells the command of changes until it ends. Dropping the future loses nothing.
    pub(crate) async fn attend(&mut self, relaying: &Relaying) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                ended = self.child.wait() => {
                    self.code = Some(code_of(ended.context(CANNOT_WAIT)?));
                    return Ok(());
                }
                () = until_it_can_be_told(&self.process, relaying), if self.owed.is_some() => {
                    if let Some(change) = self.owed.take() && self.process.signal(Signal::SIGHUP).is_ok() {
                        relaying.told(change);
                    }
                }
                Some(()) = self.ended.recv() => reap_adopted(self.process.identity.pid),
            }
        }
    }

    /// Forwards a signal: one that asks for the end to all that the command started, others to the
    /// command alone.
    pub(crate) fn forward(&self, signal: Signal) {
        match signal {
            // On a terminal the command is in the same group, and gets these from the terminal.
            Signal::SIGINT | Signal::SIGQUIT if !self.leads => {}
            Signal::SIGINT | Signal::SIGQUIT | Signal::SIGTERM => self.signal_all(signal),
            // A command that has ended needs no signal. Its end is noticed elsewhere.
            signal => drop(self.process.signal(signal)),
        }
    }

    /// Ends the command and all that it started: with SIGTERM first, after `grace` with SIGKILL.
    /// Returns when nothing is left: the command's exit code, or 128 plus the signal that ended it;
    /// and the last signal that asked `exec` to end meanwhile.
    pub(crate) async fn end(mut self, grace: Duration, signals: &mut Signals) -> anyhow::Result<(u8, Option<Signal>)> {
        let mut asked = None;
        // Nothing is left of most commands that have ended.
        if self.code.is_none() {
            self.ask();
        }
        let late = Instant::now() + grace;
        loop {
            tokio::select! {
                () = self.until_nothing_is_left() => break,
                () = sleep_until(late) => {
                    self.kill_all().await;
                    break;
                }
                signal = signals.ends() => {
                    asked = Some(signal);
                    self.forward(signal);
                }
            }
        }
        let killed = 128 + Signal::SIGKILL as u8;
        Ok((self.code.unwrap_or(killed), asked))
    }

    /// Waits until the command and all that it started have ended. Dropping the future loses
    /// nothing.
    async fn until_nothing_is_left(&mut self) {
        if self.code.is_none() {
            self.code = self.child.wait().await.ok().map(code_of);
        }
        let (mut pause, mut empty) = (LOOK, 0);
        while empty < 2 {
            reap_adopted(self.process.identity.pid);
            empty = if self.left().is_empty() { empty + 1 } else { 0 };
            if empty == 0 && !self.asked {
                self.ask();
            }
            sleep(pause).await;
            pause = if empty == 0 { (pause * 2).min(LATER_LOOK) } else { LOOK };
        }
    }

    /// Kills until nothing is left, but not for ever: a process may start others faster than they
    /// can be killed, or wait for a broken disk.
    async fn kill_all(&mut self) {
        let since = Instant::now();
        let killing = async {
            loop {
                self.signal_all(Signal::SIGKILL);
                tokio::select! {
                    () = self.until_nothing_is_left() => return,
                    () = sleep(LATER_LOOK) => {}
                }
            }
        };
        if tokio::time::timeout(END_WITHIN, killing).await.is_err() {
            note(format_args!("not everything that the command started has ended after {:?}", since.elapsed()));
        }
    }

    /// Asks all of it to end, once: what is started in answer to that is meant to end by itself.
    fn ask(&mut self) {
        self.asked = true;
        self.signal_all(Signal::SIGTERM);
    }

    fn left(&self) -> BTreeSet<Descendant> {
        self.family.of(self.process.identity.pid)
    }

    fn signal_all(&self, signal: Signal) {
        let own = self.process.identity.pid;
        // The number belongs to the group until the command is reaped. All of a group get a signal
        // in one step, even while it starts processes.
        let group = self.leads && self.code.is_none();
        if group {
            let _ = killpg(Pid::from_raw(own), signal);
        }
        let rest = self.left().into_iter().filter(|one| !group || one.group != own);
        rest.for_each(|one| one.signal(signal));
    }
}

/// Ends once the process takes SIGHUP, which would end it otherwise. Never ends if the process
/// does.
async fn until_it_can_be_told(process: &Process, relaying: &Relaying) {
    let mut noted = false;
    let waiting = |reason: String, pause| {
        // At the first looks, a program that starts another one is no reason yet.
        if pause > FIRST_LOOK * 2 {
            relaying.waits(&reason);
        }
        if pause == LONGEST_LOOK && !noted {
            noted = true;
            note(format_args!("the command is not told of a change: {reason}; or use --on-change restart"));
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
