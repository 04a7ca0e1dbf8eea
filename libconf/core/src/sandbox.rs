//! This program once more, as a process that answers one question at a time: for work on a
//! stranger's text that might never end. Each question and each answer is one line of JSON; the
//! seconds that the question may take stand before it.
//!
//! The process has no environment, and ends when its input ends. Before it reads anything it gives
//! up all privileges: as root it becomes `nobody`, and it has no capability. It bounds its own
//! memory and, for each question, its own processor time. The caller bounds how long it waits.
//! After either bound the process is gone, and the next question starts another.

use std::{
    fs,
    io::{self, BufRead, Read as _, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit},
};
use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::privileges::drop_all;

/// Bounds on one question.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Processor time for one question, in whole seconds.
    pub seconds: u64,
    /// How long the caller waits for an answer.
    pub patience: Duration,
    /// The longest answer, in bytes.
    pub answer: usize,
}

/// The running process.
#[derive(Debug)]
pub struct Worker {
    /// True until the first question.
    is_fresh: bool,
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// The question takes more than the bounds; asking again would not help.
    #[error("it takes more time or memory than there is")]
    TooMuch,
    /// No process could be started or asked.
    #[error("no process to work it out in")]
    Failed(#[source] io::Error),
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Worker {
    /// Starts `program` with one argument, by which its `main` knows that it must call [`serve`].
    pub fn start(program: &Path, argument: &str) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg(argument).env_clear().current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn()?;
        let lost = || io::Error::other("it was started without a pipe");
        let (input, output) = (child.stdin.take().ok_or_else(lost)?, child.stdout.take().ok_or_else(lost)?);
        Ok(Worker { is_fresh: true, child, input, output })
    }

    /// True for a process that was asked nothing yet, and so holds no secrets.
    pub fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// Asks the process in `slot`. `start` starts one when the slot is empty, or when its process
    /// has ended meanwhile: no question is blamed for an earlier end.
    pub fn ask<Q: Serialize, A: DeserializeOwned>(
        slot: &mut Option<Worker>,
        start: impl FnOnce() -> io::Result<Worker>,
        bounds: Bounds,
        question: &Q,
    ) -> Result<A, NoAnswer> {
        let running =
            slot.take().and_then(|mut worker| worker.child.try_wait().is_ok_and(|end| end.is_none()).then_some(worker));
        let worker = running.map_or_else(start, Ok).map_err(NoAnswer::Failed)?;
        // The question may hold secrets.
        let mut line = Zeroizing::new(format!("{} ", bounds.seconds).into_bytes());
        serde_json::to_writer(&mut *line, question).map_err(|cause| NoAnswer::Failed(cause.into()))?;
        line.push(b'\n');
        // An error leaves the process in no known state, so it is ended.
        let (answer, worker) = worker.converse(&line, bounds).map_err(|cause| match cause.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => NoAnswer::TooMuch,
            _ => NoAnswer::Failed(cause),
        })?;
        *slot = Some(worker);
        serde_json::from_slice(&answer).map_err(|cause| NoAnswer::Failed(cause.into()))
    }

    fn converse(mut self, line: &[u8], bounds: Bounds) -> io::Result<(Zeroizing<Vec<u8>>, Self)> {
        self.is_fresh = false;
        // The process reads a whole line before it works, so this cannot block for long.
        self.input.write_all(line)?;
        let deadline = Instant::now() + bounds.patience;
        let mut answer = Zeroizing::new(Vec::new());
        let mut buffer = Zeroizing::new(vec![0; 64 << 10]);
        while answer.last() != Some(&b'\n') {
            match read_part(&mut self.output, &mut buffer, deadline)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => answer.extend_from_slice(&buffer[..count]),
            }
            if answer.len() > bounds.answer {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok((answer, self))
    }
}

/// Reads the next bytes that a process writes; 0 at its end. After the deadline the error is
/// `TimedOut`.
fn read_part(output: &mut ChildStdout, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
    loop {
        let left = deadline.checked_duration_since(Instant::now()).ok_or(io::ErrorKind::TimedOut)?;
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&*output, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return output.read(buffer),
            Err(rustix::io::Errno::INTR) => {}
            Err(cause) => return Err(cause.into()),
        }
    }
}

/// Answers questions until the input ends, with `memory` bytes of address space.
pub fn serve<Q: DeserializeOwned, A: Serialize>(memory: u64, mut answer: impl FnMut(Q) -> A) -> io::Result<()> {
    close_inherited()?;
    drop_all()?;
    // Questions may hold secrets.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    limit(Resource::As, memory);
    limit(Resource::Core, 0);
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let mut line = String::new();
    loop {
        line.clear();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        // A caller that waits no longer ends this process. If the caller is gone, the kernel's
        // limit ends work that never ends.
        let (seconds, question) = line.split_once(' ').unwrap_or_default();
        let seconds: u64 = seconds.parse().map_err(io::Error::other)?;
        limit(Resource::Cpu, spent().as_secs() + seconds + 1);
        let mut answer = serde_json::to_vec(&answer(serde_json::from_str(question)?))?;
        answer.push(b'\n');
        output.write_all(&answer)?;
        output.flush()?;
    }
}

/// Closes what the daemon leaves open to its children, such as its lock, which a child could
/// unlock. Nothing of this process's own is open yet.
fn close_inherited() -> io::Result<()> {
    let open = fs::read_dir("/proc/self/fd")?.flatten();
    let numbers: Vec<i32> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // The folder itself is among them, and closed already.
        let _ = nix::unistd::close(number);
    }
    Ok(())
}

/// Lowers the soft limit of a resource. An error leaves the limit as it is.
fn limit(resource: Resource, most: u64) {
    let maximum = getrlimit(resource).maximum;
    let most = maximum.map_or(most, |maximum| most.min(maximum));
    let _ = setrlimit(resource, Rlimit { current: Some(most), maximum });
}

/// The processor time that this process has used.
pub(crate) fn spent() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}
