//! A process that is to be signalled: held by a descriptor, so that a reused number never is.

use std::{
    fs,
    io::{self, Read},
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::sys::signal::Signal;
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};
use tokio::io::{Interest, unix::AsyncFd};

/// Which process, beyond its number: no two processes of a machine share all three.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    /// When it started, in clock ticks after the machine did (`/proc/<pid>/stat`, field 22).
    pub(crate) start: u64,
    /// Which start of the machine (`/proc/sys/kernel/random/boot_id`).
    pub(crate) boot: String,
}

/// The kernel tells times in /proc in hundredths of a second, whatever it counts in.
const TICK_MS: u64 = 10;

/// A running process, verified and held.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) identity: Identity,
    pub(crate) pidfd: Arc<OwnedFd>,
}

/// Why a process cannot be held or signalled.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The first process of the machine.
    #[error("process 1 is never signalled; give the process of the job itself")]
    Init,
    /// Not a number that a process can have.
    #[error("{0} is not the number of a process")]
    BadNumber(i32),
    /// None has this number, or it has ended.
    #[error("there is no process {0}")]
    Gone(i32),
    /// The number was given to another process since.
    #[error("process {0} is another one than was meant: it started later")]
    Another(i32),
    /// It belongs to somebody else, in one of its user ids at least.
    #[error("process {pid} belongs to another user than {uid}; only root may name processes of others")]
    Foreign {
        /// The process.
        pid: i32,
        /// Who named it.
        uid: u32,
    },
    /// The system does not say, or not to the agent's user.
    #[error("cannot look at process {pid}")]
    Look {
        /// The process.
        pid: i32,
        /// What the system said.
        source: io::Error,
    },
}

impl ProcessError {
    /// True when the caller may not name this process.
    pub(crate) fn is_foreign(&self) -> bool {
        matches!(self, ProcessError::Init | ProcessError::Foreign { .. })
    }
}

/// What a signal would do to a process now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// It has a handler.
    Handled,
    /// All its threads hold the signal back, as those do that wait for it with sigwait or a signalfd. A program that is
    /// just starting another one does so too, for a moment: two looks tell them apart.
    HeldBack,
    /// It ignores the signal.
    Ignored,
    /// The signal would end it.
    Deadly,
}

impl Process {
    /// Takes hold of a process. With `start`, only of the one that started then; with `owner`, only of one whose every
    /// user id is that.
    pub(crate) fn open(pid: i32, start: Option<u64>, owner: Option<u32>) -> Result<Self, ProcessError> {
        if pid == 1 {
            return Err(ProcessError::Init);
        }
        let number = number(pid)?;
        let pidfd = pidfd_open(number, PidfdFlags::NONBLOCK).map_err(|error| match error {
            // A number of a thread that is not a process gives EINVAL, or ENOENT on later kernels.
            rustix::io::Errno::SRCH | rustix::io::Errno::INVAL | rustix::io::Errno::NOENT => ProcessError::Gone(pid),
            error => ProcessError::Look { pid, source: error.into() },
        })?;
        let started = started(pid)?;
        let identity = Identity { pid, start: started, boot: boot().to_owned() };
        let process = Process { identity, pidfd: Arc::new(pidfd) };
        if let Some(owner) = owner {
            process.check_owner(owner)?;
        }
        // What was read in /proc was of the held process only if that is still there: its number was then not free.
        if process.has_ended() {
            return Err(ProcessError::Gone(pid));
        }
        match start {
            Some(start) if start != started => Err(ProcessError::Another(pid)),
            _ => Ok(process),
        }
    }

    /// Takes hold of a child of this process that was not waited for: its number cannot be another's.
    pub(crate) fn hold(pid: i32) -> Result<Self, ProcessError> {
        let number = number(pid)?;
        let pidfd = pidfd_open(number, PidfdFlags::NONBLOCK);
        let pidfd = pidfd.map_err(|error| ProcessError::Look { pid, source: error.into() })?;
        let identity = Identity { pid, start: started(pid)?, boot: boot().to_owned() };
        Ok(Process { identity, pidfd: Arc::new(pidfd) })
    }

    /// Takes hold of the same process again, after a restart of the agent.
    pub(crate) fn reopen(identity: &Identity, owner: Option<u32>) -> Result<Self, ProcessError> {
        if identity.boot != boot() {
            return Err(ProcessError::Gone(identity.pid));
        }
        Self::open(identity.pid, Some(identity.start), owner)
    }

    /// True once it has ended, reaped or not.
    pub(crate) fn has_ended(&self) -> bool {
        let mut polled = [PollFd::new(&*self.pidfd, PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        // An error of poll itself says nothing about the process; its end will be seen at the next look.
        matches!(poll(&mut polled, Some(&now)), Ok(1..))
    }

    /// Readable once it has ended. Wants a runtime.
    #[expect(deprecated, reason = "the new name wants `unsafe` for what an owned descriptor keeps by its type")]
    pub(crate) fn until_end(&self) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
        AsyncFd::with_interest(Arc::clone(&self.pidfd), Interest::READABLE)
    }

    /// What `signal` would do to it now.
    pub(crate) fn readiness(&self, signal: Signal) -> Result<Readiness, ProcessError> {
        let pid = self.identity.pid;
        let status = Status::read(&PathBuf::from(format!("/proc/{pid}/status")));
        let status = status.map_err(|source| self.look(source))?;
        let bit = 1_u64 << (signal as i32 - 1);
        let readiness = match status {
            Status { caught, .. } if caught & bit != 0 => Readiness::Handled,
            Status { blocked, .. } if blocked & bit != 0 && self.every_thread_blocks(bit) => Readiness::HeldBack,
            Status { ignored, .. } if ignored & bit != 0 => Readiness::Ignored,
            _ => Readiness::Deadly,
        };
        if self.has_ended() { Err(ProcessError::Gone(pid)) } else { Ok(readiness) }
    }

    /// Sends `signal`.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        let named = rustix::process::Signal::from_named_raw(signal as i32).ok_or_else(|| {
            self.look(io::Error::new(io::ErrorKind::InvalidInput, format!("{signal} cannot be sent to a process")))
        })?;
        pidfd_send_signal(&*self.pidfd, named).map_err(|error| match error {
            rustix::io::Errno::SRCH => ProcessError::Gone(self.identity.pid),
            error => self.look(error.into()),
        })
    }

    /// Refuses a process that has, in any of its ids, another user than `owner`: one that runs a set-user-ID program
    /// does root's work.
    pub(crate) fn check_owner(&self, owner: u32) -> Result<(), ProcessError> {
        let pid = self.identity.pid;
        let status = Status::read(&PathBuf::from(format!("/proc/{pid}/status"))).map_err(|source| self.look(source))?;
        if status.users.iter().all(|user| *user == owner) {
            return Ok(());
        }
        Err(ProcessError::Foreign { pid, uid: owner })
    }

    /// When it started, as the machine's clock now tells it.
    pub(crate) fn started_at(&self) -> Option<SystemTime> {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        let boot: u64 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        Some(UNIX_EPOCH + Duration::from_secs(boot) + Duration::from_millis(self.identity.start * TICK_MS))
    }

    /// The name of its program, for people; what a process calls itself proves nothing.
    pub(crate) fn name(&self) -> String {
        let name = fs::read_to_string(format!("/proc/{}/comm", self.identity.pid)).unwrap_or_default();
        name.trim_end().chars().map(|one| if one.is_control() { '?' } else { one }).collect()
    }

    fn every_thread_blocks(&self, bit: u64) -> bool {
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", self.identity.pid)) else { return false };
        // A thread that ended while we looked holds nothing back any more, and needs not.
        threads
            .flatten()
            .all(|thread| Status::read(&thread.path().join("status")).map_or(true, |status| status.blocked & bit != 0))
    }

    fn look(&self, source: io::Error) -> ProcessError {
        let pid = self.identity.pid;
        match source.kind() {
            io::ErrorKind::NotFound => ProcessError::Gone(pid),
            // Reading in /proc of a process that ended meanwhile.
            _ if source.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => ProcessError::Gone(pid),
            _ => ProcessError::Look { pid, source },
        }
    }
}

/// The process whose number stands in a file that the job itself keeps.
///
/// - Errors: no file, or no process of that number: [`ProcessError::Gone`]-like; the file is older than the process
///   (its number was given to another since), or belongs to a user who may not name it.
pub(crate) fn of_pidfile(path: &Path) -> Result<Process, PidfileError> {
    let unreadable = |source| PidfileError::Read { path: path.to_owned(), source };
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = file.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => PidfileError::Absent { path: path.to_owned() },
        _ => unreadable(error),
    })?;
    let found = file.metadata().map_err(unreadable)?;
    if !found.is_file() || found.mode() & 0o002 != 0 {
        return Err(PidfileError::Unsafe { path: path.to_owned() });
    }
    let mut text = String::new();
    // The longest number has seven digits.
    file.take(64).read_to_string(&mut text).map_err(unreadable)?;
    let pid = text.lines().next().unwrap_or_default().trim().parse();
    let pid = pid.map_err(|_| PidfileError::NoNumber { path: path.to_owned() })?;
    // Whoever wrote the file chooses whom root signals: only one's own.
    let trusted = found.uid() == 0 || found.uid() == rustix::process::geteuid().as_raw();
    let process = Process::open(pid, None, (!trusted).then_some(found.uid()));
    let process = process.map_err(|source| PidfileError::Process { path: path.to_owned(), source })?;
    let written = found.modified().map_err(unreadable)?;
    // A job writes the file after it started. The clocks differ by a tick, and the machine's clock may be set a little.
    let slack = Duration::from_secs(5);
    match process.started_at() {
        Some(started) if started > written + slack => Err(PidfileError::Stale { path: path.to_owned(), pid }),
        _ => Ok(process),
    }
}

/// Why a pidfile names nobody.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PidfileError {
    #[error("{} is not there: the job does not run, or writes its number elsewhere", .path.display())]
    Absent { path: PathBuf },
    #[error("{} names a process that the job left behind: {pid} started after the file was written", .path.display())]
    Stale { path: PathBuf, pid: i32 },
    #[error("{} holds no number", .path.display())]
    NoNumber { path: PathBuf },
    #[error("{} is no ordinary file, or everybody may write to it; only its job may", .path.display())]
    Unsafe { path: PathBuf },
    #[error("{} names a process that cannot be told", .path.display())]
    Process { path: PathBuf, source: ProcessError },
    #[error("cannot read {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
}

impl PidfileError {
    /// True when the job does not run, which may change by itself.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(
            self,
            PidfileError::Absent { .. }
                | PidfileError::Stale { .. }
                | PidfileError::NoNumber { .. }
                | PidfileError::Process { source: ProcessError::Gone(_), .. }
        )
    }
}

/// The library takes no negative ones, and Linux gives none.
fn number(pid: i32) -> Result<Pid, ProcessError> {
    Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw).ok_or(ProcessError::BadNumber(pid))
}

/// When `pid` started, in clock ticks after the machine did.
pub(crate) fn started(pid: i32) -> Result<u64, ProcessError> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ProcessError::Gone(pid),
        _ => ProcessError::Look { pid, source },
    })?;
    // The name in brackets may hold spaces and brackets; field 3 follows the last of them.
    let start = text.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(22 - 3)?.parse().ok());
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "its start time cannot be read");
    start.ok_or_else(|| ProcessError::Look { pid, source: bad() })
}

/// Which start of the machine this is.
pub(crate) fn boot() -> &'static str {
    static BOOT: LazyLock<String> = LazyLock::new(|| {
        fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| String::new(), |id| id.trim().to_owned())
    });
    &BOOT
}

/// What is read of `/proc/<pid>/status`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Status {
    /// Real, effective, saved and file system user.
    users: [u32; 4],
    blocked: u64,
    ignored: u64,
    caught: u64,
}

impl Status {
    fn read(path: &Path) -> io::Result<Self> {
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "its status cannot be read");
        Self::parse(&fs::read_to_string(path)?).ok_or_else(bad)
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let mask = |name: &str| u64::from_str_radix(field(name)?.trim(), 16).ok();
        let mut users = [0; 4];
        let mut found = field("Uid")?.split_whitespace();
        for user in &mut users {
            *user = found.next()?.parse().ok()?;
        }
        Some(Status { users, blocked: mask("SigBlk")?, ignored: mask("SigIgn")?, caught: mask("SigCgt")? })
    }
}

#[cfg(test)]
mod tests;
