//! A Git program that answers one request: its input comes from the connection, its output goes there.

use std::{
    io,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_compression::tokio::bufread::GzipDecoder;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::Child,
    sync::{OwnedSemaphorePermit, mpsc},
};
use tokio_util::{io::StreamReader, task::AbortOnDropHandle};

use crate::http::{Body, Request, Response, error};

/// A reader that takes nothing for so long holds a process for nobody.
const STALLED: Duration = Duration::from_secs(120);

/// What Git says on standard error is kept up to here, for the log.
const MOST_WORDS: u64 = 4 << 10;

/// A request's body, decoded.
pub(crate) type Input = Box<dyn AsyncBufRead + Send + Unpin>;

/// Undoes the encoding of a request's body. Git's own clients compress requests with many lines.
pub(crate) fn decoded(request: Request) -> Result<Input, Failure> {
    let encoding = request.header("content-encoding").unwrap_or("identity").to_ascii_lowercase();
    let plain = StreamReader::new(request.body);
    match encoding.as_str() {
        "identity" => Ok(Box::new(plain)),
        "gzip" | "x-gzip" => Ok(Box::new(BufReader::with_capacity(64 << 10, GzipDecoder::new(plain)))),
        _ => Err(Failure::Encoding),
    }
}

/// Input that is at hand.
pub(crate) fn whole(bytes: Bytes) -> Input {
    Box::new(StreamReader::new(Body::from(bytes)))
}

/// Why an answer has no proper end.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The request's body is broken.
    Input(String),
    /// It is encoded in a way that Git's own clients do not use.
    Encoding,
    /// It is more than is allowed here.
    TooLarge(u64),
    /// Git died, or ended with an error.
    Git(String),
    /// The reader takes nothing.
    Stalled,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Input(words) => write!(f, "the request's body ended early or is damaged: {words}"),
            Failure::Encoding => write!(f, "a request to Git is sent as it is, or as gzip"),
            Failure::TooLarge(limit) => write!(f, "the request is larger than the {limit} bytes allowed here"),
            Failure::Git(words) => write!(f, "git failed: {words}"),
            Failure::Stalled => write!(f, "the reader takes nothing"),
        }
    }
}

impl std::error::Error for Failure {}

impl Failure {
    /// As an answer, when none has begun.
    pub(crate) fn response(&self) -> Response {
        let status = match self {
            Failure::Input(_) => StatusCode::BAD_REQUEST,
            Failure::Encoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Failure::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Failure::Git(_) | Failure::Stalled => StatusCode::INTERNAL_SERVER_ERROR,
        };
        error(status, self)
    }
}

/// A running Git program's output. Dropping it kills the program.
#[derive(Debug)]
pub(crate) struct Output {
    parts: mpsc::Receiver<Result<Bytes, Failure>>,
    _task: AbortOnDropHandle<()>,
}

impl Output {
    /// The next part; nothing after the last, and nothing after a failure. Only an output that ended without a failure
    /// is whole.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Failure>> {
        self.parts.recv().await
    }
}

/// Starts a Git program. It reads `input`, of at most `limit` bytes; `permit` is given back when it has ended, and
/// `deaths` counts it when Git itself failed.
pub(crate) fn start(
    command: std::process::Command,
    input: Input,
    limit: u64,
    permit: OwnedSemaphorePermit,
    deaths: Arc<AtomicU64>,
) -> io::Result<Output> {
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // In a group of its own, to be killed with the programs that it starts.
    let child = command.process_group(0).kill_on_drop(true).spawn()?;
    let (sender, parts) = mpsc::channel(4);
    let mut group = Group(child);
    let task = tokio::spawn(async move {
        if let Err(failure) = converse(&mut group.0, input, limit, &sender).await {
            drop(group);
            drop(permit);
            // A question for what is not here says nothing about the repository.
            let only_asked = |words: &str| words.contains("not our ref") && !words.contains("error:");
            if matches!(&failure, Failure::Git(words) if !only_asked(words)) {
                deaths.fetch_add(1, Ordering::Relaxed);
            }
            tracing::warn!(%failure, "a Git request failed");
            // The body must not end cleanly, or the client would take it for whole, or wait for more.
            let _ = sender.send(Err(failure)).await;
        }
    });
    Ok(Output { parts, _task: AbortOnDropHandle::new(task) })
}

/// Passes everything on, both ways, until the program has ended.
async fn converse(
    child: &mut Child,
    input: Input,
    limit: u64,
    sender: &mpsc::Sender<Result<Bytes, Failure>>,
) -> Result<(), Failure> {
    let failed = |cause: io::Error| Failure::Git(cause.to_string());
    let missing = || Failure::Git("it was started without a pipe".to_owned());
    let stdin = child.stdin.take().ok_or_else(missing)?;
    let stdout = child.stdout.take().ok_or_else(missing)?;
    let stderr = child.stderr.take().ok_or_else(missing)?;
    let answer = async {
        let (passed, words) = tokio::join!(pass_on(stdout, sender), read_words(stderr));
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
        // It may end before it has read all.
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
            // It reads no more: how it ends says why.
            return Ok(());
        };
        total -= (part.len() - written) as u64;
        input.consume(written);
    }
}

async fn pass_on(
    mut stdout: impl AsyncRead + Unpin,
    sender: &mpsc::Sender<Result<Bytes, Failure>>,
) -> Result<(), Failure> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(64 << 10);
        let count = stdout.read_buf(&mut buffer).await.map_err(|cause| Failure::Git(cause.to_string()))?;
        if count == 0 {
            return Ok(());
        }
        let sent = tokio::time::timeout(STALLED, sender.send(Ok(buffer.split().freeze()))).await;
        // Nobody listens, or nobody takes it.
        sent.map_err(|_| Failure::Stalled)?.map_err(|_| Failure::Stalled)?;
    }
}

async fn read_words(stderr: impl AsyncRead + Unpin) -> String {
    let mut words = Vec::new();
    let mut stderr = stderr.take(MOST_WORDS);
    // What cannot be read is not said.
    let _ = stderr.read_to_end(&mut words).await;
    let _ = tokio::io::copy(&mut stderr.into_inner(), &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&words).into_owned()
}

/// A program and those that it started.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // There is an id as long as nobody has waited for the program: it cannot be another's yet.
        let id = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(id) = id {
            let _ = rustix::process::kill_process_group(id, rustix::process::Signal::KILL);
        }
    }
}
