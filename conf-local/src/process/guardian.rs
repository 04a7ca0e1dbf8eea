//! A process between the agent and a command that it lets run only for a while: however far what the command started has gone from
//! it (other sessions, other groups), all of it ends with the command, at its time limit, and when the agent dies.
//!
//! The agent starts its own program once more, as `conf-local guard-command AGENT PROGRAM …`, `AGENT` being the agent's number. That
//! one adopts whatever loses its parent below it, so that it can end it. It waits for its signals with these blocked, which the
//! command would inherit: so that is started as `conf-local unblocked-command PROGRAM …`, which unblocks them and becomes it.

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

/// The first word of its command line.
const GUARD: &str = "guard-command";
/// That of what becomes the command.
const UNBLOCKED: &str = "unblocked-command";

/// Something that starts others faster than they can be ended is left after this: the agent must go on.
pub(crate) const END_WITHIN: Duration = Duration::from_secs(5);

/// What stands before a command in the arguments of the agent's own program, for it to be guarded.
pub(crate) fn arguments() -> [String; 2] {
    [GUARD.to_owned(), std::process::id().to_string()]
}

/// Guards a command, if that is what this process was started for. To be called first in `main`, before any thread or flag.
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
            eprintln!("cannot start {}: {error}", words.first().map(|word| word.to_string_lossy()).unwrap_or_default());
            ExitCode::from(127)
        }
    })
}

/// As a shell has it: of one that was killed, 128 and the signal.
fn code(status: ExitStatus) -> ExitCode {
    let number = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(number).unwrap_or(u8::MAX))
}

fn guard(agent: Option<&OsStr>, words: &[OsString]) -> io::Result<ExitStatus> {
    // Both are waited for.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    // An agent that died before that sends nothing any more.
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
    // Those that start others are caught at the next look.
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

/// Comes back only when the command cannot be started.
fn become_command(words: &[OsString]) -> io::Error {
    let Some((program, arguments)) = words.split_first() else { return io::ErrorKind::InvalidInput.into() };
    match SigSet::empty().thread_set_mask() {
        Ok(()) => Command::new(program).args(arguments).exec(),
        Err(error) => error.into(),
    }
}

/// Takes note of all that ended; how the command did, if it was among them.
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

/// The processes whose parent this one is, by birth or by adoption.
fn children() -> Vec<Pid> {
    let me = std::process::id().to_string();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_mine = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let rest = stat.rsplit(") ").next().unwrap_or_default();
        rest.split(' ').nth(1) == Some(me.as_str())
    };
    pids.filter(is_mine).map(Pid::from_raw).collect()
}
