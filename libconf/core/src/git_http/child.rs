//! A Git program that answers one request: it reads a body that is all here, and its output waits
//! for the reader where it holds no program up.

use std::{io, process::Stdio, time::Duration};

use async_compression::tokio::bufread::GzipDecoder;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use rustix::{
    io::Errno,
    process::{Pid, Resource, Rlimit, getrlimit, prlimit, setpriority_process},
};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::Child,
};
use tokio_util::{io::StreamReader, task::AbortOnDropHandle};

use crate::{
    git_http::{
        failure::Failure,
        pipe::{PipeIn, PipeOut, pipe},
    },
    http::{Body, Request, Spooled, Spools, Who},
    settings::one_line,
};

/// The most bytes of Git's standard error that are kept, for the log.
const MOST_WORDS: u64 = 4 << 10;

/// 1 ms: how long a line of a list waits for those after it.
const MOMENT: Duration = Duration::from_millis(1);

/// What a program reads.
pub(crate) type Input = Box<dyn AsyncBufRead + Send + Unpin>;

/// A request's whole body, encoded as it came.
#[derive(Debug)]
pub(crate) struct Received {
    body: Spooled,
    is_gzip: bool,
}

impl Received {
    /// Takes a request's body in.
    pub(crate) async fn of(request: Request, limit: u64) -> Result<Self, Failure> {
        let is_gzip = is_gzip(&request)?;
        let body = request.body.spooled(limit).await?;
        Ok(Received { body, is_gzip })
    }

    /// Takes a push in. One for which there is no room is read to its end; its beginning is
    /// returned with the reason.
    pub(crate) async fn of_push(request: Request, limit: u64) -> Result<Self, (Failure, Bytes)> {
        // Git's own clients send no push compressed: a pack is so already.
        if !matches!(is_gzip(&request), Ok(false)) {
            return Err((Failure::Encoding, Bytes::new()));
        }
        let taken = request.body.spooled_or_read(limit).await;
        let body = taken.map_err(|(cause, first)| (cause.into(), first))?;
        Ok(Received { body, is_gzip: false })
    }

    /// Takes in what comes over a connection.
    pub(crate) async fn of_body(body: Body, limit: u64) -> Result<Self, Failure> {
        Ok(Received { body: body.spooled(limit).await?, is_gzip: false })
    }

    /// The bytes that came.
    pub(crate) fn length(&self) -> u64 {
        self.body.length()
    }

    /// The body, decoded, from its beginning.
    pub(crate) fn input(&self) -> Input {
        let plain = StreamReader::new(self.body.stream());
        if !self.is_gzip {
            return Box::new(plain);
        }
        Box::new(BufReader::with_capacity(64 << 10, GzipDecoder::new(plain)))
    }
}

/// Git's own clients compress requests with many lines.
fn is_gzip(request: &Request) -> Result<bool, Failure> {
    match request.header("content-encoding").unwrap_or("identity").to_ascii_lowercase().as_str() {
        "identity" => Ok(false),
        "gzip" | "x-gzip" => Ok(true),
        _ => Err(Failure::Encoding),
    }
}

/// An input whose bytes are all here.
pub(crate) fn input_of(bytes: Bytes) -> Input {
    Box::new(StreamReader::new(Body::from(bytes)))
}

/// A running Git program's output. Dropping it kills the program.
#[derive(Debug)]
pub(crate) struct Output {
    parts: PipeOut,
    _task: AbortOnDropHandle<()>,
}

impl Output {
    /// The next part; `None` after the last part and after a failure. Only an output that ended
    /// without a failure is whole.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Failure>> {
        self.parts.next().await
    }

    /// The whole output.
    pub(crate) async fn all(mut self) -> Result<Bytes, Failure> {
        let mut all = BytesMut::new();
        while let Some(part) = self.next().await {
            all.extend_from_slice(&part?);
        }
        Ok(all.freeze())
    }
}

/// Bounds of a Git program and of each that it starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes of address space.
    pub(crate) memory: u64,
    /// Seconds of processor time.
    pub(crate) seconds: u64,
}

impl Bounds {
    /// Sets them for a program that has got no input yet.
    fn set(self, child: &Child) {
        let Some(pid) = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) else { return };
        for (resource, most) in [(Resource::As, self.memory), (Resource::Cpu, self.seconds)] {
            let limit = Rlimit { current: Some(most), ..getrlimit(resource) };
            if let Err(cause) = prlimit(Some(pid), resource, limit) {
                tracing::warn!(%cause, ?resource, "a Git program is not bounded");
            }
        }
    }
}

/// How soon a program gets a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Like every program.
    Usual,
    /// After the others: it works for long, and others wait for less.
    Low,
}

impl Urgency {
    /// Sets it for a program that has got no input yet, and so has started no other.
    fn set(self, child: &Child) {
        // A tenth of what another program gets beside it, and no less. Under SCHED_IDLE others
        // would wait less for it still, but on a machine that is always busy it gets a 300th: a
        // place that others wait for, and the client's connection, are held too long. Without a
        // privilege nobody takes it out of there again. Source: sched(7), "The nice value",
        // "SCHED_IDLE".
        const NICE: i32 = 10;
        if self == Urgency::Low
            && let Some(pid) = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
            && let Err(cause) = setpriority_process(Some(pid), NICE)
        {
            tracing::warn!(%cause, "a Git program that may take long is not put after the others");
        }
    }
}

/// A Git program to run.
pub(crate) struct Run<H> {
    /// The program.
    pub(crate) command: std::process::Command,
    /// Its bounds.
    pub(crate) bounds: Option<Bounds>,
    /// Its urgency.
    pub(crate) urgency: Urgency,
    /// It writes a list, line by line: its lines are passed on together.
    pub(crate) is_list: bool,
    /// Such as a permit: dropped when the program has ended.
    pub(crate) held: H,
}

/// Starts a Git program that reads `input`, of at most `limit` bytes, and writes for `reader`.
/// `on_failure` is called when Git itself failed.
pub(crate) fn start<H: Send + 'static>(
    run: Run<H>,
    input: Input,
    limit: u64,
    (spools, reader): (&Spools, Who),
    on_failure: impl FnOnce() + Send + 'static,
) -> Result<Output, Failure> {
    let Run { command, bounds, urgency, is_list, held } = run;
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // In a process group of its own, so that it can be killed with the programs that it starts.
    let child = command.process_group(0).kill_on_drop(true).spawn();
    let child = child.map_err(|cause| match cause.raw_os_error().map(Errno::from_raw_os_error) {
        // It is over when other requests have ended.
        Some(Errno::MFILE | Errno::NFILE | Errno::AGAIN | Errno::NOMEM) => {
            tracing::warn!(%cause, "git cannot be started");
            Failure::Busy
        }
        _ => Failure::Git(cause.to_string()),
    })?;
    urgency.set(&child);
    if let Some(bounds) = bounds {
        bounds.set(&child);
    }
    let (sender, parts) = pipe(spools.clone(), reader);
    let spools = spools.clone();
    let mut group = Group(child);
    let task = tokio::spawn(async move {
        let way = Way { sender: &sender, is_list, pace: (urgency == Urgency::Low).then_some((&spools, reader)) };
        let conversed = converse(&mut group.0, input, limit, way).await;
        drop(group);
        drop(held);
        if let Err(failure) = &conversed {
            // A request for an object that is not here says nothing about the repository.
            let only_asked = |words: &str| words.contains("not our ref") && !words.contains("error:");
            if matches!(failure, Failure::Git(words) if !only_asked(words)) {
                on_failure();
            }
            // Git repeats words of whoever asked.
            tracing::warn!(failure = one_line(&failure.to_string()), "a Git request failed");
        }
        // After a failure the body must not end cleanly: the client would take it for whole, or
        // wait for more.
        sender.end(conversed);
    });
    Ok(Output { parts, _task: AbortOnDropHandle::new(task) })
}

/// How a program's output goes on.
struct Way<'a> {
    sender: &'a PipeIn,
    /// Its lines are passed on together.
    is_list: bool,
    /// Whose pace it is held to: what comes after others takes little of their time on its way.
    pace: Option<(&'a Spools, Who)>,
}

/// Passes all bytes on, both ways, until the program has ended.
async fn converse(child: &mut Child, input: Input, limit: u64, way: Way<'_>) -> Result<(), Failure> {
    let failed = |cause: io::Error| Failure::Git(cause.to_string());
    let missing = || Failure::Git("it was started without a pipe".to_owned());
    let stdin = child.stdin.take().ok_or_else(missing)?;
    let stdout = child.stdout.take().ok_or_else(missing)?;
    let stderr = child.stderr.take().ok_or_else(missing)?;
    let answer = async {
        let (passed, words) = tokio::join!(pass_on(stdout, way), read_words(stderr));
        passed?;
        let status = child.wait().await.map_err(failed)?;
        if status.success() { Ok(()) } else { Err(Failure::Git(format!("{status}: {}", words.trim()))) }
    };
    let feeding = feed(stdin, input, limit);
    tokio::pin!(answer);
    tokio::select! {
        fed = feeding => {
            fed?;
            answer.await
        }
        // The program may end before it has read all.
        ended = &mut answer => ended,
    }
}

async fn feed(mut stdin: tokio::process::ChildStdin, mut input: Input, limit: u64) -> Result<(), Failure> {
    let mut total = 0;
    loop {
        let part = input.fill_buf().await.map_err(|cause| Failure::Input(cause.to_string()))?;
        if part.is_empty() {
            return Ok(());
        }
        total += part.len() as u64;
        if total > limit {
            return Err(Failure::TooLarge(limit));
        }
        let Ok(written) = stdin.write(part).await else {
            // The program reads no more; its end says why.
            return Ok(());
        };
        total -= (part.len() - written) as u64;
        input.consume(written);
    }
}

async fn pass_on(mut stdout: impl AsyncRead + Unpin, way: Way<'_>) -> Result<(), Failure> {
    let Way { sender, is_list, pace } = way;
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(64 << 10);
        let count = stdout.read_buf(&mut buffer).await.map_err(|cause| Failure::Git(cause.to_string()))?;
        if count == 0 {
            return Ok(());
        }
        if is_list {
            tokio::time::sleep(MOMENT).await;
            // What is not there yet is not waited for.
            if let Some(read) = stdout.read_buf(&mut buffer).now_or_never() {
                read.map_err(|cause| Failure::Git(cause.to_string()))?;
            }
        }
        if let Some((spools, reader)) = pace {
            spools.pace(reader, buffer.len()).await;
        }
        sender.send(buffer.split().freeze()).await.map_err(|_| Failure::Abandoned)?;
    }
}

async fn read_words(stderr: impl AsyncRead + Unpin) -> String {
    let mut words = Vec::new();
    let mut stderr = stderr.take(MOST_WORDS);
    // Words that cannot be read are left out.
    let _ = stderr.read_to_end(&mut words).await;
    let _ = tokio::io::copy(&mut stderr.into_inner(), &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&words).into_owned()
}

/// A program and the programs that it started.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // The program has an id until somebody has waited for it, so the id cannot be another
        // program's yet.
        let id = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(id) = id {
            let _ = rustix::process::kill_process_group(id, rustix::process::Signal::KILL);
        }
    }
}
