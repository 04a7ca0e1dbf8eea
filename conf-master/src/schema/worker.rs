//! The process that works schemas out, and the way to it: one question and one answer a line, JSON both ways.
//!
//! It ends when its input ends. It bounds its own memory and, for each question, its own processor time; who asks does not
//! wait longer than [`PATIENCE`] and ends it then. The next question starts another.

use std::{
    io::{self, BufRead, Read as _, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use libconf::name::ObjectId;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{BadSchema, Compiled, Found};

/// How long one question may take. Honest ones take milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// How much memory the process may have.
const MEMORY_BYTES: u64 = 1 << 30;
/// The first argument of the program by which it becomes this process.
pub const ARGUMENT: &str = "schema-worker";

/// Settings to hold against a schema.
#[derive(Debug, Serialize)]
pub(super) struct Question<'a> {
    pub(super) id: ObjectId,
    pub(super) schema: String,
    pub(super) settings: &'a [Value],
}

#[derive(Deserialize)]
struct Asked {
    id: ObjectId,
    schema: String,
    settings: Vec<Value>,
}

/// The running process.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks the process, which is started where there is none.
pub(super) fn ask(slot: &mut Option<Worker>, question: &Question<'_>) -> Found {
    let failed = |cause: io::Error| BadSchema::new(format!("conf-master could not check settings against it: {cause}"));
    let worker = match slot.take() {
        Some(worker) => worker,
        None => start().map_err(failed)?,
    };
    let (answer, worker) = converse(worker, question).map_err(|cause| match cause.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => endless(),
        _ => failed(cause),
    })?;
    *slot = Some(worker);
    serde_json::from_slice(&answer).map_err(|cause| failed(cause.into()))?
}

/// What is wrong with a schema over which the process was ended.
pub(super) fn endless() -> BadSchema {
    BadSchema::new(
        "checking settings against it took more time or memory than there is; is there a $ref that leads back to itself, or one \
         that doubles at each step?",
    )
}

fn start() -> io::Result<Worker> {
    // The program that runs, also when another has been put in its place meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command.arg(ARGUMENT).env_clear().current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::null()).spawn()?;
    let lost = || io::Error::other("it was started without a pipe");
    let (input, output) = (child.stdin.take().ok_or_else(lost)?, child.stdout.take().ok_or_else(lost)?);
    Ok(Worker { child, input, output })
}

/// One question, one answer. An error leaves the process in no known state, so it is ended.
fn converse(mut worker: Worker, question: &Question<'_>) -> io::Result<(Vec<u8>, Worker)> {
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    // It reads the whole line before it does anything, so this cannot wait for long.
    worker.input.write_all(&line)?;
    let (begun, mut answer, mut buffer) = (Instant::now(), Vec::new(), vec![0; 64 << 10]);
    while answer.last() != Some(&b'\n') {
        let left = PATIENCE.checked_sub(begun.elapsed()).ok_or(io::ErrorKind::TimedOut)?;
        let wait = Timespec { tv_sec: left.as_secs().try_into().unwrap_or(0), tv_nsec: left.subsec_nanos().into() };
        let mut polled = [PollFd::new(&worker.output, PollFlags::IN)];
        match poll(&mut polled, Some(&wait)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(cause) => return Err(cause.into()),
        }
        match worker.output.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => answer.extend_from_slice(&buffer[..count]),
        }
    }
    Ok((answer, worker))
}

/// Is that process: answers questions until there are no more.
pub fn run() -> io::Result<()> {
    limit(Resource::As, MEMORY_BYTES);
    limit(Resource::Core, 0);
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let mut compiled = Compiled::default();
    let mut line = String::new();
    loop {
        line.clear();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        // Who asks waits no longer than this; where that one is gone, the kernel ends what would run for ever.
        limit(Resource::Cpu, spent().as_secs() + PATIENCE.as_secs() + 1);
        let Asked { id, schema, settings } = serde_json::from_str(&line)?;
        let mut answer = serde_json::to_vec(&compiled.check(id, &schema, &settings))?;
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
fn spent() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::from_secs(time.tv_sec.try_into().unwrap_or(0))
}
