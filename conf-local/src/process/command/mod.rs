//! Runs a command that this host's own configuration names: that of a watcher, a check or a probe.
//! It gets a process group of its own and a time limit, and the end of its output is kept.

use std::{
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use conf_core::{address::hide_logins, daemon::chain, suspect::CommandWords};
use libconf::name::{ComponentVersion, Sequence};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::process::{guardian, run_as::RunAs};

/// 60 s: a reload that takes longer hangs, and the newest change waits behind it.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(60);

/// 2 s between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);
/// The same for a guardian, which needs its own time to end everything.
pub(crate) const GRACE_OF_GUARDIAN: Duration = guardian::END_WITHIN.saturating_add(GRACE);

/// 4 KiB of each output are kept, enough for a message. The rest is read and dropped, so that the
/// command never blocks.
const KEPT_BYTES: usize = 4096;

/// 96 KiB: Linux allows 128 KiB for one environment string. With more components than fit, the
/// command gets `*`.
const COMPONENTS_BYTES: usize = 96 << 10;

/// A command, and how to run it.
pub(crate) struct Invocation<'a> {
    /// The program and its arguments; there is no shell between.
    pub(crate) words: &'a CommandWords,
    /// The folder that it starts in.
    pub(crate) folder: &'a Path,
    /// Variables of its environment, in addition to those of the agent.
    pub(crate) variables: Variables,
    pub(crate) limit: Duration,
    pub(crate) children: Children,
    /// The user that it runs as, where its children end too; without one, the agent's.
    pub(crate) user: Option<&'a RunAs>,
    pub(crate) output: Visibility,
}

/// Names and values for a command's environment.
pub(crate) type Variables = Vec<(&'static str, OsString)>;

/// Who may see the output of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Visibility {
    /// Every user of this host, and every reader of its reports.
    #[default]
    Everybody,
    /// Nobody: the command reads files that may hold secrets, and may quote them.
    Nobody,
}

/// What happens to the processes that a command has started when the command has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Children {
    /// They go on: a reload may start a process that is meant to stay.
    Stay,
    /// They end too, wherever they moved: see [`guardian`].
    End,
}

/// Returns the variables that describe a change; `export` is the snapshot's own folder.
pub(crate) fn variables_of_change(sequence: Sequence, export: &Path, components: &[ComponentVersion]) -> Variables {
    let list = components.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let list = if list.len() > COMPONENTS_BYTES { "*".to_owned() } else { list };
    vec![
        ("CONF_EXPORT", export.into()),
        ("CONF_SEQUENCE", sequence.to_string().into()),
        ("CONF_COMPONENTS", list.into()),
    ]
}

/// The end of what a command printed: at most [`KEPT_BYTES`] of standard output, and of standard
/// error.
#[derive(Debug, Default)]
pub(crate) struct Output {
    out: Vec<u8>,
    err: Vec<u8>,
    visibility: Visibility,
}

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("cannot start {program:?}")]
    Start { program: CommandWords, source: io::Error },
    #[error("the command ended with {status}{}", .output.last_words())]
    Failed { status: ExitStatus, output: Output },
    #[error("the command was ended after {} s{}", .limit.as_secs(), .output.last_words())]
    TooLong { limit: Duration, output: Output },
    #[error("the command was ended because the agent stops")]
    Stopped,
    #[error("cannot wait for the command")]
    Wait { source: io::Error },
}

impl CommandError {
    /// Describes the error with all of the output that was kept.
    pub(crate) fn describe(&self) -> String {
        match self {
            CommandError::Failed { status, output } => {
                format!("it ended with {status}: {}", output.text()).trim_end_matches(": ").to_owned()
            }
            CommandError::TooLong { limit, output } => {
                let seconds = limit.as_secs_f64();
                format!("it was ended after {seconds} s: {}", output.text()).trim_end_matches(": ").to_owned()
            }
            error => chain(error),
        }
    }
}

/// Runs the command to its end.
///
/// - Errors: it could not start, did not succeed, or took longer than its limit, when it was ended
///   with its whole process group.
/// - Cancel: `stop` ends it as the limit does.
pub(crate) async fn run(invocation: Invocation<'_>, stop: &CancellationToken) -> Result<(), CommandError> {
    let Invocation { words, folder, variables, limit, children, user, output: visibility } = invocation;
    let Some((program, arguments)) = words.words().split_first() else { return Ok(()) };
    let mut command = match children {
        Children::Stay => Command::new(program),
        Children::End => Command::from(guarded(program, user)),
    };
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true).current_dir(folder);
    // The command must not get the agent's tokens, nor its connection to systemd.
    let private = |name: &OsStr| {
        let name = name.to_string_lossy();
        name.starts_with("CONSUL_") || name.starts_with("CONF_") || name == "NOTIFY_SOCKET"
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| private(name)) {
        command.env_remove(name);
    }
    command.envs(variables);

    let start = |source| CommandError::Start { program: program.as_str().into(), source };
    let mut child = command.spawn().map_err(start)?;
    let stdout = child.stdout.take().ok_or_else(|| start(io::Error::other("no standard output")))?;
    let stderr = child.stderr.take().ok_or_else(|| start(io::Error::other("no standard error")))?;
    let mut output = Output { visibility, ..Output::default() };
    let ended = {
        let reading = async { tokio::join!(keep_last(stdout, &mut output.out), keep_last(stderr, &mut output.err)) };
        tokio::pin!(reading);
        let ended = tokio::select! {
            ended = finish(&mut child, &mut reading) => Some(ended),
            () = tokio::time::sleep(limit) => None,
            () = stop.cancelled() => None,
        };
        if ended.is_none() {
            end(&mut child, if children == Children::End { GRACE_OF_GUARDIAN } else { GRACE }).await;
        }
        ended
    };
    match ended {
        Some(Ok(status)) if status.success() => Ok(()),
        Some(Ok(status)) => Err(CommandError::Failed { status, output }),
        Some(Err(source)) => Err(CommandError::Wait { source }),
        None if stop.is_cancelled() => Err(CommandError::Stopped),
        None => Err(CommandError::TooLong { limit, output }),
    }
}

/// Returns a command that runs a program below a [`guardian`]: nothing that it starts survives it,
/// nor SIGTERM to the guardian. `GRACE_OF_GUARDIAN` later the guardian has done what it can.
pub(crate) fn guarded(program: &str, user: Option<&RunAs>) -> std::process::Command {
    let mut guarded = std::process::Command::new(own_program());
    guarded.args(guardian::arguments(user)).arg(program);
    guarded
}

/// Returns the program of this process, even if another one has been installed over it since. In a
/// test, the workspace's programs are one folder above the test's own.
fn own_program() -> PathBuf {
    if cfg!(test) {
        let test = std::env::current_exe().unwrap_or_default();
        return test.ancestors().nth(2).unwrap_or(Path::new("/")).join("conf-local");
    }
    PathBuf::from("/proc/self/exe")
}

/// Waits for the end while reading the output. A child that stays may hold the output open: its end
/// is not awaited.
async fn finish(child: &mut Child, reading: &mut (impl Future<Output = ((), ())> + Unpin)) -> io::Result<ExitStatus> {
    let status = tokio::select! {
        status = child.wait() => status,
        _ = &mut *reading => return child.wait().await,
    };
    let _ = timeout(Duration::from_millis(100), reading).await;
    status
}

/// Ends the whole process group: with SIGTERM first, after `grace` with SIGKILL.
async fn end(child: &mut Child, grace: Duration) {
    // The number belongs to the group until the child is reaped.
    let Some(group) = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw) else { return };
    let _ = killpg(group, Signal::SIGTERM);
    // Reaping the child would free the number, and then the rest of the group could not be killed.
    let deadline = tokio::time::Instant::now() + grace;
    while tokio::time::Instant::now() < deadline && !ended_unreaped(group) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let _ = killpg(group, Signal::SIGKILL);
    let _ = child.wait().await;
}

/// True once the process has ended, without reaping it.
fn ended_unreaped(pid: Pid) -> bool {
    use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    !matches!(waitid(Id::Pid(pid), flags), Ok(WaitStatus::StillAlive))
}

/// Reads to the end and keeps the last [`KEPT_BYTES`].
async fn keep_last(mut from: impl AsyncRead + Unpin, kept: &mut Vec<u8>) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..length]);
        kept.drain(..kept.len().saturating_sub(KEPT_BYTES));
    }
}

/// The text in place of an output that nobody may see.
const WITHHELD: &str = "its output is not shown, since the component reads secrets; run it by hand";

/// A message quotes 200 characters of one line, or 2,000 of all lines.
const LINE: usize = 200;
const LINES: usize = 2000;

impl Output {
    /// Quotes the last line that is not empty, for a message.
    fn last_words(&self) -> String {
        if self.visibility == Visibility::Nobody {
            return format!("; {WITHHELD}");
        }
        let last = |bytes: &[u8]| Some(lines(bytes).last()?.chars().take(LINE).collect::<String>());
        last(&self.err).or_else(|| last(&self.out)).map_or_else(String::new, |line| format!("; its last words: {line}"))
    }

    /// Returns the last [`LINES`] characters of what was kept, its lines joined by `; `.
    fn text(&self) -> String {
        if self.visibility == Visibility::Nobody {
            return WITHHELD.to_owned();
        }
        let all: Vec<String> = lines(&self.out).into_iter().chain(lines(&self.err)).collect();
        let all = all.join("; ");
        let skipped = all.chars().count().saturating_sub(LINES);
        all.chars().skip(skipped).collect()
    }
}

/// Returns the lines that are not empty, without control characters and the logins of addresses.
fn lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let plain = |line: &str| hide_logins(&line.trim().chars().filter(|one| !one.is_control()).collect::<String>());
    text.lines().map(plain).filter(|line| !line.is_empty()).collect()
}

#[cfg(test)]
mod tests;
