//! The processes below this one: all that a command has started, wherever it moved.
//!
//! This process adopts those that lose their parent ([`adopt`]), so that none of them gets away,
//! not even into another session.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use nix::{
    errno::Errno,
    sys::{
        signal::Signal,
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::Pid,
};

use crate::process::handle::Process;

/// A process below this one that has not ended. No other one has both its number and its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Descendant {
    pub(crate) pid: i32,
    start: u64,
    /// The number of its process group.
    pub(crate) group: i32,
}

impl Descendant {
    /// Sends a signal. One that has ended needs none.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Ok(process) = Process::open(self.pid, Some(self.start), None) {
            let _ = process.signal(signal);
        }
    }
}

/// Has this process adopt every process below it that loses its parent.
pub(crate) fn adopt() -> std::io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Lists the processes below this one, except `others` and those below them.
///
/// A process that loses its parent at this moment may be missing: only two empty answers in a row
/// say that there is none.
pub(crate) fn descendants(others: &BTreeSet<Descendant>) -> BTreeSet<Descendant> {
    let mut by_parent: BTreeMap<i32, Vec<(Descendant, bool)>> = BTreeMap::new();
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        if let Some((parent, found, has_ended)) = read(pid) {
            by_parent.entry(parent).or_default().push((found, has_ended));
        }
    }
    let mut all = BTreeSet::new();
    let mut parents = vec![std::process::id().cast_signed()];
    while let Some(parent) = parents.pop() {
        for (found, has_ended) in by_parent.remove(&parent).into_iter().flatten() {
            if others.iter().any(|one| (one.pid, one.start) == (found.pid, found.start)) {
                continue;
            }
            parents.push(found.pid);
            if !has_ended {
                all.insert(found);
            }
        }
    }
    all
}

/// Reads a process, its parent, and whether it has ended and was not reaped.
fn read(pid: i32) -> Option<(i32, Descendant, bool)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold spaces and brackets; field 3 follows the last of them.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let number = |at: usize| fields.get(at - 3)?.parse::<i32>().ok();
    let start = fields.get(22 - 3)?.parse().ok()?;
    let has_ended = matches!(fields.first(), Some(&("Z" | "X" | "x")));
    Some((number(4)?, Descendant { pid, start, group: number(5)? }, has_ended))
}

/// Reaps adopted processes that have ended, but not the child `own`, whose status somebody awaits.
pub(crate) fn reap_adopted(own: i32) {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    loop {
        // This only looks.
        let ended = match waitid(Id::All, flags) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) if pid.as_raw() != own => pid,
            Err(Errno::EINTR) => continue,
            // The rest waits until `own` was reaped.
            _ => return,
        };
        if waitpid(Pid::from_raw(ended.as_raw()), Some(WaitPidFlag::WNOHANG)).is_err() {
            return;
        }
    }
}
