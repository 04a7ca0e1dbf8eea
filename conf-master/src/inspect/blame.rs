//! Which commit changed lines of a file last. Git walks the history itself, because it uses the
//! index of the history.

use std::collections::{BTreeSet, HashMap};
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use anyhow::Context as _;
use conf_core::git;
use git2::Repository;
use libconf::name::CommitId;

/// The most lines of one file that are looked up.
const MOST_LINES: usize = 500;

/// A commit, and who made it when.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// The commit.
    pub(crate) commit: CommitId,
    /// Its author.
    pub(crate) author: String,
    /// The author's time, RFC 3339.
    pub(crate) date: String,
}

impl Change {
    fn read(repo: &Repository, commit: CommitId) -> anyhow::Result<Self> {
        let found = repo.find_commit(commit.into())?;
        let author = found.author();
        let offset =
            jiff::tz::Offset::from_seconds(author.when().offset_minutes() * 60).unwrap_or(jiff::tz::Offset::UTC);
        let time = jiff::Timestamp::from_second(author.when().seconds()).unwrap_or_default();
        let date = time.display_with_offset(offset).to_string();
        Ok(Change { commit, author: String::from_utf8_lossy(author.name_bytes()).into_owned(), date })
    }
}

/// Finds the commit that changed each of these lines last, at or before `commit`; `None` when that
/// is not known by the deadline, or there are too many lines.
pub(crate) fn lines(
    repo: &Repository,
    commit: CommitId,
    file: &str,
    lines: &BTreeSet<usize>,
    deadline: Instant,
) -> anyhow::Result<Option<HashMap<usize, Change>>> {
    if lines.is_empty() || lines.len() > MOST_LINES {
        return Ok(None);
    }
    let mut blame = git::command(repo.path());
    blame.args(["blame", "--porcelain"]).args(lines.iter().map(|line| format!("-L{line},{line}")));
    blame.arg(commit.to_string()).arg("--").arg(file);
    let Some(text) = output(blame, deadline)? else { return Ok(None) };
    let (mut commits, mut found) = (HashMap::<CommitId, Change>::new(), HashMap::new());
    // `<commit> <line there> <line here> …`; what belongs to it follows, and a tab begins content.
    for header in text.lines().filter(|line| !line.starts_with('\t')) {
        let mut words = header.split(' ');
        let (Some(Ok(id)), line) = (words.next().map(str::parse::<CommitId>), words.nth(1)) else { continue };
        let Some(line) = line.and_then(|line| line.parse().ok()) else { continue };
        let change = match commits.get(&id) {
            Some(known) => known.clone(),
            None => commits.entry(id).or_insert(Change::read(repo, id)?).clone(),
        };
        found.insert(line, change);
    }
    Ok(Some(found))
}

/// Finds the commit that changed a file last, at or before `commit`; `None` when that is not known
/// by the deadline.
pub(crate) fn file(
    repo: &Repository,
    commit: CommitId,
    file: &str,
    deadline: Instant,
) -> anyhow::Result<Option<Change>> {
    let mut log = git::command(repo.path());
    log.args(["--literal-pathspecs", "log", "-1", "--format=%H", "--end-of-options"]);
    log.arg(commit.to_string()).arg("--").arg(file);
    let Some(text) = output(log, deadline)? else { return Ok(None) };
    text.trim().parse().ok().map(|commit| Change::read(repo, commit)).transpose()
}

/// Runs a Git program; `None` when it has not ended by the deadline.
fn output(mut command: Command, deadline: Instant) -> anyhow::Result<Option<String>> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run git")?;
    let (mut stdout, mut stderr) = (child.stdout.take().context("no pipe")?, child.stderr.take().context("no pipe")?);
    let (sender, read) = mpsc::channel();
    let text = std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut text, mut words) = (Vec::new(), String::new());
            let done = stdout.read_to_end(&mut text).and_then(|_| stderr.read_to_string(&mut words));
            let _ = sender.send(done.map(|_| (text, words)));
        });
        let text = read.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        // The thread ends with the program.
        let killed = if text.is_err() { child.kill() } else { Ok(()) };
        killed.map(|()| text)
    })?;
    let status = child.wait()?;
    let Ok(text) = text else { return Ok(None) };
    let (text, words) = text?;
    anyhow::ensure!(status.success(), "git: {}", words.trim());
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}
