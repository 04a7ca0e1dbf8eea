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

/// The most lines of one file that are looked up one by one; of more, the whole file is.
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
/// is not known by the deadline.
pub(crate) fn lines(
    repo: &Repository,
    commit: CommitId,
    file: &str,
    lines: &BTreeSet<usize>,
    deadline: Instant,
) -> anyhow::Result<Option<HashMap<usize, Change>>> {
    if lines.is_empty() {
        return Ok(None);
    }
    let mut blame = git::command(repo.path());
    blame.args(["blame", "--porcelain"]);
    if lines.len() <= MOST_LINES {
        blame.args(lines.iter().map(|line| format!("-L{line},{line}")));
    }
    blame.arg(commit.to_string()).arg("--").arg(file);
    let Some(text) = output(blame, deadline)? else { return Ok(None) };
    let (mut commits, mut found) = (HashMap::<CommitId, Change>::new(), HashMap::new());
    // `<commit> <line there> <line here> …`; what belongs to it follows, and a tab begins content.
    for header in text.lines().filter(|line| !line.starts_with('\t')) {
        let mut words = header.split(' ');
        let (Some(Ok(id)), line) = (words.next().map(str::parse::<CommitId>), words.nth(1)) else { continue };
        let Some(line) = line.and_then(|line| line.parse().ok()).filter(|line| lines.contains(line)) else { continue };
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
    if deadline <= Instant::now() {
        return Ok(None);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn of_more_lines_than_are_looked_up_one_by_one_each_has_its_own_commit() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path()).unwrap();
        let commit = |who: &str, text: &str, parents: &[&git2::Commit<'_>]| {
            let mut tree = repo.treebuilder(None).unwrap();
            tree.insert("f", repo.blob(text.as_bytes()).unwrap(), 0o100_644).unwrap();
            let tree = repo.find_tree(tree.write().unwrap()).unwrap();
            let who = git2::Signature::new(who, who, &git2::Time::new(1, 0)).unwrap();
            repo.find_commit(repo.commit(None, &who, &who, "x", &tree, parents).unwrap()).unwrap()
        };
        let text = |third: usize| (1..=2 * MOST_LINES).map(move |line| if line == 3 { third } else { line });
        let text = |third: usize| text(third).map(|line| format!("{line}\n")).collect::<Vec<_>>().concat();
        let first = commit("Ann", &text(3), &[]);
        let tip = commit("Bob", &text(0), &[&first]).id().into();
        let later = Instant::now() + Duration::from_secs(60);
        for count in [MOST_LINES, MOST_LINES + 1] {
            let wanted: BTreeSet<usize> = (1..=count).collect();
            let found = lines(&repo, tip, "f", &wanted, later).unwrap().unwrap();
            assert_eq!(found.keys().copied().collect::<BTreeSet<_>>(), wanted);
            assert_eq!((&*found[&2].author, &*found[&3].author, &*found[&count].author), ("Ann", "Bob", "Ann"));
            assert!(lines(&repo, tip, "f", &wanted, Instant::now()).unwrap().is_none(), "there is no time");
        }
    }
}
