//! The ledger's journal: which commit was the ledger when, one line for each change. It is Git's
//! reflog of `refs/conf/ledger`, which this program writes itself. It finds the way back when the
//! ledger's newest commits are lost: they alone name the commits before them.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use conf_core::git::{self, Durability};
use git2::Repository;
use libconf::name::{CommitId, RefName, Sequence};

use crate::store::ledger::LedgerEntry;

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

/// Adds the entries after `old` up to `new`. Durable with the next sync of the file system.
pub(crate) fn append(repo: &Repository, old: Option<CommitId>, new: CommitId) -> anyhow::Result<()> {
    let (mut lines, mut next) = (Vec::new(), Some(new));
    while let Some(commit) = next.filter(|commit| Some(*commit) != old && lines.len() < MOST_ENTRIES) {
        let LedgerEntry { sequence, time, .. } = LedgerEntry::read(repo, commit)?;
        next = repo.find_commit(commit.into())?.parent_id(0).ok().map(CommitId::from);
        let before = next.unwrap_or(CommitId::ZERO);
        lines.push(format!("{before} {commit} conf-master <conf-master> {time} +0000\t#{sequence}\n"));
    }
    lines.reverse();
    let path = path(repo.path());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    if fs::metadata(&path).is_ok_and(|found| found.len() > MOST_BYTES) {
        let text = fs::read_to_string(&path)?;
        let half = text[text.len() / 2..].split_once('\n').map_or("", |(_, half)| half);
        git::replace_file(&path, half.as_bytes(), 0o644, Durability::Content).context("cannot shorten it")?;
    }
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    Ok(file.write_all(lines.concat().as_bytes())?)
}

/// Reads the journal, the newest line first. A line that cannot be read is left out.
pub(crate) fn read(repo: &Path) -> Vec<JournalLine> {
    let text = fs::read(path(repo)).unwrap_or_default();
    let line = |line: &str| {
        let (ids, sequence) = line.split_once("\t#")?;
        let commit = ids.split(' ').nth(1)?.parse().ok()?;
        Some(JournalLine { commit, sequence: sequence.parse().ok()? })
    };
    String::from_utf8_lossy(&text).lines().rev().filter_map(line).collect()
}
