//! Runs a command that the host's own configuration names (a watcher's, a check, a probe): in a process group of its own, for
//! a limited time, keeping a little of what it prints.

use std::{
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

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

use crate::process::guardian;

/// A reload that takes longer hangs, and the newest change waits behind it.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Between the request to end and the end by force.
const GRACE: Duration = Duration::from_secs(2);
/// The same for a guardian, which needs its time to end everything.
const GRACE_OF_GUARDIAN: Duration = guardian::END_WITHIN.saturating_add(GRACE);

/// What is kept of the output: enough for a message. The rest is read and dropped, so that the command never blocks.
const KEPT_BYTES: usize = 4096;

/// One environment string may have 128 KiB; with more components than that the command gets `*`.
const COMPONENTS_BYTES: usize = 96 << 10;

/// What is run, and how.
pub(crate) struct Order<'a> {
    /// The program and its arguments; no shell stands between.
    pub(crate) words: &'a [String],
    /// Where it starts.
    pub(crate) folder: &'a Path,
    /// What it finds in its environment besides what the agent has.
    pub(crate) variables: Vec<(&'static str, OsString)>,
    /// How long it may take.
    pub(crate) limit: Duration,
    /// Whether what it started may outlive it.
    pub(crate) leaves: Leaves,
    /// Who may be shown what it says.
    pub(crate) words_for: WordsFor,
}

/// Who may be shown what a command says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum WordsFor {
    /// Everybody on this host, and who reads its reports.
    #[default]
    Everybody,
    /// Nobody: what it looks at may hold secrets, which it may quote, whole or in part.
    Nobody,
}

/// What becomes of the processes that a command has started, when it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaves {
    /// They go on: a reload may start what is to stay.
    Running,
    /// They end too, wherever they went: see [`guardian`].
    Nothing,
}

/// What a command is told of a change.
pub(crate) struct Occasion<'a> {
    pub(crate) sequence: Sequence,
    /// The snapshot's own folder.
    pub(crate) export: &'a Path,
    pub(crate) components: &'a [ComponentVersion],
}

impl Occasion<'_> {
    pub(crate) fn variables(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("CONF_EXPORT", self.export.into()),
            ("CONF_SEQUENCE", self.sequence.to_string().into()),
            ("CONF_COMPONENTS", list(self.components).into()),
        ]
    }
}

/// The end of what a command printed, at most [`KEPT_BYTES`] of each kind.
#[derive(Debug, Default)]
pub(crate) struct Output {
    out: Vec<u8>,
    err: Vec<u8>,
    words_for: WordsFor,
}

/// How a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("cannot start {program:?}")]
    Start { program: String, source: io::Error },
    #[error("the command ended with {status}{}", .output.said())]
    Failed { status: ExitStatus, output: Output },
    #[error("the command was ended after {} s{}", .limit.as_secs(), .output.said())]
    TooLong { limit: Duration, output: Output },
    #[error("the command was ended since the agent stops")]
    Stopped,
    #[error("cannot wait for the command")]
    Wait { source: io::Error },
}

/// Runs the command to its end.
///
/// - Errors: it could not start, did not succeed, or took longer than its limit and was ended with its whole group.
/// - Cancel: `stop` ends it as the limit does.
pub(crate) async fn run(order: Order<'_>, stop: &CancellationToken) -> Result<(), CommandError> {
    let Order { words, folder, variables, limit, leaves, words_for } = order;
    let Some((program, arguments)) = words.split_first() else { return Ok(()) };
    let mut command = match leaves {
        Leaves::Running => Command::new(program),
        Leaves::Nothing => {
            let mut guarded = Command::new(own_program());
            guarded.args(guardian::arguments()).arg(program);
            guarded
        }
    };
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true).current_dir(folder);
    // Tokens of the agent, and its line to systemd, are not the command's.
    let private = |name: &OsStr| {
        let name = name.to_string_lossy();
        name.starts_with("CONSUL_") || name.starts_with("CONF_") || name == "NOTIFY_SOCKET"
    };
    std::env::vars_os().map(|(name, _)| name).filter(|name| private(name)).for_each(|name| {
        command.env_remove(name);
    });
    command.envs(variables);

    let start = |source| CommandError::Start { program: program.clone(), source };
    let mut child = command.spawn().map_err(start)?;
    let stdout = child.stdout.take().ok_or_else(|| start(io::Error::other("no standard output")))?;
    let stderr = child.stderr.take().ok_or_else(|| start(io::Error::other("no standard error")))?;
    let mut output = Output { words_for, ..Output::default() };
    let ended = {
        let reading = async { tokio::join!(keep_last(stdout, &mut output.out), keep_last(stderr, &mut output.err)) };
        tokio::pin!(reading);
        let ended = tokio::select! {
            ended = finish(&mut child, &mut reading) => Some(ended),
            () = tokio::time::sleep(limit) => None,
            () = stop.cancelled() => None,
        };
        if ended.is_none() {
            end(&mut child, if leaves == Leaves::Nothing { GRACE_OF_GUARDIAN } else { GRACE }).await;
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

/// The program of this process, also when another was installed over it since; a test's programs stand one folder above it.
fn own_program() -> PathBuf {
    if cfg!(test) {
        let test = std::env::current_exe().unwrap_or_default();
        return test.ancestors().nth(2).unwrap_or(Path::new("/")).join("conf-local");
    }
    PathBuf::from("/proc/self/exe")
}

/// Waits for the end while reading what it says. What it leaves running may hold its output open: that is not waited for.
async fn finish(child: &mut Child, reading: &mut (impl Future<Output = ((), ())> + Unpin)) -> io::Result<ExitStatus> {
    let status = tokio::select! {
        status = child.wait() => status,
        _ = &mut *reading => return child.wait().await,
    };
    let _ = timeout(Duration::from_millis(100), reading).await;
    status
}

/// Ends the whole group: asked first, by force after that.
async fn end(child: &mut Child, grace: Duration) {
    // The number is the group's as long as the child was not waited for.
    let Some(group) = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw) else { return };
    let _ = killpg(group, Signal::SIGTERM);
    // Waiting would free the number; while it is not, what is left of the group can be killed under it.
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

/// What stands in place of words that nobody is shown.
const WITHHELD: &str = "what it said is not shown, since the component reads secrets; run it by hand";

/// What a message quotes of a line, and of all lines.
const LINE: usize = 200;
const LINES: usize = 2000;

impl Output {
    /// For a message: the last line that says something.
    fn said(&self) -> String {
        if self.words_for == WordsFor::Nobody {
            return format!("; {WITHHELD}");
        }
        let last = |bytes: &[u8]| Some(lines(bytes).last()?.chars().take(LINE).collect::<String>());
        last(&self.err).or_else(|| last(&self.out)).map_or_else(String::new, |line| format!("; its last words: {line}"))
    }

    /// All that was kept, the newest [`LINES`] characters of it, one line after the other with `; ` between.
    pub(crate) fn text(&self) -> String {
        if self.words_for == WordsFor::Nobody {
            return WITHHELD.to_owned();
        }
        let all: Vec<String> = lines(&self.out).into_iter().chain(lines(&self.err)).collect();
        let all = all.join("; ");
        let skipped = all.chars().count().saturating_sub(LINES);
        all.chars().skip(skipped).collect()
    }
}

/// The lines that say something, without what would trouble a terminal.
fn lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let plain = |line: &str| line.trim().chars().filter(|one| !one.is_control()).collect::<String>();
    text.lines().map(plain).filter(|line| !line.is_empty()).collect()
}

fn list(components: &[ComponentVersion]) -> String {
    let list = components.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    if list.len() > COMPONENTS_BYTES { "*".to_owned() } else { list }
}

#[cfg(test)]
mod tests;
