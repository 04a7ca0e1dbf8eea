//! Writes commit objects of conf-master's own.

use std::fmt::Write as _;

use conf_core::git::ObjectStore;
use git2::{ObjectType, Oid};
use libconf::name::CommitId;

/// Writes a commit by conf-master at `time`, in seconds since 1970. Moves no ref.
pub(crate) fn write(
    store: &impl ObjectStore,
    tree: Oid,
    parents: impl IntoIterator<Item = CommitId>,
    time: i64,
    message: &str,
) -> Result<CommitId, git2::Error> {
    let mut text = format!("tree {tree}\n");
    for parent in parents {
        let _ = writeln!(text, "parent {parent}");
    }
    let who = format!("conf-master <conf-master> {time} +0000");
    let _ = write!(text, "author {who}\ncommitter {who}\n\n{message}");
    let commit = store.repo().odb()?.write(ObjectType::Commit, text.as_bytes())?;
    store.keep(commit);
    Ok(commit.into())
}
