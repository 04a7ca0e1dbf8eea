//! Git's protocol by hand, for requests that no honest client sends.

use std::{io::Write as _, time::Duration};

use conf_core::git::{Depth, Step};
use hyper::Method;

use crate::http::{Address, Answer};

/// The id that the protocol writes for "no object".
pub const ZERO: &str = "0000000000000000000000000000000000000000";

/// Makes one line of the protocol.
pub fn line(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = write!(bytes, "{:04x}{text}", text.len() + 4);
    bytes
}

/// A change of one ref, as a client claims it.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The claimed present id.
    pub old: &'a str,
    /// The new id; [`ZERO`] deletes the ref.
    pub new: &'a str,
    /// Its full name.
    pub name: &'a str,
}

/// Makes the request of a push.
pub fn push_request(claims: &[Claim<'_>], capabilities: &str, pack: Option<&[u8]>) -> Vec<u8> {
    let mut body = Vec::new();
    for (index, Claim { old, new, name }) in claims.iter().enumerate() {
        let tail = if index == 0 { format!("\0 {capabilities}") } else { String::new() };
        body.extend(line(&format!("{old} {new} {name}{tail}\n")));
    }
    body.extend(b"0000");
    body.extend(pack.unwrap_or_default());
    body
}

/// Sends changes of refs with a pack, as `git push` does, but without a look at the refs first.
pub fn push(server: &Address, claims: &[Claim<'_>], capabilities: &str, pack: Option<&[u8]>) -> Result<Answer, String> {
    let body = push_request(claims, capabilities, pack);
    let headers = [("content-type", "application/x-git-receive-pack-request")];
    // 30 s of processor time may take minutes of a busy machine.
    let deadline = Duration::from_secs(240);
    server.request_within(deadline, Method::POST, "/conf.git/git-receive-pack", &headers, body)
}

/// Returns the server's report on each ref as text.
pub fn report(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// Makes the request of one step, as every daemon does.
pub fn step(want: &str, have: &str) -> Vec<u8> {
    let id = |text: &str| text.parse().expect("a commit");
    Step { have: Some(id(have)), want: id(want), depth: Depth::Full }.request().to_vec()
}

/// Requests objects by protocol v2.
pub fn fetch(server: &Address, request: &[u8]) -> Result<Answer, String> {
    let headers = [("content-type", "application/x-git-upload-pack-request"), ("git-protocol", "version=2")];
    server.request(Method::POST, "/conf.git/git-upload-pack", &headers, request.to_owned())
}

/// Returns the pack in an answer to a fetch of version 2 of the protocol.
pub fn pack_in(answer: &[u8]) -> Option<Vec<u8>> {
    let (mut rest, mut pack) = (answer, None::<Vec<u8>>);
    while let Some(digits) = rest.get(..4) {
        let length = usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        let line = rest.get(4..length.max(4))?;
        rest = rest.get(length.max(4)..)?;
        match (&mut pack, line) {
            (None, b"packfile\n") => pack = Some(Vec::new()),
            // The first band is the pack; the others are for people.
            (Some(pack), [1, part @ ..]) => pack.extend_from_slice(part),
            _ => {}
        }
    }
    pack
}
