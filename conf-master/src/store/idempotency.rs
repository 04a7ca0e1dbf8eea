//! Requests with an idempotency key land once: the outcome of each is remembered, and kept in the
//! ledger.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::str::FromStr;

use libconf::name::{CommitId, PrincipalName, RefName, Sequence};
use sha2::{Digest as _, Sha256};

/// How many landed requests are remembered: the newest ones. Every thousandth ledger entry holds
/// the whole table, which costs about 250 bytes of disk for each request.
const REMEMBERED: usize = 10_000;

/// What stands between a key and its owner where both are kept: no key has it, and a conf-master
/// that knows no owners takes both for a key that nobody sends.
const BETWEEN: char = '\t';

/// The key of one request, with a fingerprint of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestKey {
    /// Whose key it is. `None` where nobody proved a name, and for what an older conf-master kept.
    owner: Option<PrincipalName>,
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
        let fingerprint = format!("{:x}", Sha256::digest(request));
        Ok(RequestKey { owner: None, key: key.to_owned(), fingerprint })
    }

    /// The same key of somebody: nobody gets or blocks what others did under theirs.
    #[must_use]
    pub(crate) fn of(self, owner: Option<&PrincipalName>) -> Self {
        RequestKey { owner: owner.cloned(), ..self }
    }

    /// The same, where nobody is known as its owner yet.
    #[must_use]
    pub(crate) fn or_of(self, owner: Option<PrincipalName>) -> Self {
        RequestKey { owner: self.owner.or(owner), ..self }
    }

    /// The key and its owner as one word.
    fn stored(&self) -> String {
        self.owner.as_ref().map_or_else(|| self.key.clone(), |owner| format!("{}{BETWEEN}{owner}", self.key))
    }

    fn from_stored(stored: &str, fingerprint: &str) -> Self {
        let fingerprint = fingerprint.to_owned();
        let owned = stored.split_once(BETWEEN).and_then(|(key, owner)| Some((key, owner.parse().ok()?)));
        let (key, owner) = owned.map_or((stored, None), |(key, owner)| (key, Some(owner)));
        RequestKey { owner, key: key.to_owned(), fingerprint }
    }

    /// Tells whether this is the request that landed.
    pub(crate) fn is_of(&self, landed: &LandedRequest) -> bool {
        self.fingerprint == landed.fingerprint
    }
}

/// Writes `<fingerprint> <key>`, with a tab and the owner where there is one: the form in the
/// ledger.
impl fmt::Display for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.fingerprint, self.stored())
    }
}

impl FromStr for RequestKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (fingerprint, stored) = text.split_once(' ').ok_or_else(|| format!("bad idempotency key: {text}"))?;
        Ok(RequestKey::from_stored(stored, fingerprint))
    }
}

/// The newest requests that landed with a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LandedRequests {
    by_key: HashMap<String, LandedRequest>,
    oldest_first: VecDeque<String>,
}

impl LandedRequests {
    /// Finds the landed request with this key of its owner. A key whose owner nobody knows counts
    /// for the same request alone.
    pub(crate) fn find(&self, key: &RequestKey) -> Option<&LandedRequest> {
        let of_somebody = || self.by_key.get(&key.key).filter(|landed| key.is_of(landed));
        self.by_key.get(&key.stored()).or_else(of_somebody)
    }

    /// Adds a landed request, and forgets the oldest beyond the bound.
    pub(crate) fn add(&mut self, key: RequestKey, sequence: Sequence, refs: Vec<LandedRef>) {
        let (key, fingerprint) = (key.stored(), key.fingerprint);
        if self.by_key.insert(key.clone(), LandedRequest { fingerprint, sequence, refs }).is_none() {
            self.oldest_first.push_back(key);
        }
        while self.oldest_first.len() > REMEMBERED {
            let oldest = self.oldest_first.pop_front().unwrap_or_default();
            self.by_key.remove(&oldest);
        }
    }
}

/// Writes one line for each request, the oldest first: fingerprint, key with its owner, sequence,
/// then each branch with its tip and number of changes.
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
                let key = RequestKey::from_stored(head[1], head[0]);
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
            let owned = key.clone().of(Some(&"ann".parse().unwrap()));
            assert_eq!(key.to_string().parse(), Ok(key));
            assert_eq!(owned.to_string().parse(), Ok(owned));
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

    #[test]
    fn a_key_is_its_owners_alone_and_one_of_nobody_counts_for_the_same_request() {
        let [ann, bob] = ["ann", "bob"].map(|name| name.parse::<PrincipalName>().unwrap());
        let key = |owner: Option<&PrincipalName>, request: &[u8]| RequestKey::new("key", request).unwrap().of(owner);
        let mut requests = LandedRequests::default();
        requests.add(key(Some(&ann), b"one"), Sequence(1), Vec::new());
        let found = |requests: &LandedRequests, owner: Option<&PrincipalName>, request: &[u8]| {
            requests.find(&key(owner, request)).map(|landed| landed.sequence.0)
        };
        assert_eq!(found(&requests, Some(&ann), b"other"), Some(1), "she is told that the key is used");
        assert_eq!([Some(&bob), None].map(|owner| found(&requests, owner, b"one")), [None, None]);
        requests.add(key(Some(&bob), b"one"), Sequence(2), Vec::new());
        assert_eq!([&ann, &bob].map(|owner| found(&requests, Some(owner), b"one")), [Some(1), Some(2)]);
        // An older conf-master kept a key without its owner.
        requests.add(RequestKey::new("old", b"two").unwrap(), Sequence(3), Vec::new());
        let requests: LandedRequests = requests.to_string().parse().unwrap();
        let old = |request: &[u8]| requests.find(&RequestKey::new("old", request).unwrap().of(Some(&ann)));
        assert_eq!(old(b"two").map(|landed| landed.sequence.0), Some(3));
        assert_eq!(old(b"other"), None, "it blocks nobody");
        assert_eq!(found(&requests, Some(&bob), b"one"), Some(2));
    }
}
