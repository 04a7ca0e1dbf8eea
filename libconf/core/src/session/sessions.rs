//! Sessions of hosts: a host signs a nonce by its identity key, and has a bearer for ten minutes.
//!
//! A server keeps none of them. It knows its nonces and bearers again by a code over them, whose
//! key is made at its start and leaves it nowhere: so a session is good at one server, until that
//! restarts, until its time is over, or until the host is not known by that key any more.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::access::{AccessTable, Unproven};
use crate::api::{MOST_SIGNATURE_BYTES, SessionAnswer, SessionRequest};
use crate::session::keyring::Keyring;
use crate::session::known::{KnownKeys, SessionHost};
use crate::sign::verify_session;

/// How every bearer begins; a token begins with `conf_`.
const BEGINNING: &str = "confs_";
/// Ten minutes: how long a bearer is good.
const LIVES: u32 = 600;
/// How long a nonce may be signed.
const NONCE_LIVES: u64 = 60;
/// What is said of a nonce; no name of a host has one part.
const NONCE: &[&str] = &["nonce"];
/// The bytes of a time, and of a code.
const TIME: usize = 8;
const CODE: usize = 32;
/// The most letters of a bearer; names have at most 255 each.
const MOST: usize = 2048;

/// Opens sessions and knows them again.
pub struct Sessions {
    secret: Zeroizing<[u8; CODE]>,
    /// Times are counted from here: no clock that jumps ends a session, or makes it longer.
    start: Instant,
    keys: KnownKeys,
}

/// What a nonce or a bearer is made of, as URL-safe base64: a time in seconds, for a bearer the
/// name of the host and its key, and the code.
struct Coded {
    time: u64,
    name: String,
    code: [u8; CODE],
}

/// Why there is no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoSession {
    #[error("the nonce is not of this server, or over a minute old; ask for a new one")]
    Nonce,
    #[error("the inventory lists no key for this host that signs")]
    Unlisted,
    #[error("it is not signed by the key that the inventory lists for this host, or with which it joined")]
    Signature,
    /// It proved a key by which it is not known yet, and may join by it.
    #[error("it has not joined yet, or the key with which it joined was revoked")]
    MayJoin,
}

impl Sessions {
    /// Knows hosts by the newest of these keys: those that are listed, and those with which hosts
    /// joined.
    pub fn new(listed: watch::Receiver<Arc<Keyring>>, joined: watch::Receiver<Arc<AccessTable>>) -> Self {
        let keys = KnownKeys::new(listed, joined);
        Sessions { secret: Zeroizing::new(rand::random()), start: Instant::now(), keys }
    }

    /// Answers a host: with a nonce, or, where it has signed one, with a bearer.
    pub(crate) fn answer(&self, request: &SessionRequest) -> Result<SessionAnswer, NoSession> {
        self.answer_at(request, self.start.elapsed().as_secs())
    }

    fn answer_at(&self, request: &SessionRequest, now: u64) -> Result<SessionAnswer, NoSession> {
        let SessionRequest { datacenter, host, nonce, signature, key: shown, .. } = request;
        let (Some(nonce), Some(signature)) = (nonce, signature) else {
            let nonce = Some(Coded { time: now, name: String::new(), code: self.code(NONCE, now) }.to_string());
            return Ok(SessionAnswer { nonce, ..SessionAnswer::default() });
        };
        let Coded { time, code, .. } = nonce.parse().map_err(|()| NoSession::Nonce)?;
        let is_new = now.checked_sub(time).is_some_and(|age| age <= NONCE_LIVES);
        if !is_new || !self.is_code(NONCE, time, &code) {
            return Err(NoSession::Nonce);
        }
        let shown = shown.as_ref().and_then(|text| text.key().ok());
        let known = self.keys.of(datacenter, host, shown.as_ref());
        let joining = shown.as_ref().filter(|key| self.keys.may_join(datacenter, host, key));
        let key = known.as_ref().or(joining).ok_or(NoSession::Unlisted)?;
        let is_signed =
            signature.len() <= MOST_SIGNATURE_BYTES && verify_session((datacenter, host), nonce, signature, key);
        match (is_signed, known.is_some()) {
            (false, _) => return Err(NoSession::Signature),
            (true, false) => return Err(NoSession::MayJoin),
            (true, true) => {}
        }
        let (time, name) = (now + u64::from(LIVES), format!("{datacenter}/{host} {key}"));
        let code = self.code(&[&name], time);
        let bearer = Some(format!("{BEGINNING}{}", Coded { time, name, code }));
        Ok(SessionAnswer { bearer, lives: Some(LIVES), ..SessionAnswer::default() })
    }

    /// Tells whether a text is meant as a bearer.
    pub(crate) fn is_bearer(text: &str) -> bool {
        text.starts_with(BEGINNING)
    }

    /// Finds whom a bearer proves now.
    pub(crate) fn find(&self, bearer: &str) -> Result<SessionHost, Unproven> {
        self.find_at(bearer, self.start.elapsed().as_secs())
    }

    fn find_at(&self, bearer: &str, now: u64) -> Result<SessionHost, Unproven> {
        let (host, end) = self.read(bearer).ok_or(Unproven::Unknown)?;
        if end <= now { Err(Unproven::Expired) } else { Ok(host) }
    }

    /// Reads a bearer that is of this server, and of a key by which the host is still known.
    fn read(&self, bearer: &str) -> Option<(SessionHost, u64)> {
        let Coded { time, name, code } = bearer.strip_prefix(BEGINNING)?.parse().ok()?;
        if !self.is_code(&[&name], time, &code) {
            return None;
        }
        let (named, key) = name.split_once(' ')?;
        let (datacenter, host) = named.rsplit_once('/')?;
        let host =
            SessionHost { datacenter: datacenter.parse().ok()?, host: host.parse().ok()?, key: key.parse().ok()? };
        self.keys.knows(&host).then_some((host, time))
    }

    /// Follows the keys.
    pub(crate) fn keys(&self) -> KnownKeys {
        self.keys.clone()
    }

    fn mac(&self, words: &[&str], time: u64) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.as_slice()).expect("HMAC takes keys of any length");
        mac.update(&time.to_be_bytes());
        for word in words {
            mac.update(word.as_bytes());
            mac.update(b"\n");
        }
        mac
    }

    fn code(&self, words: &[&str], time: u64) -> [u8; CODE] {
        self.mac(words, time).finalize().into_bytes().into()
    }

    fn is_code(&self, words: &[&str], time: u64, code: &[u8; CODE]) -> bool {
        self.mac(words, time).verify_slice(code).is_ok()
    }
}

impl fmt::Display for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.time.to_be_bytes()[..], self.name.as_bytes(), &self.code].concat();
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Coded {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let text = Some(text).filter(|text| text.len() <= MOST).ok_or(())?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| ())?;
        let (time, rest) = bytes.split_first_chunk::<TIME>().ok_or(())?;
        let (name, code) = rest.split_last_chunk::<CODE>().ok_or(())?;
        let name = String::from_utf8(name.to_vec()).map_err(|_| ())?;
        Ok(Coded { time: u64::from_be_bytes(*time), name, code: *code })
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sessions")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use libconf::name::DatacenterName;

    use super::*;
    use crate::access::{Scope, TokenEntry, TokenHash};
    use crate::secret::Identity;
    use crate::session::HostKeys;
    use crate::sign::sign_session;

    struct Site {
        _folder: tempfile::TempDir,
        own: Identity,
        other: Identity,
        sender: watch::Sender<Arc<Keyring>>,
        joined: watch::Sender<Arc<AccessTable>>,
        sessions: Sessions,
    }

    impl Site {
        /// Another server with the same keys, or this one after a restart.
        fn again(&self) -> Sessions {
            Sessions::new(self.sender.subscribe(), self.joined.subscribe())
        }
    }

    fn keyring(hosts: &[(&str, &Identity)]) -> Arc<Keyring> {
        let hosts: BTreeMap<_, _> =
            hosts.iter().map(|(name, of)| (name.parse().unwrap(), Some(of.recipient().clone()))).collect();
        let mut keys = Keyring::default();
        assert!(keys.put(&"lab/v1".parse().unwrap(), &Arc::new(hosts)));
        Arc::new(keys)
    }

    fn site() -> Site {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| Identity::create(&folder.path().join(name)).unwrap();
        let (own, other) = (make("own"), make("other"));
        let (sender, keys) = watch::channel(keyring(&[("web-1", &own), ("web-2", &other)]));
        let (joined, table) = watch::channel(Arc::default());
        Site { _folder: folder, own, other, sender, joined, sessions: Sessions::new(keys, table) }
    }

    fn request(host: &str) -> SessionRequest {
        SessionRequest {
            datacenter: "lab/v1".parse().unwrap(),
            host: host.parse().unwrap(),
            nonce: None,
            signature: None,
            key: None,
            join: None,
        }
    }

    fn signed(sessions: &Sessions, host: &str, identity: &Identity, now: u64) -> SessionRequest {
        let asked = request(host);
        let nonce = sessions.answer_at(&asked, now).unwrap().nonce.unwrap();
        let signature = sign_session((&asked.datacenter, &asked.host), &nonce, identity);
        SessionRequest { nonce: Some(nonce), signature, ..asked }
    }

    #[test]
    fn a_host_that_signs_a_nonce_has_a_bearer_for_ten_minutes() {
        let site = site();
        let answer = site.sessions.answer_at(&signed(&site.sessions, "web-1", &site.own, 5), 6).unwrap();
        let bearer = answer.bearer.unwrap();
        assert!(Sessions::is_bearer(&bearer) && answer.lives == Some(600) && bearer.len() < MOST);
        let host = site.sessions.find_at(&bearer, 605).unwrap();
        assert_eq!((host.datacenter.to_string(), host.host.as_str()), ("lab/v1".to_owned(), "web-1"));
        assert_eq!(site.sessions.find_at(&bearer, 606), Err(Unproven::Expired));
        // Another server, or this one after a restart.
        let again = site.again();
        assert_eq!(again.find_at(&bearer, 6), Err(Unproven::Unknown));
    }

    #[test]
    fn what_is_not_signed_by_the_listed_key_opens_nothing() {
        let site = site();
        let refused = |request: &SessionRequest, now| site.sessions.answer_at(request, now).unwrap_err();
        let of = |host: &str, identity: &Identity| signed(&site.sessions, host, identity, 100);
        assert_eq!(refused(&of("web-1", &site.other), 100), NoSession::Signature);
        assert_eq!(refused(&of("web-3", &site.own), 100), NoSession::Unlisted);
        let good = of("web-1", &site.own);
        site.sessions.answer_at(&good, 160).unwrap();
        assert_eq!(refused(&good, 161), NoSession::Nonce);
        assert_eq!(refused(&good, 99), NoSession::Nonce);
        assert_eq!(
            refused(&SessionRequest { host: "web-2".parse().unwrap(), ..good.clone() }, 100),
            NoSession::Signature
        );
        let elsewhere = SessionRequest { datacenter: "lab/v2".parse().unwrap(), ..good.clone() };
        assert_eq!(refused(&elsewhere, 100), NoSession::Unlisted);
        for nonce in ["", "x", &"A".repeat(60), &"A".repeat(5000)] {
            assert_eq!(
                refused(&SessionRequest { nonce: Some(nonce.to_owned()), ..good.clone() }, 100),
                NoSession::Nonce
            );
        }
        let foreign = site.again();
        assert_eq!(refused(&signed(&foreign, "web-1", &site.own, 100), 100), NoSession::Nonce);
    }

    #[test]
    fn a_session_ends_with_its_key_and_is_of_one_host() {
        let site = site();
        let open = |host: &str, of: &Identity| {
            site.sessions.answer_at(&signed(&site.sessions, host, of, 0), 0).unwrap().bearer.unwrap()
        };
        let (first, second) = (open("web-1", &site.own), open("web-2", &site.other));
        // The name of one and the code of the other.
        let coded = |bearer: &str| bearer.strip_prefix(BEGINNING).unwrap().parse::<Coded>().unwrap();
        let mixed = Coded { name: coded(&second).name, ..coded(&first) };
        assert_eq!(site.sessions.find_at(&format!("{BEGINNING}{mixed}"), 1), Err(Unproven::Unknown));
        let longer = Coded { time: 900, ..coded(&first) };
        assert_eq!(site.sessions.find_at(&format!("{BEGINNING}{longer}"), 1), Err(Unproven::Unknown));
        let nonce = site.sessions.answer_at(&request("web-1"), 0).unwrap().nonce.unwrap();
        assert_eq!(site.sessions.find_at(&format!("{BEGINNING}{nonce}"), 1), Err(Unproven::Unknown));
        let host = site.sessions.find_at(&first, 1).unwrap();
        assert!(site.sessions.keys().knows(&host));
        site.sender.send_replace(keyring(&[("web-1", &site.other), ("web-2", &site.other)]));
        assert_eq!(site.sessions.find_at(&first, 1), Err(Unproven::Unknown));
        assert!(!site.sessions.keys().knows(&host));
        site.sessions.find_at(&second, 1).unwrap();
        site.sender.send_replace(Arc::default());
        assert_eq!(site.sessions.find_at(&second, 1), Err(Unproven::Unknown));
    }

    #[test]
    fn a_key_with_which_a_host_joined_counts_where_the_inventory_names_none() {
        let site = site();
        let lab: DatacenterName = "lab/v1".parse().unwrap();
        let list = |hosts: HostKeys| {
            let mut keys = Keyring::default();
            keys.put(&lab, &Arc::new(hosts));
            site.sender.send_replace(Arc::new(keys));
        };
        let unlisted = || HostKeys::from([("web-9".parse().unwrap(), None), ("web-8".parse().unwrap(), None)]);
        let shows = |host: &str, of: &Identity| {
            let request = signed(&site.sessions, host, of, 0);
            SessionRequest { key: Some(of.recipient().into()), ..request }
        };
        let answer = |request: &SessionRequest| site.sessions.answer_at(request, 0).map(|one| one.bearer.unwrap());
        assert_eq!(answer(&shows("web-1", &site.other)), Err(NoSession::Signature), "the inventory names a key");
        assert_eq!(answer(&shows("web-9", &site.own)), Err(NoSession::Unlisted));
        list(unlisted());
        assert_eq!(answer(&shows("web-9", &site.own)), Err(NoSession::MayJoin));
        // Who shows a key has it.
        let foreign = SessionRequest { key: Some(site.other.recipient().into()), ..shows("web-9", &site.own) };
        assert_eq!(answer(&foreign), Err(NoSession::Signature));
        let join = |revoked: Option<i64>| {
            let (key, mut table) = (site.own.recipient().clone(), AccessTable::default());
            let scope = Scope::Host { datacenter: lab.clone(), host: "web-9".parse().unwrap() };
            let (hash, made) = (TokenHash::of_key(&lab, &key), (0, "fleet".to_owned()));
            let entry =
                TokenEntry { revoked, key: Some(key), ..TokenEntry::new(hash, "web-9".parse().unwrap(), scope, made) };
            table.put(entry, 0).unwrap();
            site.joined.send_replace(Arc::new(table));
        };
        join(None);
        let bearer = answer(&shows("web-9", &site.own)).unwrap();
        assert!(bearer.len() < MOST);
        let host = site.sessions.find_at(&bearer, 1).unwrap();
        assert_eq!(answer(&shows("web-8", &site.own)), Err(NoSession::MayJoin), "it joined under another name");
        // The inventory lists no hosts, or this one by its key, and then not any more.
        list(HostKeys::default());
        site.sessions.find_at(&bearer, 1).unwrap();
        list(HostKeys::from([("web-9".parse().unwrap(), Some(site.own.recipient().clone()))]));
        site.sessions.find_at(&bearer, 1).unwrap();
        list(HostKeys::from([("web-9".parse().unwrap(), Some(site.other.recipient().clone()))]));
        assert_eq!(site.sessions.find_at(&bearer, 1), Err(Unproven::Unknown));
        list(HostKeys::from([("web-7".parse().unwrap(), None)]));
        assert_eq!(site.sessions.find_at(&bearer, 1), Err(Unproven::Unknown));
        list(unlisted());
        site.sessions.find_at(&bearer, 1).unwrap();
        join(Some(1));
        assert_eq!(site.sessions.find_at(&bearer, 1), Err(Unproven::Unknown));
        assert!(!site.sessions.keys().knows(&host));
    }
}
