//! Git's own programs that fetch: bounded in time, memory and bytes, and ended with all that they
//! started. What one that failed has left is removed.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process_group, prlimit};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    sync::Mutex,
    time::timeout,
};

/// The longest time for one program: a first fetch brings the history of everything.
const DEADLINE: Duration = Duration::from_secs(1800);
/// 30 minutes of processor time, for each of the programs that one starts.
const PROCESSOR_SECONDS: u64 = 1800;
/// 8 GiB of memory, for each of them.
const MEMORY: u64 = 8 << 30;
/// 64 MiB of output: the names of half a million refs.
const MOST_OUTPUT: u64 = 64 << 20;
/// The time in which programs that were killed end.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Runs programs that write packs, one at a time: what is unfinished is then known to be nobody
/// else's.
#[derive(Debug)]
pub(crate) struct Programs {
    /// The most bytes of a pack.
    most_bytes: u64,
    writing: Mutex<()>,
}

impl Programs {
    /// Lets a fetch bring so many bytes.
    pub(crate) fn new(most_bytes: u64) -> Self {
        Programs { most_bytes, writing: Mutex::default() }
    }

    /// Runs a program that fetches into `repo`. An error is in words.
    ///
    /// Cancel: kills the program and what it has started.
    pub(crate) async fn fetch(&self, git: Command, input: String, repo: &Path) -> Result<Output, String> {
        let _alone = self.writing.lock().await;
        let before = unfinished(repo);
        let result = run(git, input, self.most_bytes).await;
        if result.is_err() {
            unfinished(repo).difference(&before).for_each(|file| drop(fs::remove_file(file)));
        }
        result
    }

    /// Keeps programs that fetch away, until the guard is dropped.
    pub(crate) async fn alone(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.writing.lock().await
    }
}

/// Lists the files that Git gives a name only when they are whole.
fn unfinished(repo: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(repo.join("objects/pack")).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("tmp_")).map(|entry| entry.path()).collect()
}

async fn run(mut git: Command, input: String, most_bytes: u64) -> Result<Output, String> {
    git.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // In a group of its own, so that it can be ended with what it starts.
    git.process_group(0).kill_on_drop(true);
    let failed = |error: io::Error| format!("cannot run git: {error}");
    let mut child = git.spawn().map_err(failed)?;
    let group = Group::of(&child)?;
    group.bound(most_bytes);
    let missing = || "git was started without a pipe".to_owned();
    let mut stdin = child.stdin.take().ok_or_else(missing)?;
    let (stdout, stderr) = (child.stdout.take().ok_or_else(missing)?, child.stderr.take().ok_or_else(missing)?);
    let feed = async move {
        // A git that ended early tells the reason by its exit code and its standard error.
        let _ = stdin.write_all(input.as_bytes()).await;
    };
    let all = async { tokio::join!(child.wait(), read(stdout), read(stderr), feed) };
    let Ok((status, stdout, stderr, ())) = timeout(DEADLINE, all).await else {
        group.end(&mut child).await;
        return Err("git took too long".to_owned());
    };
    let (status, stdout, stderr) = (status.map_err(failed)?, stdout.map_err(failed)?, stderr.map_err(failed)?);
    if stdout.len() as u64 > MOST_OUTPUT {
        return Err("git prints too much".to_owned());
    }
    if !status.success() {
        let words = String::from_utf8_lossy(&stderr);
        let last = words.lines().next_back().map(str::to_owned);
        return Err(last.unwrap_or_else(|| format!("git failed without a message ({status})")));
    }
    Ok(Output { status, stdout, stderr })
}

/// Reads to the end, or a bit more than may be: then the program finds nobody who reads.
async fn read(from: impl AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MOST_OUTPUT + 1).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// A program and what it has started. Dropping this kills them.
struct Group(Pid);

impl Group {
    fn of(child: &Child) -> Result<Self, String> {
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        pid.map(Group).ok_or_else(|| "git has ended at once".to_owned())
    }

    /// Bounds a program that has asked nobody yet, and what it will start.
    fn bound(&self, most_bytes: u64) {
        let limits = [(Resource::Fsize, most_bytes), (Resource::Data, MEMORY), (Resource::Cpu, PROCESSOR_SECONDS)];
        for (resource, most) in limits {
            let maximum = getrlimit(resource).maximum;
            let most = maximum.map_or(most, |maximum| maximum.min(most));
            if let Err(cause) = prlimit(Some(self.0), resource, Rlimit { current: Some(most), maximum }) {
                tracing::warn!(%cause, ?resource, "a Git program is not bounded");
            }
        }
    }

    async fn end(&self, child: &mut Child) {
        let _ = kill_process_group(self.0, Signal::KILL);
        let _ = timeout(END_WITHIN, child.wait()).await;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The number stays the group's while one of its programs runs.
        let _ = kill_process_group(self.0, Signal::KILL);
    }
}
