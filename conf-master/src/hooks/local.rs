//! What commands ask a conf-master that runs on this machine, through the socket in its repository.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::hooks::forced::connect;
use crate::hooks::protocol::{KeyMessage, KeyReply, MOST_BYTES, TokenMessage, TokenReply};
use crate::keys::{KeyAnswer, KeyCall};
use crate::tokens::{TokenAnswer, TokenCall};

/// Asks about tokens; a refusal is its words.
pub(crate) fn tokens(repo: &Path, call: TokenCall) -> anyhow::Result<Result<TokenAnswer, String>> {
    Ok(match ask(repo, &TokenMessage { tokens: call })? {
        TokenReply::Done(answer) => Ok(answer),
        TokenReply::Refused(words) => Err(words),
    })
}

/// Asks about the keys that sign; a refusal is its words.
pub(crate) fn keys(repo: &Path, call: KeyCall) -> anyhow::Result<Result<KeyAnswer, String>> {
    Ok(match ask(repo, &KeyMessage { keys: call })? {
        KeyReply::Done(answer) => Ok(answer),
        KeyReply::Refused(words) => Err(words),
    })
}

fn ask<A: DeserializeOwned>(repo: &Path, message: &impl Serialize) -> anyhow::Result<A> {
    let mut socket = connect(repo)?;
    let mut text = serde_json::to_vec(message)?;
    text.push(b'\n');
    socket.write_all(&text)?;
    let mut answer = String::new();
    BufReader::new(socket.take(MOST_BYTES)).read_line(&mut answer)?;
    let lost = "conf-master gave no answer; restart `conf-master serve` if it is older than this program";
    serde_json::from_str(&answer).context(lost)
}
