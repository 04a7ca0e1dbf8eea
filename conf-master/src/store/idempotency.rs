//! Requests with an idempotency key land once: the outcome of each is remembered, and kept in the
//! ledger.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::str::FromStr;

use libconf::name::{CommitId, RefName, Sequence};
use sha2::{Digest as _, Sha256};

/// How many landed requests are remembered: the newest ones. Every thousandth ledger entry holds
/// the whole table, which costs about 250 bytes of disk for each request.
const REMEMBERED: usize = 10_000;

/// The key of one request, with a fingerprint of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestKey {
    key: String,
    fingerprint: String,
}

/// A request that landed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LandedRequest {
    /// The fingerprint of the request; another request under the same key is refused.
    fingerprint: String,
    /// The change.
    pub(crate) sequence: Sequence,
    /// The refs that it moved, snapshots included.
    pub(crate) refs: Vec<LandedRef>,
}

/// One ref that a change moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LandedRef {
    /// Its name.
    pub(crate) name: RefName,
    /// Its new commit.
    pub(crate) commit: CommitId,
    /// How many accepted changes it has with this one.
    pub(crate) changes: u64,
}

impl RequestKey {
    /// Takes a key that a client chose, for a request of these bytes.
    pub(crate) fn new(key: &str, request: &[u8]) -> Result<Self, String> {
        let visible = |byte: &u8| matches!(byte, 0x21..=0x7e);
        if key.is_empty() || key.len() > 200 || !key.as_bytes().iter().all(visible) {
            return Err("an idempotency key has 1 to 200 visible ASCII characters; a random UUID will do".to_owned());
        }
        Ok(RequestKey { key: key.to_owned(), fingerprint: format!("{:x}", Sha256::digest(request)) })
    }

    /// Tells whether this is the request that landed.
    pub(crate) fn is_of(&self, landed: &LandedRequest) -> bool {
        self.fingerprint == landed.fingerprint
    }
}

/// Writes `<fingerprint> <key>`, the form in the ledger.
impl fmt::Display for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.fingerprint, self.key)
    }
}

impl FromStr for RequestKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (fingerprint, key) = text.split_once(' ').ok_or_else(|| format!("bad idempotency key: {text}"))?;
        Ok(RequestKey { key: key.to_owned(), fingerprint: fingerprint.to_owned() })
    }
}

/// The newest requests that landed with a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LandedRequests {
    by_key: HashMap<String, LandedRequest>,
    oldest_first: VecDeque<String>,
}

impl LandedRequests {
    /// Finds the landed request with this key.
    pub(crate) fn find(&self, key: &RequestKey) -> Option<&LandedRequest> {
        self.by_key.get(&key.key)
    }

    /// Adds a landed request, and forgets the oldest beyond the bound.
    pub(crate) fn add(&mut self, key: RequestKey, sequence: Sequence, refs: Vec<LandedRef>) {
        let RequestKey { key, fingerprint } = key;
        if self.by_key.insert(key.clone(), LandedRequest { fingerprint, sequence, refs }).is_none() {
            self.oldest_first.push_back(key);
        }
        while self.oldest_first.len() > REMEMBERED {
            let oldest = self.oldest_first.pop_front().unwrap_or_default();
            self.by_key.remove(&oldest);
        }
    }
}

/// Writes one line for each request, the oldest first: fingerprint, key, sequence, then each branch
/// with its tip and number of changes.
impl fmt::Display for LandedRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for key in &self.oldest_first {
            let Some(LandedRequest { fingerprint, sequence, refs }) = self.by_key.get(key) else { continue };
            write!(f, "{fingerprint} {key} {sequence}")?;
            for LandedRef { name, commit, changes } in refs {
                write!(f, " {name} {commit} {changes}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl FromStr for LandedRequests {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut requests = LandedRequests::default();
        for line in text.lines() {
            let landed = |three: &[&str]| {
                let [name, commit, changes] = three else { return None };
                let (name, commit, changes) = (name.parse().ok()?, commit.parse().ok()?, changes.parse().ok()?);
                Some(LandedRef { name, commit, changes })
            };
            let read = || {
                let words: Vec<&str> = line.split(' ').collect();
                let (head, refs) = words.split_at_checked(3)?;
                let key = RequestKey { fingerprint: head[0].to_owned(), key: head[1].to_owned() };
                Some((key, head[2].parse().ok()?, refs.chunks(3).map(landed).collect::<Option<_>>()?))
            };
            let (key, sequence, refs) =
                read().ok_or_else(|| format!("bad line in the table of idempotency keys: {line}"))?;
            requests.add(key, sequence, refs);
        }
        Ok(requests)
    }
}

#[cfg(test)]
mod tests {
    use libconf::name::ObjectId;

    use super::*;

    #[test]
    fn keys_are_visible_ascii_of_bounded_length() {
        for good in ["a", "0b0e7b0c-9c1f-4a0c-9d6e-2f3f0d6f2f5c", "a/b:c", &"x".repeat(200)] {
            let key = RequestKey::new(good, b"{}").unwrap();
            assert_eq!(key.to_string().parse(), Ok(key));
        }
        for bad in ["", "a b", "a\nConf-By: root", "\u{e4}", "\u{7f}", &"x".repeat(201)] {
            assert!(RequestKey::new(bad, b"{}").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_landed_request_is_found_until_it_is_too_old() {
        let mut requests = LandedRequests::default();
        let branch: RefName = "refs/heads/services/web/master".parse().unwrap();
        let key = |number: usize| RequestKey::new(&format!("key-{number}"), b"one").unwrap();
        for number in 0..=REMEMBERED {
            let landed = LandedRef { name: branch.clone(), commit: ObjectId::from([7; 20]), changes: 3 };
            let refs = vec![landed; number % 3];
            requests.add(key(number), Sequence(9), refs);
        }
        assert_eq!(requests.find(&key(0)), None);
        let found = requests.find(&key(2)).unwrap();
        assert_eq!(found.refs.len(), 2);
        assert!(key(2).is_of(found));
        assert!(!RequestKey::new("key-2", b"two").unwrap().is_of(found));
        assert_eq!(requests.to_string().parse(), Ok(requests));
        assert!("a b c d".parse::<LandedRequests>().is_err());
    }
}
