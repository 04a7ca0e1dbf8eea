//! Runs a watcher's command: in a process group of its own, for a limited time, keeping a little of what it prints.

use std::{
    ffi::OsStr,
    io,
    path::Path,
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

/// A reload that takes longer hangs, and the newest change waits behind it.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Between the request to end and the end by force.
const GRACE: Duration = Duration::from_secs(2);

/// What is kept of the output: enough for a message. The rest is read and dropped, so that the command never blocks.
const KEPT_BYTES: usize = 4096;

/// One environment string may have 128 KiB; with more components than that the command gets `*`.
const COMPONENTS_BYTES: usize = 96 << 10;

/// What a command is told.
pub(crate) struct Occasion<'a> {
    pub(crate) sequence: Sequence,
    /// The snapshot's own folder.
    pub(crate) export: &'a Path,
    pub(crate) components: &'a [ComponentVersion],
}

/// How a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("cannot start {program:?}")]
    Start { program: String, source: io::Error },
    #[error("the command ended with {status}{}", said(.output))]
    Failed { status: ExitStatus, output: String },
    #[error("the command was ended after {} s{}", .limit.as_secs(), said(.output))]
    TooLong { limit: Duration, output: String },
    #[error("the command was ended since the agent stops")]
    Stopped,
    #[error("cannot wait for the command")]
    Wait { source: io::Error },
}

fn said(output: &str) -> String {
    if output.is_empty() { String::new() } else { format!("; its last words: {output}") }
}

/// Runs the command to its end.
///
/// - Errors: it could not start, did not succeed, or took longer than `limit` and was ended with its whole group.
/// - Cancel: `stop` ends it as `limit` does.
pub(crate) async fn run(
    words: &[String],
    occasion: &Occasion<'_>,
    limit: Duration,
    stop: &CancellationToken,
) -> Result<(), CommandError> {
    let Some((program, arguments)) = words.split_first() else { return Ok(()) };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true).current_dir("/");
    // Tokens of the agent, and its line to systemd, are not the command's.
    let private = |name: &OsStr| {
        let name = name.to_string_lossy();
        name.starts_with("CONSUL_") || name.starts_with("CONF_") || name == "NOTIFY_SOCKET"
    };
    std::env::vars_os().map(|(name, _)| name).filter(|name| private(name)).for_each(|name| {
        command.env_remove(name);
    });
    command.env("CONF_EXPORT", occasion.export).env("CONF_SEQUENCE", occasion.sequence.to_string());
    command.env("CONF_COMPONENTS", list(occasion.components));

    let start = |source| CommandError::Start { program: program.clone(), source };
    let mut child = command.spawn().map_err(start)?;
    let stdout = child.stdout.take().ok_or_else(|| start(io::Error::other("no standard output")))?;
    let stderr = child.stderr.take().ok_or_else(|| start(io::Error::other("no standard error")))?;
    let (mut said_out, mut said_err) = (Vec::new(), Vec::new());
    let ended = {
        let reading = async { tokio::join!(keep_last(stdout, &mut said_out), keep_last(stderr, &mut said_err)) };
        tokio::pin!(reading);
        let ended = tokio::select! {
            ended = finish(&mut child, &mut reading) => Some(ended),
            () = tokio::time::sleep(limit) => None,
            () = stop.cancelled() => None,
        };
        if ended.is_none() {
            end(&mut child).await;
        }
        ended
    };
    let output = last_words(&said_err, &said_out);
    match ended {
        Some(Ok(status)) if status.success() => Ok(()),
        Some(Ok(status)) => Err(CommandError::Failed { status, output }),
        Some(Err(source)) => Err(CommandError::Wait { source }),
        None if stop.is_cancelled() => Err(CommandError::Stopped),
        None => Err(CommandError::TooLong { limit, output }),
    }
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
async fn end(child: &mut Child) {
    // The number is the group's as long as the child was not waited for.
    let Some(group) = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw) else { return };
    let _ = killpg(group, Signal::SIGTERM);
    // Waiting would free the number; while it is not, what is left of the group can be killed under it.
    let deadline = tokio::time::Instant::now() + GRACE;
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

/// The last line that says something, at most 200 characters of it.
fn last_words(stderr: &[u8], stdout: &[u8]) -> String {
    let of = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let line = text.lines().rev().find(|line| !line.trim().is_empty())?.trim().to_owned();
        Some(line.chars().filter(|one| !one.is_control()).take(200).collect::<String>())
    };
    of(stderr).or_else(|| of(stdout)).unwrap_or_default()
}

fn list(components: &[ComponentVersion]) -> String {
    let list = components.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    if list.len() > COMPONENTS_BYTES { "*".to_owned() } else { list }
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
