//! One request on a connection, and the honest peer behind.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

/// What every answer here ends with: the client connects anew for its next request.
pub(crate) const CLOSE: &str = "Connection: close\r\n\r\n";

/// A request with its body.
pub(crate) struct Request {
    /// Method, path and version.
    pub(crate) line: String,
    /// Line and headers, as they came, without the empty line.
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// Reads one. A body must have a length.
    pub(crate) fn read(client: &mut TcpStream) -> io::Result<Self> {
        let (mut bytes, mut part) = (Vec::new(), [0; 8192]);
        loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
                let length = head.lines().find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
                });
                if bytes.len() >= end + 4 + length.unwrap_or(0) {
                    let line = head.lines().next().unwrap_or_default().to_owned();
                    return Ok(Request { line, head, body: bytes.split_off(end + 4) });
                }
            }
            match client.read(&mut part)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => bytes.extend_from_slice(&part[..count]),
            }
        }
    }

    /// One of its own.
    pub(crate) fn get(path: &str, from: SocketAddr) -> Self {
        let line = format!("GET {path} HTTP/1.1");
        Request { head: format!("{line}\r\nHost: {from}"), line, body: Vec::new() }
    }

    /// Asks the honest peer the same.
    pub(crate) fn ask(&self, honest: SocketAddr) -> io::Result<TcpStream> {
        let mut server = TcpStream::connect(honest)?;
        for line in self.head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:")) {
            write!(server, "{line}\r\n")?;
        }
        write!(server, "{CLOSE}")?;
        server.write_all(&self.body)?;
        Ok(server)
    }

    /// Passes the request on, and the answer back as it comes.
    pub(crate) fn pass_on(&self, honest: SocketAddr, client: &mut TcpStream) -> io::Result<()> {
        io::copy(&mut self.ask(honest)?, client).map(drop)
    }

    /// Passes the request on, and returns the whole answer.
    pub(crate) fn whole_answer(&self, honest: SocketAddr) -> io::Result<Vec<u8>> {
        let mut answer = Vec::new();
        self.ask(honest)?.read_to_end(&mut answer)?;
        Ok(answer)
    }
}
