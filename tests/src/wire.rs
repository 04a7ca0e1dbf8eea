//! Git's protocol by hand: what a client of good will never sends.

use std::io::Write as _;

use conf_core::git::{Depth, Step};
use hyper::Method;

use crate::http::{Address, Answer};

/// Nothing, as the protocol writes it.
pub const ZERO: &str = "0000000000000000000000000000000000000000";

/// One line of the protocol.
pub fn line(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = write!(bytes, "{:04x}{text}", text.len() + 4);
    bytes
}

/// A change of one ref as a client claims it.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The id that the client says the ref has.
    pub old: &'a str,
    /// The id that it is to have; [`ZERO`] to delete it.
    pub new: &'a str,
    /// Its full name.
    pub name: &'a str,
}

/// Sends ref changes with a pack, as `git push` would after looking, but without looking.
pub fn push(server: &Address, claims: &[Claim<'_>], capabilities: &str, pack: Option<&[u8]>) -> Result<Answer, String> {
    let mut body = Vec::new();
    for (index, Claim { old, new, name }) in claims.iter().enumerate() {
        let tail = if index == 0 { format!("\0 {capabilities}") } else { String::new() };
        body.extend(line(&format!("{old} {new} {name}{tail}\n")));
    }
    body.extend(b"0000");
    body.extend(pack.unwrap_or_default());
    let headers = [("content-type", "application/x-git-receive-pack-request")];
    server.request(Method::POST, "/conf.git/git-receive-pack", &headers, body)
}

/// What the server says about each ref, as text.
pub fn report(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// The request of one step, as every program makes it.
pub fn step(want: &str, have: &str) -> Vec<u8> {
    let id = |text: &str| text.parse().expect("a commit");
    Step { have: Some(id(have)), want: id(want), depth: Depth::Full }.request().to_vec()
}

/// Asks for objects by protocol v2.
pub fn fetch(server: &Address, request: &[u8]) -> Result<Answer, String> {
    let headers = [("content-type", "application/x-git-upload-pack-request"), ("git-protocol", "version=2")];
    server.request(Method::POST, "/conf.git/git-upload-pack", &headers, request.to_owned())
}
