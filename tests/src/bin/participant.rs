//! A service that takes part in distributed operations: `GET /operation` reads a component, asks
//! the next participant with the same pinned version, and answers with the readings of all of them.
//!
//! `participant SERVICE LISTEN HISTORY MODE [NEXT]`; MODE is `pinned` (as programs should do it),
//! `unpinned` (each reads the current version of its host) or `adrift` (claims to read the pinned
//! version, and reads the current one). Each reading becomes a line of the file HISTORY before the
//! answer. `GET /at/<sequence>` reads at that one.

use std::{
    convert::Infallible,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request, Response, StatusCode, body::Incoming, client, server, service::service_fn};
use hyper_util::rt::TokioIo;
use libconf::{
    client::{Client, JoinError, Operation, Typed},
    name::Sequence,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

/// The component that every participant reads.
const COMPONENT: &str = "services/common";
/// The time that an operation waits for a version that is not here yet.
const PATIENCE: Duration = Duration::from_secs(50);

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone, Debug, Deserialize)]
struct Common {
    round: u64,
    #[serde(default)]
    local: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pinned,
    Unpinned,
    Adrift,
}

struct Participant {
    service: String,
    mode: Mode,
    next: Option<SocketAddr>,
    client: Client,
    current: Typed<Common>,
    history: Mutex<File>,
    seen: AtomicU64,
}

impl Participant {
    /// Reads at the operation's version, and writes the reading down.
    async fn observe(&self, operation: &Operation) -> Result<Value, Failure> {
        let (pinned, value) = match self.mode {
            Mode::Pinned => (operation.sequence(), (*operation.get::<Common>(COMPONENT).await?).clone()),
            Mode::Unpinned => (self.current.sequence(), (*self.current.current()).clone()),
            Mode::Adrift => (operation.sequence(), (*self.current.current()).clone()),
        };
        // Under the lock, so that the lines are in the order of the readings.
        let mut history = self.history.lock().map_err(|_| "a thread panicked")?;
        let observation = json!({
            "service": self.service,
            "process": std::process::id(),
            "order": self.seen.fetch_add(1, Ordering::Relaxed),
            "current": self.client.sequence(),
            "pinned": pinned,
            "round": value.round,
            "local": value.local,
        });
        // In one write: only a kill cuts a line off, and it is then the last one of its process.
        history.write_all(format!("{observation}\n").as_bytes())?;
        Ok(observation)
    }

    /// Takes part in one operation, as its first participant or as a later one.
    async fn operation(&self, headers: &HeaderMap) -> Result<Vec<Value>, Failure> {
        let operation = match self.client.join(headers) {
            Err(JoinError::Absent) => self.client.begin(),
            joined => joined?,
        };
        let operation = operation.with_deadline(Instant::now() + PATIENCE);
        let mut seen = vec![self.observe(&operation).await?];
        if let Some(next) = self.next {
            let mut request =
                Request::get("/operation").header("host", next.to_string()).body(Full::<Bytes>::default())?;
            operation.inject(request.headers_mut());
            seen.extend(ask(next, request).await?);
        }
        Ok(seen)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let seen = match path.strip_prefix("/at/").map(str::parse::<Sequence>) {
            Some(Ok(sequence)) => self.at(sequence).await.map(|one| vec![one]),
            Some(Err(error)) => Err(error.into()),
            None => self.operation(request.headers()).await,
        };
        let (status, body) = match seen {
            Ok(seen) => (StatusCode::OK, Value::from(seen).to_string()),
            Err(error) => (StatusCode::SERVICE_UNAVAILABLE, chain(&*error)),
        };
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = status;
        response
    }

    async fn at(&self, sequence: Sequence) -> Result<Value, Failure> {
        let operation = self.client.begin_at(sequence).with_deadline(Instant::now() + PATIENCE);
        self.observe(&operation).await
    }
}

/// Opens the history, and ends a line that an earlier process left unfinished.
fn begin(history: &str) -> io::Result<File> {
    let mut file = File::options().create(true).read(true).append(true).open(history)?;
    let mut last = [0];
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Asks the next participant.
async fn ask(next: SocketAddr, request: Request<Full<Bytes>>) -> Result<Vec<Value>, Failure> {
    let stream = TcpStream::connect(next).await?;
    let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    match head.status {
        StatusCode::OK => Ok(serde_json::from_slice(&body)?),
        status => Err(format!("{next} answered {status}: {}", String::from_utf8_lossy(&body)).into()),
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [service, listen, history, mode, next @ ..] = &arguments[..] else {
        return Err("usage: participant SERVICE LISTEN HISTORY MODE [NEXT]".into());
    };
    let mode = match mode.as_str() {
        "pinned" => Mode::Pinned,
        "unpinned" => Mode::Unpinned,
        "adrift" => Mode::Adrift,
        other => return Err(format!("no mode: {other}").into()),
    };
    let client = Client::connect()?;
    let participant = Arc::new(Participant {
        service: service.clone(),
        mode,
        next: next.first().map(|next| next.parse()).transpose()?,
        current: client.component(COMPONENT)?.typed()?,
        client,
        history: Mutex::new(begin(history)?),
        seen: AtomicU64::new(0),
    });
    let listener = TcpListener::bind(listen).await?;
    println!("ready http={listen}");
    loop {
        let (stream, _) = listener.accept().await?;
        let participant = Arc::clone(&participant);
        tokio::spawn(async move {
            let answer = service_fn(|request| {
                let participant = Arc::clone(&participant);
                async move { Ok::<_, Infallible>(participant.answer(request).await) }
            });
            // The other side notices a broken connection itself.
            let _ = server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}
