//! The processes below this one: all that a command has started, wherever it moved.
//!
//! This process adopts those that lose their parent ([`adopt`]), so that none of them gets away,
//! not even into another session. It also adopts what others start and leave: a helper that ran
//! before, and, as the first process of a container, everything in it. A [`Family`] tells them
//! apart.

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

use crate::process::{handle::Process, stat::Stat};

/// The variable by which the processes of a command are known. A command within a command has the
/// marks of both.
const MARKS: &str = "CONF_EXEC";

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

/// What tells the processes of a command from others below this one.
///
/// A process that this one has adopted is the command's if nobody else can have left it: nothing
/// ran below this process before the command, and it is not the first process of a container.
/// Otherwise it is the command's if it is in the command's process group, or has the command's mark
/// in its environment.
#[derive(Clone, Debug)]
pub(crate) struct Family {
    /// What ran below this process before the command.
    others: BTreeSet<Descendant>,
    mark: String,
}

impl Family {
    /// Must be called before the command starts.
    pub(crate) fn new() -> Self {
        let mut family = Family { others: BTreeSet::new(), mark: format!("{:016x}", rand::random::<u64>()) };
        // Whatever runs now is another's.
        family.others = family.below(|_| true);
        family
    }

    /// Returns the variable of the environment that marks the command and all that it starts.
    pub(crate) fn variable(&self) -> (&'static str, String) {
        let outer = std::env::var(MARKS).unwrap_or_default();
        (MARKS, format!("{outer} {}", self.mark).trim_start().to_owned())
    }

    /// Lists the processes of the command, itself included.
    ///
    /// A process that loses its parent at this moment may be missing: only two empty answers in a
    /// row say that there is none.
    pub(crate) fn of(&self, command: i32) -> BTreeSet<Descendant> {
        let is_alone = self.others.is_empty() && std::process::id() != 1;
        self.below(|child| is_alone || child.pid == command || child.group == command || self.has_marked(child.pid))
    }

    /// Lists the `wanted` children of this process, and all below them.
    fn below(&self, wanted: impl Fn(&Descendant) -> bool) -> BTreeSet<Descendant> {
        let mut by_parent: BTreeMap<i32, Vec<(Descendant, bool)>> = BTreeMap::new();
        let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
        for pid in numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
            if let Ok(stat) = Stat::read(pid) {
                let found = Descendant { pid, start: stat.start, group: stat.group };
                by_parent.entry(stat.parent).or_default().push((found, stat.has_ended()));
            }
        }
        let me = std::process::id().cast_signed();
        let (mut all, mut parents) = (BTreeSet::new(), vec![me]);
        while let Some(parent) = parents.pop() {
            for (found, has_ended) in by_parent.remove(&parent).into_iter().flatten() {
                let is_other = self.others.iter().any(|one| (one.pid, one.start) == (found.pid, found.start));
                if is_other || parent == me && !wanted(&found) {
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

    /// True if the process was started with the command's mark.
    fn has_marked(&self, pid: i32) -> bool {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mut marks = environment.split(|byte| *byte == 0).filter_map(|one| {
            let one = one.strip_prefix(MARKS.as_bytes())?.strip_prefix(b"=")?;
            std::str::from_utf8(one).ok()
        });
        marks.any(|marks| marks.split(' ').any(|mark| mark == self.mark))
    }
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
