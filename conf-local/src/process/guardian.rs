//! The guardian: a process between the agent and a command that has a time limit. All that the
//! command started ends with it, at the time limit, and when the agent dies, even if it moved to
//! another session or process group.
//!
//! The agent starts its own program once more, as `conf-local guard-command AGENT USER PROGRAM …`,
//! where `AGENT` is the agent's process number. The guardian adopts every process below it that
//! loses its parent, so that it can end it. It blocks its signals while it waits for them. The
//! command would inherit that, so it is started as `conf-local unblocked-command USER PROGRAM …`,
//! which unblocks the signals, becomes the user, if one is named, and then the command. The
//! guardian stays the agent's user, so that it can end what became another.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Command, ExitCode, ExitStatus},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::process::{run_as::RunAs, stat::Stat};

/// The first word of the guardian's command line.
const GUARD: &str = "guard-command";
/// The first word of the command line that becomes the command.
const UNBLOCKED: &str = "unblocked-command";

/// 5 s: the guardian gives up on a command that starts processes faster than it can end them, since
/// the agent must go on.
pub(crate) const END_WITHIN: Duration = Duration::from_secs(5);

/// The user of a command that keeps the agent's. No user has this name.
const SAME_USER: &str = "-";

/// Returns the arguments that precede a command when the agent starts a guardian for it. With a
/// user, the command runs as that one.
pub(crate) fn arguments(user: Option<&RunAs>) -> [String; 3] {
    let user = user.map_or_else(|| SAME_USER.to_owned(), ToString::to_string);
    [GUARD.to_owned(), std::process::id().to_string(), user]
}

/// Guards a command, if this process was started for that. `main` must call it first, before any
/// thread starts and any flag is read.
pub fn child() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next()?;
    let (words, done) = if first == GUARD {
        let agent = arguments.next();
        let words: Vec<OsString> = arguments.collect();
        let done = guard(agent.as_deref(), &words);
        (words, done)
    } else if first == UNBLOCKED {
        let words: Vec<OsString> = arguments.collect();
        let done = become_command(&words);
        (words, Err(done))
    } else {
        return None;
    };
    Some(match done {
        Ok(status) => code(status),
        Err(error) => {
            let program = words.get(1).map(|word| word.to_string_lossy()).unwrap_or_default();
            conf_core::terminal::note(format_args!("cannot start {program}: {error}"));
            ExitCode::from(127)
        }
    })
}

/// Returns the exit code that a shell gives: of a killed process, 128 plus the signal.
fn code(status: ExitStatus) -> ExitCode {
    let number = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(number).unwrap_or(u8::MAX))
}

fn guard(agent: Option<&OsStr>, words: &[OsString]) -> io::Result<ExitStatus> {
    // Both are awaited below.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    // If the agent died before the call above, no signal will come.
    if agent != Some(OsStr::new(&nix::unistd::getppid().to_string())) {
        return Err(io::Error::other("the agent has ended"));
    }
    let command = Command::new("/proc/self/exe").arg(UNBLOCKED).args(words).process_group(0).spawn()?;
    let command = Pid::from_raw(i32::try_from(command.id()).map_err(io::Error::other)?);
    let mut ended = None;
    while ended.is_none() {
        if signals.wait()? == Signal::SIGTERM {
            break;
        }
        ended = reap(command);
    }
    // A process that is started meanwhile is found in the next round.
    let since = Instant::now();
    while since.elapsed() < END_WITHIN {
        for pid in children() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        ended = reap(command).or(ended);
        if matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Err(Errno::ECHILD)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(ended.unwrap_or_else(|| ExitStatus::from_raw(Signal::SIGTERM as i32)))
}

/// Returns only if the command cannot be started.
fn become_command(words: &[OsString]) -> io::Error {
    let [user, program, arguments @ ..] = words else { return io::ErrorKind::InvalidInput.into() };
    let mut command = Command::new(program);
    command.args(arguments);
    if let Err(error) = SigSet::empty().thread_set_mask() {
        return error.into();
    }
    match become_user(user, &mut command) {
        Ok(()) => command.exec(),
        Err(error) => error,
    }
}

fn become_user(user: &OsStr, command: &mut Command) -> io::Result<()> {
    if user == SAME_USER {
        return Ok(());
    }
    let user = RunAs::try_from(user.to_string_lossy().into_owned()).map_err(io::Error::other)?;
    let account = user.account()?;
    account.become_in_process()?;
    command.envs(account.variables());
    Ok(())
}

/// Reaps every child that has ended. Returns the status of the command, if it is among them.
fn reap(command: Pid) -> Option<ExitStatus> {
    let mut ended = None;
    loop {
        let (pid, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, code << 8),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, signal as i32),
            _ => return ended,
        };
        if pid == command {
            ended = Some(ExitStatus::from_raw(status));
        }
    }
}

/// Lists the children of this process, adopted ones included.
fn children() -> Vec<Pid> {
    let me = std::process::id().cast_signed();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| Stat::read(*pid).is_ok_and(|stat| stat.parent == me)).map(Pid::from_raw).collect()
}
