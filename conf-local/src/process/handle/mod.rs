//! A process that the agent signals. It is held by a descriptor, so that no other process that gets
//! its number later is ever signalled.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::FileExt as _},
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use conf_core::{
    daemon::{self, chain},
    settings::one_line,
};
use nix::sys::signal::Signal;
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::sleep,
};

use crate::{fs::read_proc, process::stat::Stat};

/// Identifies a process beyond its number: no two processes of a machine share all three values.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct ProcessIdentity {
    pub(crate) pid: i32,
    /// The time of its start, in clock ticks after the machine started (`/proc/<pid>/stat`, field
    /// 22).
    pub(crate) start: u64,
    /// The start of the machine (`/proc/sys/kernel/random/boot_id`).
    pub(crate) boot: String,
}

/// 10 ms: the kernel shows times in /proc in hundredths of a second, whatever its own tick is.
const TICK_MS: u64 = 10;

/// 20 ms between the first two looks at a process that must not be signalled yet, doubling up to 5
/// s.
pub(crate) const FIRST_LOOK: Duration = Duration::from_millis(20);
pub(crate) const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// 10 looks in a row, 100 ms apart: a process that blocks a signal for so long means to take it.
/// The C library blocks all signals while it starts another program, which takes longer than a
/// moment if that has to be read from a slow disk.
const BLOCKED_LOOKS: u32 = 10;
const BLOCKED_LOOK: Duration = Duration::from_millis(100);

/// A running process that was verified, held by its descriptor.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) identity: ProcessIdentity,
    pub(crate) pidfd: Arc<OwnedFd>,
}

/// Why a process cannot be held or signalled.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It is the first process of the machine.
    #[error("process 1 is never signalled; give the process of the job itself")]
    Init,
    /// No process can have this number.
    #[error("{0} is not the number of a process")]
    BadNumber(i32),
    /// No process has this number, or it has ended.
    #[error("there is no process {0}")]
    Gone(i32),
    /// Another process has this number now.
    #[error("process {0} is not the one that was named: it started later")]
    Another(i32),
    /// One of its user ids, at least, is another user's.
    #[error("process {pid} belongs to another user than {uid}; only root may name processes of others")]
    Foreign {
        /// The process.
        pid: i32,
        /// The user who named it.
        uid: u32,
    },
    /// The system does not answer, or not to the agent's user.
    #[error("cannot inspect process {pid}")]
    Inspect {
        /// The process.
        pid: i32,
        /// The system's error.
        source: io::Error,
    },
}

impl ProcessError {
    /// True if the caller may not name this process.
    pub(crate) fn is_foreign(&self) -> bool {
        matches!(self, ProcessError::Init | ProcessError::Foreign { .. })
    }
}

/// The effect that a signal would have on a process now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    /// It has a handler.
    Handled,
    /// Each of its threads blocks the signal, as with a signalfd, or waits for it in sigwait. A
    /// program that is just starting another one blocks signals too, for a while: further looks
    /// tell them apart.
    Blocked,
    /// It ignores the signal.
    Ignored,
    /// The signal would end the process.
    Deadly,
}

impl Process {
    /// Takes hold of a process. With `start`, it must have started then; with `owner`, all its user
    /// ids must be that user's.
    pub(crate) fn open(pid: i32, start: Option<u64>, owner: Option<u32>) -> Result<Self, ProcessError> {
        if pid == 1 {
            return Err(ProcessError::Init);
        }
        let number = number(pid)?;
        let pidfd = pidfd_open(number, PidfdFlags::NONBLOCK).map_err(|error| match error {
            // The number of a thread that is no process gives EINVAL, or ENOENT on later kernels.
            rustix::io::Errno::SRCH | rustix::io::Errno::INVAL | rustix::io::Errno::NOENT => ProcessError::Gone(pid),
            error => ProcessError::Inspect { pid, source: error.into() },
        })?;
        let started = start_time(pid)?;
        let identity = ProcessIdentity { pid, start: started, boot: boot().to_owned() };
        let process = Process { identity, pidfd: Arc::new(pidfd) };
        if let Some(owner) = owner {
            process.check_owner(owner)?;
        }
        // What /proc said is about the held process only if that still runs: then its number was
        // never free.
        if process.has_ended() {
            return Err(ProcessError::Gone(pid));
        }
        match start {
            Some(start) if start != started => Err(ProcessError::Another(pid)),
            _ => Ok(process),
        }
    }

    /// Takes hold of a child of this process that was not reaped: no other process can have its
    /// number.
    pub(crate) fn hold(pid: i32) -> Result<Self, ProcessError> {
        let number = number(pid)?;
        let pidfd = pidfd_open(number, PidfdFlags::NONBLOCK);
        let pidfd = pidfd.map_err(|error| ProcessError::Inspect { pid, source: error.into() })?;
        let identity = ProcessIdentity { pid, start: start_time(pid)?, boot: boot().to_owned() };
        Ok(Process { identity, pidfd: Arc::new(pidfd) })
    }

    /// Takes hold of the same process again after a restart of the agent.
    pub(crate) fn reopen(identity: &ProcessIdentity, owner: Option<u32>) -> Result<Self, ProcessError> {
        if identity.boot != boot() {
            return Err(ProcessError::Gone(identity.pid));
        }
        Self::open(identity.pid, Some(identity.start), owner)
    }

    /// True once the process has ended, reaped or not.
    pub(crate) fn has_ended(&self) -> bool {
        let mut polled = [PollFd::new(&*self.pidfd, PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        // An error of poll itself says nothing about the process, whose end the next call will see.
        matches!(poll(&mut polled, Some(&now)), Ok(1..))
    }

    /// Returns a descriptor that is readable once the process has ended. Must be called in a
    /// runtime.
    #[expect(deprecated, reason = "the new function is unsafe, for a condition that an owned descriptor always meets")]
    pub(crate) fn until_end(&self) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
        AsyncFd::with_interest(Arc::clone(&self.pidfd), Interest::READABLE)
    }

    /// Returns the effect that `signal` would have now.
    fn readiness(&self, signal: Signal) -> Result<Readiness, ProcessError> {
        let pid = self.identity.pid;
        let status = Status::read(&PathBuf::from(format!("/proc/{pid}/status")));
        let status = status.map_err(|source| self.cannot_inspect(source))?;
        let bit = 1_u64 << (signal as i32 - 1);
        let readiness = match status {
            Status { caught, .. } if caught & bit != 0 => Readiness::Handled,
            // A blocked signal is kept even if it is ignored, since sigwait takes it.
            _ if self.every_thread_takes(bit) => Readiness::Blocked,
            Status { ignored, .. } if ignored & bit != 0 => Readiness::Ignored,
            _ => Readiness::Deadly,
        };
        if self.has_ended() { Err(ProcessError::Gone(pid)) } else { Ok(readiness) }
    }

    /// Waits until `signal` would not end the process. `owner` is as for [`Process::open`]. Calls
    /// `waiting` with the reason before each pause, and with the length that pauses have grown to.
    ///
    /// Errors: [`ProcessError::Gone`] alone; any other error may pass.
    pub(crate) async fn until_ready(
        &self,
        signal: Signal,
        owner: Option<u32>,
        mut waiting: impl FnMut(String, Duration),
    ) -> Result<(), ProcessError> {
        let (mut pause, mut blocked, pid) = (FIRST_LOOK, 0, self.identity.pid);
        loop {
            let process = self.clone();
            let look = move || {
                let checked = owner.map_or(Ok(()), |owner| process.check_owner(owner));
                checked.and_then(|()| process.readiness(signal))
            };
            // Its memory may lie behind a file system that never answers: that keeps nobody else.
            let mut looking = daemon::blocking(look);
            let readiness = tokio::select! {
                looked = &mut looking => looked,
                () = sleep(LONGEST_LOOK) => {
                    waiting(format!("process {pid} cannot be inspected: the system does not answer"), pause);
                    looking.await
                }
            };
            blocked = if matches!(readiness, Ok(Readiness::Blocked)) { blocked + 1 } else { 0 };
            let reason = match readiness {
                Ok(Readiness::Handled) => return Ok(()),
                Ok(Readiness::Blocked) if blocked > BLOCKED_LOOKS => return Ok(()),
                Ok(Readiness::Blocked) => {
                    format!("process {pid} blocks {signal}; it is told once it has done so for a second")
                }
                Ok(Readiness::Ignored) => format!(
                    "process {pid} ignores {signal}, so that the signal would be of no use; let it handle {signal}, or name another signal"
                ),
                Ok(Readiness::Deadly) => {
                    format!("process {pid} has no handler for {signal} yet; without one the signal would end it")
                }
                Err(ProcessError::Gone(_)) => return Err(ProcessError::Gone(pid)),
                Err(error) => chain(&error),
            };
            waiting(reason, pause);
            if blocked > 0 {
                sleep(BLOCKED_LOOK).await;
            } else {
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_LOOK);
            }
        }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        let named = rustix::process::Signal::from_named_raw(signal as i32).ok_or_else(|| {
            self.cannot_inspect(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{signal} cannot be sent to a process"),
            ))
        })?;
        pidfd_send_signal(&*self.pidfd, named).map_err(|error| match error {
            rustix::io::Errno::SRCH => ProcessError::Gone(self.identity.pid),
            error => self.cannot_inspect(error.into()),
        })
    }

    /// Refuses a process if any of its user ids is not `owner`: a process that runs a set-user-ID
    /// program works for root.
    fn check_owner(&self, owner: u32) -> Result<(), ProcessError> {
        let pid = self.identity.pid;
        let status = Status::read(&PathBuf::from(format!("/proc/{pid}/status")))
            .map_err(|source| self.cannot_inspect(source))?;
        if status.users.iter().all(|user| *user == owner) {
            return Ok(());
        }
        Err(ProcessError::Foreign { pid, uid: owner })
    }

    /// Returns the time of its start by the machine's clock as it is set now.
    pub(crate) fn started_at(&self) -> Option<SystemTime> {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        let boot: u64 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        Some(UNIX_EPOCH + Duration::from_secs(boot) + Duration::from_millis(self.identity.start * TICK_MS))
    }

    /// Returns the name of its program, for people: a process can give itself any name.
    pub(crate) fn name(&self) -> String {
        let name = fs::read_to_string(format!("/proc/{}/comm", self.identity.pid)).unwrap_or_default();
        one_line(name.trim_end())
    }

    /// True if each thread blocks the signal or waits for it. One thread that does neither would
    /// end the process.
    fn every_thread_takes(&self, bit: u64) -> bool {
        let pid = self.identity.pid;
        let Ok(mut threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
        threads.all(|thread| {
            let Ok(thread) = thread.map(|thread| thread.path()) else { return false };
            blocks(Status::read(&thread.join("status")), bit)
                || waited_for(pid, &thread).is_some_and(|waited_for| waited_for & bit != 0)
        })
    }

    fn cannot_inspect(&self, source: io::Error) -> ProcessError {
        let pid = self.identity.pid;
        match source.kind() {
            io::ErrorKind::NotFound => ProcessError::Gone(pid),
            // The process ended while its files in /proc were read.
            _ if source.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => ProcessError::Gone(pid),
            _ => ProcessError::Inspect { pid, source },
        }
    }
}

/// True if a thread with this status does not let the signal through. One that ended meanwhile
/// takes nothing; of one that cannot be inspected, nobody knows.
fn blocks(status: io::Result<Status>, bit: u64) -> bool {
    match status {
        Ok(status) => status.blocked & bit != 0,
        Err(error) => {
            error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
        }
    }
}

/// Returns the signals that a thread waits for in sigwait, sigwaitinfo or sigtimedwait. While it
/// waits, the system does not show them as blocked. `None` if it does not wait, or may not be
/// inspected.
fn waited_for(pid: i32, thread: &Path) -> Option<u64> {
    let set = || {
        let call = fs::read_to_string(thread.join("syscall")).ok()?;
        let mut words = call.split_whitespace();
        let number: i64 = words.next()?.parse().ok()?;
        let set = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
        (number == nix::libc::SYS_rt_sigtimedwait).then_some(set)
    };
    let address = set()?;
    let mut mask = [0; 8];
    fs::File::open(format!("/proc/{pid}/mem")).ok()?.read_exact_at(&mut mask, address).ok()?;
    // It waited for these all the time.
    (set() == Some(address)).then_some(u64::from_ne_bytes(mask))
}

/// Converts a process number: `Pid` must be positive, and Linux gives no other.
fn number(pid: i32) -> Result<Pid, ProcessError> {
    Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw).ok_or(ProcessError::BadNumber(pid))
}

/// Returns the time at which `pid` started, in clock ticks after the machine started.
pub(crate) fn start_time(pid: i32) -> Result<u64, ProcessError> {
    Stat::read(pid).map(|stat| stat.start).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ProcessError::Gone(pid),
        _ => ProcessError::Inspect { pid, source },
    })
}

/// Identifies this start of the machine.
pub(crate) fn boot() -> &'static str {
    static BOOT: LazyLock<String> = LazyLock::new(|| {
        fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| String::new(), |id| id.trim().to_owned())
    });
    &BOOT
}

/// The members of `/proc/<pid>/status` that matter here.
#[derive(Debug, Default, PartialEq, Eq)]
struct Status {
    /// The real, effective, saved and file system user.
    users: [u32; 4],
    blocked: u64,
    ignored: u64,
    caught: u64,
}

impl Status {
    fn read(path: &Path) -> io::Result<Self> {
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "its status cannot be read");
        Self::parse(&read_proc(path)?).ok_or_else(bad)
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
pub(crate) mod tests;
