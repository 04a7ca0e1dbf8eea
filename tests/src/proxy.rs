//! A proxy between two programs that counts requests, demands a token, holds bytes back, and cuts
//! connections.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use crate::address::own_address;

/// A TCP proxy in front of one server.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    to: SocketAddr,
    own: SocketAddr,
    closed: AtomicBool,
    sent: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    cut: bool,
    hold_after: Option<u64>,
    /// The bytes of one answer after which its connection is held.
    hold_answer_after: Option<u64>,
    /// The bytes of answers that pass in a second.
    rate: Option<u32>,
    /// Each piece of an answer comes with a wrong bit.
    garbles: bool,
    accepted: Option<Vec<String>>,
    /// True while an answer is held.
    held: bool,
    round: u64,
    requests: Vec<Request>,
    open: Vec<TcpStream>,
}

/// A request that went through, with the size of its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The first line.
    pub line: String,
    /// The bytes of the answer until now, with its head.
    pub received: u64,
}

impl Proxy {
    /// Starts one in front of `to`.
    pub fn start(to: SocketAddr) -> Self {
        let address = own_address(7500);
        let listener = TcpListener::bind(address).expect("a free loopback address");
        let shared = Arc::new(Shared {
            to,
            own: address,
            closed: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.closed.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(client) = client else { continue };
                let shared = Arc::clone(&accepting);
                // The programs on both sides notice a broken connection themselves.
                thread::spawn(move || drop(serve(&shared, client)));
            }
        });
        Proxy { address, shared }
    }

    /// Returns its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Breaks every connection, and accepts no new one until [`Proxy::mend`].
    pub fn cut(&self) {
        let mut state = self.state();
        state.cut = true;
        state.held = false;
        for stream in state.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.shared.changed.notify_all();
    }

    /// Lets everything through again.
    pub fn mend(&self) {
        let mut state = self.state();
        state.cut = false;
        state.held = false;
        state.hold_after = None;
        state.hold_answer_after = None;
        state.rate = None;
        state.garbles = false;
        self.shared.changed.notify_all();
    }

    /// Passes on `bytes` more bytes of clients, then holds the rest back until [`Proxy::mend`].
    pub fn hold_after(&self, bytes: u64) {
        self.state().hold_after = Some(self.shared.sent.load(Ordering::Relaxed) + bytes);
    }

    /// Holds the first answer that is longer than `bytes` after so many, until [`Proxy::mend`]. Other
    /// connections go on.
    pub fn hold_one_answer_after(&self, bytes: u64) {
        self.state().hold_answer_after = Some(bytes);
    }

    /// Has a wrong bit in each piece of an answer that passes, until [`Proxy::mend`].
    pub fn garble(&self) {
        self.state().garbles = true;
    }

    /// Passes only so many bytes of answers in a second, until [`Proxy::mend`].
    pub fn slow(&self, rate: u32) {
        self.state().rate = Some(rate);
    }

    /// Tells whether an answer is held.
    pub fn holds_an_answer(&self) -> bool {
        self.state().held
    }

    /// Answers 401 to every request without one of these values of `Authorization`.
    pub fn demand(&self, accepted: &[&str]) {
        self.state().accepted = Some(accepted.iter().map(|&one| one.to_owned()).collect());
    }

    /// Returns the requests since the start, or since [`Proxy::reset`].
    pub fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// Returns those requests that are for Git's objects and refs.
    pub fn git_requests(&self) -> Vec<Request> {
        let mut requests = self.requests();
        requests.retain(|request| request.line.contains("/conf.git/"));
        requests
    }

    /// Forgets the requests.
    pub fn reset(&self) {
        let mut state = self.state();
        state.requests.clear();
        state.round += 1;
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared.state.lock().expect("no holder of this lock fails")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        self.cut();
        // Wakes the accepting thread, which then ends.
        let _ = TcpStream::connect(self.shared.own);
    }
}

fn serve(shared: &Arc<Shared>, client: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let server = {
        let mut state = shared.state.lock().expect("no holder of this lock fails");
        if state.cut {
            return client.shutdown(Shutdown::Both);
        }
        state.open.push(client.try_clone()?);
        TcpStream::connect_timeout(&shared.to, Duration::from_secs(5))
    };
    // If the server is away, the client's connection closes: the nearest that a proxy can come to a
    // refused one.
    let Ok(server) = server else { return client.shutdown(Shutdown::Both) };
    server.set_nodelay(true)?;
    // The request of the answer that comes back now. Programs wait for an answer before they send
    // the next request.
    let asked: Arc<Mutex<Option<(u64, usize)>>> = Arc::default();
    let back = {
        let (shared, mut from, mut to) = (Arc::clone(shared), server.try_clone()?, client.try_clone()?);
        let asked = Arc::clone(&asked);
        thread::spawn(move || {
            let _ = copy(&mut from, &mut to, |bytes| {
                let asked = *asked.lock().expect("no holder of this lock fails");
                let mut state = shared.state.lock().expect("no holder of this lock fails");
                if let Some((round, index)) = asked
                    && round == state.round
                {
                    state.requests[index].received += bytes.len() as u64;
                    let received = state.requests[index].received;
                    if state.hold_answer_after.is_some_and(|limit| received > limit) {
                        state.hold_answer_after = None;
                        state.held = true;
                        while state.held {
                            state = shared.changed.wait(state).expect("no holder of this lock fails");
                        }
                    }
                }
                let (rate, garbles) = (state.rate, state.garbles);
                drop(state);
                if garbles && !bytes.is_empty() {
                    let at = rand::random_range(0..bytes.len());
                    bytes[at] ^= 1 << rand::random_range(0..8);
                }
                if let Some(rate) = rate {
                    let share = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                    thread::sleep(Duration::from_secs_f64(f64::from(share) / f64::from(rate)));
                }
                Ok(())
            });
            let _ = to.shutdown(Shutdown::Both);
        })
    };
    let (mut from, mut to) = (client, server);
    let forwarded = copy_requests(shared, &asked, &mut from, &mut to);
    if forwarded.is_err() {
        let _ = to.shutdown(Shutdown::Both);
    } else {
        let _ = to.shutdown(Shutdown::Write);
    }
    let _ = back.join();
    forwarded
}

/// The head of a request, as far as it has arrived.
#[derive(Default)]
struct Head {
    bytes: Vec<u8>,
    body_left: Body,
}

/// The rest of a request's body.
#[derive(Default)]
enum Body {
    /// There is none; a head comes next.
    #[default]
    None,
    /// This many bytes.
    Length(u64),
    /// All chunks up to the last.
    Chunked(Vec<u8>),
}

fn copy_requests(
    shared: &Shared,
    asked: &Mutex<Option<(u64, usize)>>,
    from: &mut TcpStream,
    to: &mut TcpStream,
) -> io::Result<()> {
    let mut client = from.try_clone()?;
    let mut head = Head::default();
    copy(from, to, |bytes| {
        hold(shared, bytes.len() as u64);
        for request in head.feed(bytes) {
            let mut state = shared.state.lock().expect("no holder of this lock fails");
            let line = request.lines().next().unwrap_or_default().to_owned();
            state.requests.push(Request { line, received: 0 });
            *asked.lock().expect("no holder of this lock fails") = Some((state.round, state.requests.len() - 1));
            let Some(accepted) = &state.accepted else { continue };
            let sent = request.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("authorization").then(|| value.trim().to_owned())
            });
            if !sent.is_some_and(|sent| accepted.contains(&sent)) {
                drop(state);
                let words = b"{\"error\":\"no token, no entry\"}";
                let answer = format!(
                    "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic realm=\"conf\"\r\n\
                     content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    words.len()
                );
                client.write_all(answer.as_bytes())?;
                client.write_all(words)?;
                client.shutdown(Shutdown::Write)?;
                // Reads the rest of the request: otherwise a reset could discard the answer.
                client.set_read_timeout(Some(Duration::from_secs(1)))?;
                let _ = io::copy(&mut client, &mut io::sink());
                return Err(io::Error::other("no token"));
            }
        }
        Ok(())
    })
}

/// Counts bytes before they are sent, and waits while they are held back.
fn hold(shared: &Shared, bytes: u64) {
    let sent = shared.sent.fetch_add(bytes, Ordering::Relaxed) + bytes;
    let mut state = shared.state.lock().expect("no holder of this lock fails");
    while !state.cut && state.hold_after.is_some_and(|limit| sent > limit) {
        state = shared.changed.wait(state).expect("no holder of this lock fails");
    }
}

fn copy(from: &mut TcpStream, to: &mut TcpStream, mut pass: impl FnMut(&mut [u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        pass(&mut buffer[..length])?;
        to.write_all(&buffer[..length])?;
    }
}

impl Head {
    /// Takes bytes, and returns the heads that they complete.
    fn feed(&mut self, mut bytes: &[u8]) -> Vec<String> {
        let mut complete = Vec::new();
        while !bytes.is_empty() {
            match &mut self.body_left {
                Body::None => {
                    self.bytes.push(bytes[0]);
                    bytes = &bytes[1..];
                    if self.bytes.ends_with(b"\r\n\r\n") {
                        let text = String::from_utf8_lossy(&self.bytes).into_owned();
                        self.bytes.clear();
                        self.body_left = body_of(&text);
                        complete.push(text);
                    }
                }
                Body::Length(left) => {
                    let taken = (*left).min(bytes.len() as u64);
                    *left -= taken;
                    bytes = &bytes[usize::try_from(taken).unwrap_or(bytes.len())..];
                    if *left == 0 {
                        self.body_left = Body::None;
                    }
                }
                Body::Chunked(last) => {
                    last.push(bytes[0]);
                    bytes = &bytes[1..];
                    if last.len() > 7 {
                        last.remove(0);
                    }
                    // No body of a request in these tests contains this text: packs end their chunk
                    // before it.
                    if last.ends_with(b"\r\n0\r\n\r\n") {
                        self.body_left = Body::None;
                    }
                }
            }
        }
        complete
    }
}

fn body_of(head: &str) -> Body {
    for line in head.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            return match value.trim().parse() {
                Ok(0) | Err(_) => Body::None,
                Ok(length) => Body::Length(length),
            };
        }
        if name.eq_ignore_ascii_case("transfer-encoding") && value.contains("chunked") {
            return Body::Chunked(Vec::new());
        }
    }
    Body::None
}
