//! The ledger's journal: which commit was the ledger when, one line for each change. It is Git's
//! reflog of `refs/conf/ledger`, which this program writes itself. It finds the way back when the
//! ledger's newest commits are lost: they alone name the commits before them.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use conf_core::git::{self, Durability};
use git2::Repository;
use libconf::name::{CommitId, RefName, Sequence};

use crate::store::ledger::{LedgerEntry, previous};

/// The size in bytes at which the older half goes: about ten thousand lines, which are more changes
/// than anybody goes back by hand.
const MOST_BYTES: u64 = 2 << 20;
/// The most entries that are added at once: more than one landing makes.
const MOST_ENTRIES: usize = 1000;

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JournalLine {
    /// The ledger after the change.
    pub(crate) commit: CommitId,
    /// The change.
    pub(crate) sequence: Sequence,
}

/// Returns the journal's path.
fn path(repo: &Path) -> PathBuf {
    repo.join("logs").join(RefName::Ledger.to_string())
}

/// Adds what is missing up to `ledger`: all of it where an older conf-master kept no journal, and
/// what a crash kept out.
pub(crate) fn catch_up(repo: &Repository, ledger: CommitId) -> anyhow::Result<()> {
    match read(repo.path())?.first() {
        Some(newest) if newest.commit == ledger => Ok(()),
        newest => append(repo, newest.map(|line| line.commit), ledger),
    }
}

/// Adds the entries after `old` up to `new`. Durable with the next sync of the file system.
pub(crate) fn append(repo: &Repository, old: Option<CommitId>, new: CommitId) -> anyhow::Result<()> {
    let (mut lines, mut next) = (Vec::new(), Some(new));
    while let Some(commit) = next.filter(|commit| Some(*commit) != old && lines.len() < MOST_ENTRIES) {
        let LedgerEntry { sequence, time, .. } = LedgerEntry::read(repo, commit)?;
        next = previous(repo, commit)?;
        let before = next.unwrap_or(CommitId::ZERO);
        lines.push(format!("{before} {commit} conf-master <conf-master> {time} +0000\t#{sequence}\n"));
    }
    lines.reverse();
    let path = path(repo.path());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    if fs::metadata(&path).is_ok_and(|found| found.len() > MOST_BYTES) {
        let bytes = fs::read(&path)?;
        let half = &bytes[bytes.len() / 2..];
        let lines = half.iter().position(|byte| *byte == b'\n').map_or(&[][..], |end| &half[end + 1..]);
        git::replace_file(&path, lines, 0o644, Durability::Content).context("cannot shorten it")?;
    }
    let mut file = OpenOptions::new().create(true).append(true).read(true).open(&path)?;
    // A line that a full disk cut short ends here.
    let mut last = [b'\n'];
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    let begin = if last == *b"\n" { "" } else { "\n" };
    Ok(file.write_all((begin.to_owned() + &lines.concat()).as_bytes())?)
}

/// Reads the journal, the newest line first; none is empty. A line that is damaged is left out.
pub(crate) fn read(repo: &Path) -> io::Result<Vec<JournalLine>> {
    Ok(text(repo)?.lines().rev().filter_map(line).collect())
}

/// Returns the change that landed last; `None` when that is not known, or when somebody has moved
/// the ledger since: Git writes a line of its own then.
pub(crate) fn newest(repo: &Path) -> io::Result<Option<CommitId>> {
    Ok(text(repo)?.lines().last().and_then(line).map(|line| line.commit))
}

fn text(repo: &Path) -> io::Result<String> {
    match fs::read(path(repo)) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(String::new())
        }
        text => Ok(String::from_utf8_lossy(&text?).into_owned()),
    }
}

/// Reads a line; `None` is one of others, or damaged.
fn line(text: &str) -> Option<JournalLine> {
    let (ids, sequence) = text.split_once("\t#")?;
    let commit = ids.split(' ').nth(1)?.parse().ok()?;
    Some(JournalLine { commit, sequence: sequence.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{init, open};

    #[test]
    fn a_journal_of_garbage_stops_nothing_and_is_shortened() {
        let folder = tempfile::tempdir().unwrap();
        let repo = folder.path().join("central.git");
        init(&repo).unwrap();
        let known = read(&repo).unwrap();
        assert_eq!(known.len(), 1);
        // No byte of it begins a line, and half of it is within a letter.
        let garbage = "\u{e4}\u{20ac}".repeat(1 << 19) + "\u{20ac}";
        fs::write(path(&repo), [garbage.as_bytes(), b"\xff"].concat()).unwrap();
        append(&open(&repo).unwrap(), None, known[0].commit).unwrap();
        assert_eq!(read(&repo).unwrap(), known, "the line after a cut one is whole");
        assert!(fs::metadata(path(&repo)).unwrap().len() < MOST_BYTES);
        fs::remove_file(path(&repo)).unwrap();
        assert_eq!(read(&repo).unwrap(), []);
        catch_up(&open(&repo).unwrap(), known[0].commit).unwrap();
        catch_up(&open(&repo).unwrap(), known[0].commit).unwrap();
        assert_eq!(read(&repo).unwrap(), known);
        fs::remove_file(path(&repo)).unwrap();
        fs::create_dir(path(&repo)).unwrap();
        assert!(read(&repo).is_err(), "what cannot be read is not empty");
    }
}
