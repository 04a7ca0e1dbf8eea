//! A Git program that answers one request: it reads from the connection, and its output goes there.

use std::{io, process::Stdio, time::Duration};

use async_compression::tokio::bufread::GzipDecoder;
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, StatusCode, header};
use rustix::io::Errno;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::Child,
    sync::{OwnedSemaphorePermit, mpsc},
};
use tokio_util::{io::StreamReader, task::AbortOnDropHandle};

use crate::http::{Body, Request, Response, error};

/// The longest time that a reader may take nothing while it holds a process.
const STALLED: Duration = Duration::from_secs(120);

/// The most bytes of Git's standard error that are kept, for the log.
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

/// An input whose bytes are all here.
pub(crate) fn input_of(bytes: Bytes) -> Input {
    Box::new(StreamReader::new(Body::from(bytes)))
}

/// Why an answer has no proper end.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The request's body is broken.
    #[error("the request's body ended early or is damaged: {0}")]
    Input(String),
    /// The body has an encoding that Git's own clients do not use.
    #[error("a request to Git is sent as it is, or as gzip")]
    Encoding,
    /// The body has more bytes than are allowed here.
    #[error("the request is larger than the {0} bytes allowed here")]
    TooLarge(u64),
    /// All processes are taken.
    #[error("too many fetches or pushes at once; try again")]
    Busy,
    /// Git died, or ended with an error.
    #[error("git failed: {0}")]
    Git(String),
    /// The reader takes nothing.
    #[error("the reader takes nothing")]
    Stalled,
}

impl Failure {
    /// The failure as an answer, when none has begun.
    pub(crate) fn response(&self) -> Response {
        let status = match self {
            Failure::Input(_) => StatusCode::BAD_REQUEST,
            Failure::Encoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Failure::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Failure::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Failure::Git(_) | Failure::Stalled => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut response = error(status, self);
        if matches!(self, Failure::Busy) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        response
    }
}

/// A running Git program's output. Dropping it kills the program.
#[derive(Debug)]
pub(crate) struct Output {
    parts: mpsc::Receiver<Result<Bytes, Failure>>,
    _task: AbortOnDropHandle<()>,
}

impl Output {
    /// The next part; `None` after the last part and after a failure. Only an output that ended
    /// without a failure is whole.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Failure>> {
        self.parts.recv().await
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

/// Starts a Git program that reads `input`, of at most `limit` bytes. `permit` is given back when
/// the program has ended; `on_failure` is called when Git itself failed.
pub(crate) fn start(
    command: std::process::Command,
    input: Input,
    limit: u64,
    permit: OwnedSemaphorePermit,
    on_failure: impl FnOnce() + Send + 'static,
) -> Result<Output, Failure> {
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
    let (sender, parts) = mpsc::channel(4);
    let mut group = Group(child);
    let task = tokio::spawn(async move {
        if let Err(failure) = converse(&mut group.0, input, limit, &sender).await {
            drop(group);
            drop(permit);
            // A request for an object that is not here says nothing about the repository.
            let only_asked = |words: &str| words.contains("not our ref") && !words.contains("error:");
            if matches!(&failure, Failure::Git(words) if !only_asked(words)) {
                on_failure();
            }
            tracing::warn!(%failure, "a Git request failed");
            // The body must not end cleanly: the client would take it for whole, or wait for more.
            let _ = sender.send(Err(failure)).await;
        }
    });
    Ok(Output { parts, _task: AbortOnDropHandle::new(task) })
}

/// Passes all bytes on, both ways, until the program has ended.
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
        // The reader is gone, or takes nothing.
        sent.map_err(|_| Failure::Stalled)?.map_err(|_| Failure::Stalled)?;
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
