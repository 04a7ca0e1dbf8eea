//! A client of one Consul, which may have several addresses.

use std::{
    collections::{BTreeSet, VecDeque},
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use parking_lot::Mutex;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use crate::{
    address::hide_login,
    consul::{
        address::{Address, BadAddress, ConsulCredentials},
        operation::{Entry, MOST_OPERATIONS, Operation, Outcome, Wrapped},
    },
    daemon::chain,
    tls,
};

/// The most bytes of an answer: 100,000 keys fit.
const LONGEST_ANSWER: usize = 64 << 20;

/// What names the authorities that sign for Consul.
const CA: &str = "CONSUL_CACERT or --ca";

/// The deadline of every request that does not wait for a change.
const DEADLINE: Duration = Duration::from_secs(10);

/// 1 s: an address that has not answered by then has the next one asked too.
const PATIENCE: Duration = Duration::from_secs(1);
/// 30 s until an address that is silent is asked again whether it answers.
const WHILE_SILENT: Duration = Duration::from_secs(30);
/// 5 s: the same for a list of many keys, which takes its time and must not be made twice.
const PATIENCE_WITH_MANY: Duration = Duration::from_secs(5);

/// A client of one Consul, which may have several addresses.
///
/// The client tries them in the order given, beginning with the one that answered last. It passes
/// over an address that it cannot reach, that is silent, or that answers that its cluster has no
/// leader.
#[derive(Debug)]
pub struct Consul {
    addresses: Vec<Address>,
    /// The place of the address that answered last.
    answered: AtomicUsize,
    /// The places of addresses that gave no answer when they were asked last.
    silent: Mutex<BTreeSet<usize>>,
    /// How long an address that was silent may take when it is asked by itself.
    pub(crate) beside: Duration,
    /// How often it is.
    pub(crate) while_silent: Duration,
    credentials: ConsulCredentials,
}

/// Why Consul gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ConsulError {
    /// Not reached in time, or its cluster has no leader. Retry later.
    #[error("Consul at {address} cannot be reached: {reason}")]
    Unreachable {
        /// The address.
        address: String,
        /// Why, in words.
        reason: String,
    },
    /// The token may not do this, or cannot be read. A person must mend it; retry later.
    #[error("Consul at {address} denies it: {reason}; the token needs a policy for these keys")]
    Denied {
        /// The address.
        address: String,
        /// Consul's words.
        reason: String,
    },
    /// The answer does not come from Consul, or is broken. Retry later.
    #[error("Consul at {address} gave an answer of no use: {reason}")]
    Malformed {
        /// The address.
        address: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The client does not send this key or this request.
    #[error("not sent to Consul: {0}")]
    Refused(String),
}

impl Consul {
    /// Makes a client; connects to nothing yet. Addresses are `http://host:port`,
    /// `https://host:port`, `host:port` or `unix:///path`. Files named in `credentials` are read
    /// now, except the token's.
    pub fn new(addresses: &[String], credentials: ConsulCredentials) -> Result<Self, BadAddress> {
        if addresses.is_empty() {
            return Err(BadAddress { address: "(none)".into(), reason: "give at least one address".into() });
        }
        let address = |given: &String| {
            Address::new(given, &credentials).map_err(|reason| BadAddress { address: hide_login(given), reason })
        };
        let addresses = addresses.iter().map(address).collect::<Result<_, _>>()?;
        Ok(Consul::of(addresses, credentials))
    }

    fn of(addresses: Vec<Address>, credentials: ConsulCredentials) -> Self {
        let (answered, silent) = (AtomicUsize::new(0), Mutex::default());
        Consul { addresses, answered, silent, beside: PATIENCE, while_silent: WHILE_SILENT, credentials }
    }

    /// The addresses that gave no answer when they were asked last, while others did.
    pub fn silent(&self) -> Vec<String> {
        self.silent.lock().iter().map(|at| self.addresses[*at].shown.clone()).collect()
    }

    /// Asks one of the addresses that are silent each 30 s whether it answers again, by reading
    /// `key`, and calls `back` when one does. Runs until it is dropped. A watch may have news all
    /// the time, so this is beside it.
    pub async fn revive(&self, key: &str, back: impl Fn()) -> Infallible {
        loop {
            sleep(self.while_silent).await;
            if self.ask_a_silent_one(key).await {
                back();
            }
        }
    }

    /// Tells whether one of the addresses that were silent answers. Any answer is a sign of life.
    async fn ask_a_silent_one(&self, key: &str) -> bool {
        let silent: Vec<usize> = self.silent.lock().iter().copied().collect();
        let Some(&at) = silent.get(rand::random_range(0..silent.len().max(1))) else { return false };
        let path = format!("/v1/kv/{key}");
        let answer = self.ask_one(at, Connection::Fresh, Method::GET, &path, None, self.beside).await;
        let is_back = matches!(answer, Ok(_) | Err(ConsulError::Denied { .. } | ConsulError::Malformed { .. }));
        is_back && self.silent.lock().remove(&at)
    }

    /// Splits the addresses among two clients, if there are several: one that watches by both hears
    /// of a change although a server hangs, which a watch cannot tell from one that has no news.
    pub fn lanes(self) -> Vec<Self> {
        let lane = |first: usize| {
            let addresses: Vec<_> = self.addresses.iter().skip(first).step_by(2).cloned().collect();
            let credentials = self.credentials.clone();
            (!addresses.is_empty()).then(|| Consul::of(addresses, credentials))
        };
        [lane(0), lane(1)].into_iter().flatten().collect()
    }

    /// Reads one key from the leader, past every cache (`?consistent`).
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, ConsulError> {
        check_key(key)?;
        let answer = self.ask(Method::GET, &format!("/v1/kv/{key}?consistent"), None, DEADLINE).await?;
        answer.entry(key)
    }

    /// Reads all keys that begin with `prefix` at one moment, from the leader (`?consistent`). Keys
    /// that the token may not read are left out.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Entry>, ConsulError> {
        check_key(prefix.strip_suffix('/').unwrap_or(prefix))?;
        let path = format!("/v1/kv/{prefix}?recurse&consistent");
        self.ask_within(PATIENCE_WITH_MANY, Method::GET, &path, None, DEADLINE).await?.entries()
    }

    /// Writes one key, whatever its value is.
    pub async fn put(&self, key: &str, value: &[u8], flags: u64) -> Result<(), ConsulError> {
        check_key(key)?;
        let path = format!("/v1/kv/{key}?flags={flags}");
        self.ask(Method::PUT, &path, Some(value.to_vec()), DEADLINE).await?.done()
    }

    /// Deletes exactly one key, whatever its value is.
    pub async fn delete(&self, key: &str) -> Result<(), ConsulError> {
        check_key(key)?;
        self.ask(Method::DELETE, &format!("/v1/kv/{key}"), None, DEADLINE).await?.done()
    }

    /// Does all of `operations` (at most [`MOST_OPERATIONS`]) or none.
    ///
    /// - Errors: after `Unreachable` it may have happened or not; read again before the next one.
    /// - Cancel: it may have happened or not.
    pub async fn transaction(&self, operations: &[Operation]) -> Result<Outcome, ConsulError> {
        if operations.len() > MOST_OPERATIONS {
            return Err(ConsulError::Refused(format!("{} operations in one transaction", operations.len())));
        }
        operations.iter().try_for_each(|operation| check_key(operation.key()))?;
        let body: Vec<_> = operations.iter().map(|kv| Wrapped { kv }).collect();
        let body = serde_json::to_vec(&body).map_err(|error| ConsulError::Refused(error.to_string()))?;
        self.ask(Method::PUT, "/v1/txn", Some(body), DEADLINE).await?.outcome()
    }

    /// Asks one address after the other, beginning with the one that answered last, and the next
    /// one already while one is silent. After all of them it asks those again that are silent, over
    /// connections of their own, since the connections alone may be dead.
    ///
    /// A write may thus be sent twice. All writes of this project do the same if they are repeated:
    /// they set a value, or compare and swap.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        deadline: Duration,
    ) -> Result<Answer, ConsulError> {
        self.ask_within(PATIENCE, method, path, body, deadline).await
    }

    async fn ask_within(
        &self,
        patience: Duration,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        deadline: Duration,
    ) -> Result<Answer, ConsulError> {
        let begin = self.answered.load(Ordering::Relaxed);
        let mut waiting: VecDeque<_> =
            (0..self.addresses.len()).map(|step| ((begin + step) % self.addresses.len(), false)).collect();
        let mut asked = FuturesUnordered::new();
        let mut first = None;
        loop {
            let newest = waiting.pop_front();
            match newest {
                Some((at, is_second)) => {
                    let connection = if is_second { Connection::Fresh } else { Connection::Pooled };
                    asked.push(self.ask_one(at, connection, method.clone(), path, body.clone(), deadline));
                }
                None if asked.is_empty() => break,
                None => {}
            }
            let repeats = newest.filter(|(_, is_second)| !is_second);
            let answer = if waiting.is_empty() && repeats.is_none() {
                asked.next().await
            } else if let Ok(answer) = timeout(patience, asked.next()).await {
                answer
            } else {
                if let Some((at, _)) = repeats {
                    self.silent.lock().insert(at);
                    waiting.push_back((at, true));
                }
                continue;
            };
            match answer {
                Some(Ok(answer)) => {
                    self.answered.store(answer.at, Ordering::Relaxed);
                    self.silent.lock().remove(&answer.at);
                    return Ok(answer);
                }
                // The first error counts: its address is the one that should answer.
                Some(Err(error)) => first = first.or(Some(error)),
                None => {}
            }
        }
        Err(first.unwrap_or_else(|| ConsulError::Refused("there is no address".into())))
    }

    pub(crate) async fn ask_one(
        &self,
        at: usize,
        connection: Connection,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        deadline: Duration,
    ) -> Result<Answer, ConsulError> {
        let shown = &self.addresses[at].shown;
        let request = self.addresses[at].request(connection == Connection::Fresh, method, path);
        let mut request = request.timeout(deadline);
        let token = self.credentials.current_token();
        let token = token.map_err(|reason| ConsulError::Denied { address: shown.clone(), reason })?;
        if let Some(token) = token {
            request = request.header("X-Consul-Token", token);
        } else if let Some(session) = self.addresses[at].session() {
            request = request.bearer_auth(session);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let unreachable = |error: reqwest::Error| ConsulError::Unreachable {
            address: shown.clone(),
            reason: tls::words(&error, CA).unwrap_or_else(|| chain(&error.without_url())),
        };
        let response = self.addresses[at].send(request).await.map_err(unreachable)?;
        let status = response.status();
        let index = response.headers().get("X-Consul-Index").and_then(|value| value.to_str().ok()?.parse().ok());
        let mut bytes = BytesMut::new();
        let mut stream = response.bytes_stream();
        while let Some(part) = stream.next().await {
            bytes.extend_from_slice(&part.map_err(unreachable)?);
            if bytes.len() > LONGEST_ANSWER {
                let reason = format!("it is longer than {LONGEST_ANSWER} bytes");
                return Err(ConsulError::Malformed { address: shown.clone(), reason });
            }
        }
        let address = shown.clone();
        let reason = || format!("{status}: {}", String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).trim());
        match status {
            StatusCode::OK | StatusCode::NOT_FOUND | StatusCode::CONFLICT => {
                Ok(Answer { at, address, status, index: index.unwrap_or(0), body: bytes.into() })
            }
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Err(ConsulError::Denied { address, reason: reason() }),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(ConsulError::Unreachable { address, reason: reason() })
            }
            _ => Err(ConsulError::Malformed { address, reason: reason() }),
        }
    }
}

/// The connection that a request goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connection {
    /// An idle one, if there is one.
    Pooled,
    /// Its own.
    Fresh,
}

/// An answer of Consul with status 200, 404 or 409.
pub(crate) struct Answer {
    pub(crate) at: usize,
    address: String,
    pub(crate) status: StatusCode,
    pub(crate) index: u64,
    pub(crate) body: Bytes,
}

impl Answer {
    #[expect(clippy::needless_pass_by_value, reason = "for map_err, and for words")]
    pub(crate) fn malformed(&self, reason: impl ToString) -> ConsulError {
        ConsulError::Malformed { address: self.address.clone(), reason: reason.to_string() }
    }

    /// The keys of a read. Only an answer with an index can say that there are none.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>, ConsulError> {
        match self.status {
            _ if self.index == 0 => Err(self.malformed(format!("{} without an index", self.status))),
            StatusCode::NOT_FOUND => Ok(Vec::new()),
            StatusCode::OK => {
                let entries: Vec<Entry> = serde_json::from_slice(&self.body).map_err(|error| self.malformed(error))?;
                if entries.is_empty() {
                    return Err(self.malformed("an empty list, where Consul says 404"));
                }
                Ok(entries)
            }
            status => Err(self.malformed(format!("{status} to a read"))),
        }
    }

    /// The key of a read of this one key; `None` where Consul says that there is none.
    pub(crate) fn entry(&self, key: &str) -> Result<Option<Entry>, ConsulError> {
        let entries = self.entries()?;
        if let Some(other) = entries.iter().find(|entry| entry.key != key) {
            let name: String = other.key.chars().take(100).collect();
            return Err(self.malformed(format!("it is about the key {name:?}, not {key:?}")));
        }
        Ok(entries.into_iter().next())
    }

    /// Checks the answer to a plain write.
    fn done(&self) -> Result<(), ConsulError> {
        match (self.status, self.body.trim_ascii()) {
            (StatusCode::OK, b"true") => Ok(()),
            (status, _) => Err(self.malformed(format!("{status} to a write that is always possible"))),
        }
    }

    fn outcome(&self) -> Result<Outcome, ConsulError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Judged {
            results: Option<Vec<Wrapped<Entry>>>,
            errors: Option<Vec<Fault>>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Fault {
            #[serde(default)]
            what: String,
        }
        if !matches!(self.status, StatusCode::OK | StatusCode::CONFLICT) {
            return Err(self.malformed(format!("{} to a transaction", self.status)));
        }
        let judged: Judged = serde_json::from_slice(&self.body).map_err(|error| self.malformed(error))?;
        let faults: Vec<String> = judged.errors.unwrap_or_default().into_iter().map(|fault| fault.what).collect();
        // Consul answers 409 to a transaction that the token may not do, too.
        if let Some(reason) = faults.iter().find(|what| what.contains("Permission denied")) {
            return Err(ConsulError::Denied { address: self.address.clone(), reason: reason.clone() });
        }
        if self.status == StatusCode::CONFLICT || !faults.is_empty() {
            return Ok(Outcome::Conflict(faults.join("; ")));
        }
        let results = judged.results.unwrap_or_default();
        Ok(Outcome::Committed(results.into_iter().map(|result| result.kv).collect()))
    }
}

/// Refuses keys that newer versions of Consul refuse, and keys that would mean another one in a
/// URL.
pub(crate) fn check_key(key: &str) -> Result<(), ConsulError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b',' | b'.' | b'_' | b'/' | b'-');
    let whole = key.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if key.len() <= 512 && whole && key.bytes().all(allowed) {
        return Ok(());
    }
    let start: String = key.chars().take(100).collect();
    Err(ConsulError::Refused(format!("{start:?} is not a key of letters, digits and ',._-/'")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_sent() {
        for good in ["a", "configurations/services/web/v1.0", "a,b/c_d-e"] {
            assert!(check_key(good).is_ok(), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", "a/../b", "a/.", "a b", "a?raw", "a#b", "a%20b", "ä", "a\n"] {
            assert!(check_key(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn addresses() {
        let new = |address: &str| Consul::new(&[address.to_owned()], ConsulCredentials::default());
        for good in ["http://127.0.0.1:8500", "127.0.0.1:8500", "localhost:8500", "https://c:1/", "unix:///run/consul"]
        {
            assert!(new(good).is_ok(), "{good}");
        }
        for bad in ["", "http://", "ftp://a", "unix://a", "http://a:b"] {
            assert!(new(bad).is_err(), "{bad:?}");
        }
    }
}
