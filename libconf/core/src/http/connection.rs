//! A connection of the network that waits for its reader as long as its answer says.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::net::sockopt;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

use crate::http::pace::{LONGEST, Pace};

/// 120 s that sent bytes may stay unacknowledged; then the reader is gone or stuck.
const STUCK: Duration = Duration::from_secs(120);
/// 15 s: the same for a reader of events, to whom something is sent every 2 s.
const STUCK_WITH_EVENTS: Duration = Duration::from_secs(15);

/// How long the reader of a connection is waited for. Clones are about the same connection.
#[derive(Clone, Debug)]
pub(crate) struct Patience(Arc<Asked>);

#[derive(Debug)]
struct Asked {
    /// Milliseconds that sent bytes may stay unacknowledged.
    stuck: AtomicU32,
    /// The number of the answer on this connection.
    answer: AtomicU32,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Patience(Arc::new(Asked { stuck: AtomicU32::new(millis(STUCK)), answer: AtomicU32::new(0) }))
    }

    /// The answer that begins now is a stream of events, or is none.
    pub(crate) fn is_for_events(&self, is_for_events: bool) {
        let patience = if is_for_events { STUCK_WITH_EVENTS } else { STUCK };
        self.0.stuck.store(millis(patience), Ordering::Relaxed);
        self.0.answer.fetch_add(1, Ordering::Relaxed);
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// A connection, and the patience that its socket has.
pub(crate) struct Connection {
    io: TcpStream,
    patience: Patience,
    set: u32,
    taking: Taking,
}

/// How fast the reader takes what is sent.
struct Taking {
    pace: Pace,
    /// Since when, and until when, the reader is waited for now.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
    /// The answer that is sent, and since when.
    answer: (u32, Instant),
}

impl Taking {
    fn new(pace: Pace) -> Self {
        Taking { pace, waiting: None, answer: (0, Instant::now()) }
    }

    /// The reader took some bytes, or the connection broke.
    fn took(&mut self, bytes: usize) {
        if let Some((since, _)) = self.waiting.take() {
            self.pace.spend(since.elapsed());
        }
        self.pace.earn(bytes as u64);
    }

    /// Waits for the reader of this answer; an error when it has been waited for long enough.
    fn poll_patience(&mut self, answer: u32, context: &mut Context<'_>) -> Poll<io::Error> {
        if self.answer.0 != answer {
            self.answer = (answer, Instant::now());
        }
        let (pace, began) = (self.pace, self.answer.1);
        let (_, until) = self.waiting.get_or_insert_with(|| {
            let now = Instant::now();
            (now, Box::pin(sleep_until((now + pace.left()).min(began + LONGEST))))
        });
        ready!(until.as_mut().poll(context));
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the reader is too slow"))
    }
}

impl Connection {
    /// Sets the options of a connection. Without `TCP_NODELAY` each answer of Git takes 40 to 85 ms
    /// more. A failure means that the client is gone already.
    pub(crate) fn new(io: TcpStream, patience: Patience) -> Self {
        let _ = io.set_nodelay(true);
        let _ = sockopt::set_socket_keepalive(&io, true);
        let _ = sockopt::set_tcp_keepidle(&io, Duration::from_secs(60));
        let mut connection = Connection { io, patience, set: 0, taking: Taking::new(Pace::default()) };
        connection.set_patience();
        connection
    }

    /// Waits for the first byte, and leaves it where it is.
    pub(crate) async fn first_byte(&self) -> io::Result<u8> {
        let mut first = [0];
        match self.io.peek(&mut first).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(first[0]),
        }
    }

    fn set_patience(&mut self) {
        let wanted = self.patience.0.stuck.load(Ordering::Relaxed);
        if wanted != self.set {
            let _ = sockopt::set_tcp_user_timeout(&self.io, wanted);
            self.set = wanted;
        }
    }

    /// Counts what the reader took, or waits for it only so long.
    fn paced(&mut self, sent: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match sent {
            Poll::Ready(sent) => {
                self.taking.took(*sent.as_ref().unwrap_or(&0));
                Poll::Ready(sent)
            }
            Poll::Pending => {
                let answer = self.patience.0.answer.load(Ordering::Relaxed);
                self.taking.poll_patience(answer, context).map(Err)
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.set_patience();
        let sent = Pin::new(&mut self.io).poll_write(context, bytes);
        self.paced(sent, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.set_patience();
        let sent = Pin::new(&mut self.io).poll_write_vectored(context, parts);
        self.paced(sent, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn a_reader_of_events_is_waited_for_less_long() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let patience = Patience::new();
        let mut connection = Connection::new(listener.accept().await.unwrap().0, patience.clone());
        let of_socket = |connection: &Connection| sockopt::tcp_user_timeout(&connection.io).unwrap();
        assert_eq!(of_socket(&connection), 120_000);
        for (is_for_events, expected) in [(true, 15_000), (false, 120_000)] {
            patience.is_for_events(is_for_events);
            connection.write_all(b"answer").await.unwrap();
            assert_eq!(of_socket(&connection), expected);
        }
    }

    #[tokio::test]
    async fn a_reader_of_one_byte_now_and_then_is_let_go() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut connection = Connection::new(listener.accept().await.unwrap().0, Patience::new());
        connection.taking = Taking::new(Pace::with_grace(Duration::from_millis(200)));
        let reading = tokio::spawn(async move {
            let mut byte = [0];
            while client.read(&mut byte).await.is_ok_and(|count| count > 0) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let large = vec![0; 64 << 20];
        let error = connection.write_all(&large).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        reading.abort();
    }
}
