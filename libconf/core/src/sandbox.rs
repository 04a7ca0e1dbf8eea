//! This program once more, as a process that answers questions, one at a time: for work that a stranger's text may make
//! endless. One question and one answer a line, JSON both ways; before a question stand its seconds.
//!
//! It has no environment, bounds its own memory and, for each question, its own processor time to what the question says, and
//! ends when its input ends. Who asks does not wait for ever either. After either bound the process is gone; the next question starts another.

use std::{
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

/// What such a process may use.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Processor time for one question, in whole seconds.
    pub seconds: u64,
    /// How long the one who asks waits for an answer.
    pub patience: Duration,
    /// The longest answer, in bytes.
    pub answer: usize,
}

/// The running process.
#[derive(Debug)]
pub struct Worker {
    /// It was asked nothing yet.
    is_fresh: bool,
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// The question would take more than the bounds; asking again would not help.
    #[error("it takes more time or memory than there is")]
    TooMuch,
    /// There is no process to ask.
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
    /// Starts `program` with one argument, by which it calls [`serve`].
    pub fn start(program: &Path, argument: &str) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg(argument).env_clear().current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn()?;
        let lost = || io::Error::other("it was started without a pipe");
        let (input, output) = (child.stdin.take().ok_or_else(lost)?, child.stdout.take().ok_or_else(lost)?);
        Ok(Worker { is_fresh: true, child, input, output })
    }

    /// True for one that was asked nothing yet, and holds nothing of anybody's.
    pub fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// Asks the process in `slot`, which `start` starts where there is none: also where something ended it meanwhile, so that
    /// nobody's question is blamed for that.
    pub fn ask<Q: Serialize, A: DeserializeOwned>(
        slot: &mut Option<Worker>,
        start: impl FnOnce() -> io::Result<Worker>,
        bounds: Bounds,
        question: &Q,
    ) -> Result<A, NoAnswer> {
        let running =
            slot.take().and_then(|mut worker| worker.child.try_wait().is_ok_and(|end| end.is_none()).then_some(worker));
        let worker = running.map_or_else(start, Ok).map_err(NoAnswer::Failed)?;
        // What is asked may hold secrets.
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
        // It reads the whole line before it does anything, so this cannot wait for long.
        self.input.write_all(line)?;
        let (begun, mut answer) = (Instant::now(), Zeroizing::new(Vec::new()));
        let mut buffer = Zeroizing::new(vec![0; 64 << 10]);
        while answer.last() != Some(&b'\n') {
            let left = bounds.patience.checked_sub(begun.elapsed()).ok_or(io::ErrorKind::TimedOut)?;
            let wait = Timespec { tv_sec: left.as_secs().try_into().unwrap_or(0), tv_nsec: left.subsec_nanos().into() };
            let mut polled = [PollFd::new(&self.output, PollFlags::IN)];
            match poll(&mut polled, Some(&wait)) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(cause) => return Err(cause.into()),
            }
            match self.output.read(&mut buffer)? {
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

/// Is that process, with so many bytes of address space: answers questions until there are no more.
pub fn serve<Q: DeserializeOwned, A: Serialize>(memory: u64, mut answer: impl FnMut(Q) -> A) -> io::Result<()> {
    // What it is asked may be secret.
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
        // Who asks waits no longer; where that one is gone, the kernel ends what would run for ever.
        let (seconds, question) = line.split_once(' ').unwrap_or_default();
        let seconds: u64 = seconds.parse().map_err(io::Error::other)?;
        limit(Resource::Cpu, spent().as_secs() + seconds + 1);
        let mut answer = serde_json::to_vec(&answer(serde_json::from_str(question)?))?;
        answer.push(b'\n');
        output.write_all(&answer)?;
        output.flush()?;
    }
}

/// Lowers the soft limit; what may not be set stays as it is.
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
