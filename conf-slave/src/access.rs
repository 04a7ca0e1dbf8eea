//! Who may ask this conf-slave: what conf-master said last, kept over a restart, so that this
//! program decides alone while conf-master is away.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use conf_core::access::{AccessEvent, AccessTable, Principal, Scope, TokenEntry, TokenHash};
use conf_core::daemon::chain;
use conf_core::git::{self, Durability};
use conf_core::sign::{KeyError, TrustedKeys, verify_access};
use http::{Method, Uri};
use libconf::name::{BadName, DatacenterName, HostName, Sequence};
use parking_lot::Mutex;
use tokio::sync::watch;

/// The file in the state folder. It holds hashes of tokens, and no token.
const FILE: &str = "access.json";

/// The name of this program's own token.
const OWN_NAME: &str = "conf-slave";

/// Who may ask this conf-slave.
#[derive(Debug)]
pub(crate) struct Access {
    path: PathBuf,
    datacenter: DatacenterName,
    keys: TrustedKeys,
    /// By what this program asks itself.
    own: TokenEntry,
    newest: Mutex<Option<AccessEvent>>,
    /// The change of the newest list; 0 without one.
    change: AtomicU64,
    table: watch::Sender<Arc<AccessTable>>,
}

/// Why a statement is ignored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotTaken {
    /// It is not by conf-master, or for another datacenter.
    #[error("it is not good")]
    Bad(#[from] KeyError),
    /// It is older than the last one, and says something else.
    #[error(
        "it is of change {older}, and the list here is of change {here}; if the central repository was put back to an older \
         state, remove access.json from the state folder and start this slave again"
    )]
    Older {
        /// The change of the statement.
        older: Sequence,
        /// The change of the last one.
        here: Sequence,
    },
}

impl Access {
    /// Reads what was said before the start. Without that, or where it is not signed by
    /// conf-master, nobody may ask until conf-master is heard. `own` is the token by which this
    /// program asks itself. Blocks.
    pub(crate) fn open(
        state: &Path,
        datacenter: DatacenterName,
        keys: TrustedKeys,
        own: &TokenHash,
    ) -> Result<Self, BadName> {
        let path = state.join(FILE);
        let read = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<AccessEvent>(&text).ok());
        let good = read.filter(|one| match verify_access(one, &datacenter, &keys) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(error = chain(&error), path = %path.display(), "who may ask is asked for anew");
                false
            }
        });
        let scope = Scope::Slave(datacenter.to_string());
        let own = TokenEntry::new(own.clone(), OWN_NAME.parse()?, scope, (0, OWN_NAME.to_owned()));
        let table = watch::Sender::new(Arc::new(table_of(good.as_ref(), &own)));
        let change = AtomicU64::new(good.as_ref().map_or(0, |good| good.central.0));
        Ok(Access { path, datacenter, keys, own, newest: Mutex::new(good), change, table })
    }

    /// The tokens that open this conf-slave, now and from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<AccessTable>> {
        self.table.subscribe()
    }

    /// Returns the newest list, as conf-master signed it.
    pub(crate) fn newest(&self) -> Option<AccessEvent> {
        self.newest.lock().clone()
    }

    /// Names the list that says who may ask: by the change that it is of.
    pub(crate) fn version(&self) -> Option<String> {
        // Not by the newest one itself, which is held while it is written.
        let change = self.change.load(Ordering::Relaxed);
        (change > 0).then(|| format!("#{change}"))
    }

    /// Takes a statement of conf-master in place of an older one, and keeps it. Blocks.
    pub(crate) fn take(&self, statement: AccessEvent) -> Result<(), NotTaken> {
        verify_access(&statement, &self.datacenter, &self.keys)?;
        let mut newest = self.newest.lock();
        // What a key has signed that was revoked since counts no more.
        newest.take_if(|newest| verify_access(newest, &self.datacenter, &self.keys).is_err());
        if let Some(newest) = newest.as_ref().filter(|newest| !statement.follows(newest)) {
            let (older, here) = (statement.central, newest.central);
            return if statement.says_the_same(newest) { Ok(()) } else { Err(NotTaken::Older { older, here }) };
        }
        let is_new = newest.as_ref().is_none_or(|newest| !statement.says_the_same(newest));
        let written = serde_json::to_vec(&statement).map_err(std::io::Error::from);
        let written = written.and_then(|text| git::replace_file(&self.path, &text, 0o600, Durability::Full));
        if let Err(error) = written {
            tracing::error!(%error, path = %self.path.display(), "who may ask cannot be kept over a restart");
        }
        if is_new {
            self.table.send_replace(Arc::new(table_of(Some(&statement), &self.own)));
            tracing::info!(open = statement.open, tokens = statement.readers.len(), "conf-master said who may ask");
        }
        self.change.store(statement.central.0, Ordering::Relaxed);
        *newest = Some(statement);
        Ok(())
    }
}

/// The tokens of a statement, and this program's own.
fn table_of(statement: Option<&AccessEvent>, own: &TokenEntry) -> AccessTable {
    let mut table = statement.map_or_else(AccessTable::awaited, AccessEvent::table);
    if let Err(full) = table.put(own.clone(), 0) {
        tracing::error!(error = chain(&full), "this program cannot ask itself as Consul");
    }
    table
}

/// Says why somebody with a good token may not ask for this. All of them read; who reports, and for
/// whom, is said by [`may_report`].
pub(crate) fn objection(who: &Principal, method: &Method, uri: &Uri) -> Result<(), String> {
    let scope = who.named().map(|named| &named.scope);
    let parts: Vec<&str> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        ["api", "v1", "access"] | ["api", "v1", "datacenters", _, _, "access"]
            if matches!(scope, Some(Scope::Host { .. } | Scope::Join(_))) =>
        {
            return Err(format!("{who} may not ask who else may"));
        }
        ["api", "v1", "datacenters", ..] if !matches!(*method, Method::GET | Method::HEAD) && !may_relay(who) => {
            return Err(format!("{who} may not have anything passed on; that needs the token of a conf-slave"));
        }
        _ => {}
    }
    let writes_keys = uri.path().starts_with("/v1/") && !matches!(*method, Method::GET | Method::HEAD);
    match scope {
        Some(Scope::Policy | Scope::Host { .. } | Scope::Join(_)) if writes_keys => {
            Err(format!("{who} may not write keys; that needs the token of a conf-slave"))
        }
        _ => Ok(()),
    }
}

/// Tells whether somebody follows this conf-slave as one that has it pass on what goes to
/// conf-master: another conf-slave, or whoever asks where nobody needs a token.
pub(crate) fn may_relay(who: &Principal) -> bool {
    match who.named().map(|named| &named.scope) {
        Some(Scope::Policy | Scope::Host { .. } | Scope::Join(_)) => false,
        Some(Scope::Slave(_)) | None => true,
    }
}

/// Tells whether somebody reports for a host: the host itself, a conf-slave, or whoever asks where
/// nobody needs a token.
pub(crate) fn may_report(who: &Principal, host: &HostName) -> bool {
    match who {
        Principal::Named(named) => match &named.scope {
            Scope::Host { host: own, .. } => own == host,
            Scope::Slave(_) => true,
            Scope::Policy | Scope::Join(_) => false,
        },
        Principal::Anybody | Principal::Owner(_) | Principal::Server => true,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use conf_core::access::{AccessReader, Token};
    use conf_core::sign::{SigningKey, public_path, sign_access, sign_statement};

    struct Centre {
        folder: tempfile::TempDir,
        key: SigningKey,
    }

    impl Centre {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let key = SigningKey::generate(&folder.path().join("key"), "test").unwrap();
            Centre { folder, key }
        }

        fn access(&self) -> Access {
            let keys = TrustedKeys::load(&public_path(&self.folder.path().join("key"))).unwrap();
            Access::open(self.folder.path(), "lab/v1".parse().unwrap(), keys, &Token::generate().hash()).unwrap()
        }

        fn statement(&self, central: u64, time: i64, tokens: &[&Token]) -> AccessEvent {
            let reader = |token: &&Token| AccessReader {
                hash: token.hash(),
                name: "web-1".parse().unwrap(),
                scope: Scope::Slave("lab/*".to_owned()),
                expires: None,
                key: None,
            };
            let statement = AccessEvent {
                central: Sequence(central),
                time,
                datacenter: "lab/v1".parse().unwrap(),
                open: tokens.is_empty(),
                readers: tokens.iter().map(reader).collect(),
                signature: String::new(),
            };
            sign_access(statement, &self.key).unwrap()
        }
    }

    fn opens(access: &Access, token: &Token) -> bool {
        access.subscribe().borrow().find(&token.hash(), 1).is_ok()
    }

    #[test]
    fn what_conf_master_hears_comes_from_conf_slaves_and_not_from_their_hosts() {
        let who = |scope: Option<Scope>| {
            let named = |scope| {
                let entry =
                    TokenEntry::new(Token::generate().hash(), "one".parse().unwrap(), scope, (0, String::new()));
                Principal::Named(entry.principal())
            };
            scope.map_or(Principal::Anybody, named)
        };
        let host = Scope::Host { datacenter: "lab/v1".parse().unwrap(), host: "web-1".parse().unwrap() };
        let [slave, host, reader, anybody] =
            [Some(Scope::Slave("lab/*".to_owned())), Some(host), Some(Scope::Policy), None].map(who);
        let may = |who: &Principal, method: Method, uri: &str| objection(who, &method, &uri.parse().unwrap()).is_ok();
        for path in [
            "/api/v1/datacenters/lab/v1/hosts",
            "/api/v1/datacenters/lab/v1/hosts/web-1/key/",
            "//api/v1/datacenters/x",
        ] {
            let may = [&slave, &anybody, &host, &reader].map(|one| may(one, Method::POST, path));
            assert_eq!(may, [true, true, false, false], "{path}");
        }
        for path in [
            "/api/v1/access",
            "/api/v1/access/",
            "/api/v1/datacenters/lab/v1/access",
            "/api/v1/datacenters/lab/v1/access/",
        ] {
            let may = [&slave, &anybody, &reader, &host].map(|one| may(one, Method::GET, path));
            assert_eq!(may, [true, true, true, false], "{path}");
        }
        assert!(may(&host, Method::GET, "/api/v1/datacenters/lab/v1/freshness"));
    }

    #[test]
    fn the_newest_word_counts_and_outlives_a_restart() {
        let (centre, first, second) = (Centre::new(), Token::generate(), Token::generate());
        let access = centre.access();
        assert!(!opens(&access, &first) && !access.subscribe().borrow().is_open());
        access.take(centre.statement(5, 100, &[&first])).unwrap();
        assert!(opens(&access, &first));
        // An older one that somebody kept revives nothing, and opens nothing.
        access.take(centre.statement(6, 50, &[&second])).unwrap();
        access.take(centre.statement(6, 50, &[&second])).unwrap();
        for old in [centre.statement(5, 200, &[&first]), centre.statement(6, 50, &[]), centre.statement(6, 49, &[])] {
            let said = access.take(old).unwrap_err().to_string();
            assert!(said.contains("remove access.json"), "{said}");
            assert!(opens(&access, &second) && !opens(&access, &first));
            assert!(!access.subscribe().borrow().is_open());
        }
        let again = centre.access();
        assert!(opens(&again, &second) && !opens(&again, &first));
        again.take(centre.statement(6, 51, &[])).unwrap();
        assert!(again.subscribe().borrow().is_open());
    }

    #[test]
    fn what_conf_master_did_not_sign_opens_nothing() {
        let (centre, other, token) = (Centre::new(), Centre::new(), Token::generate());
        let access = centre.access();
        access.take(other.statement(9, 100, &[&token])).unwrap_err();
        let mut changed = centre.statement(9, 100, &[&token]);
        changed.open = true;
        access.take(changed.clone()).unwrap_err();
        assert!(!opens(&access, &token));
        fs::write(centre.folder.path().join(FILE), serde_json::to_vec(&changed).unwrap()).unwrap();
        let again = centre.access();
        assert!(!opens(&again, &token) && !again.subscribe().borrow().is_open());
        fs::write(centre.folder.path().join(FILE), "{").unwrap();
        assert!(!opens(&centre.access(), &token));
    }

    #[test]
    fn a_list_that_a_revoked_key_has_signed_counts_no_more() {
        let (centre, first, second) = (Centre::new(), Token::generate(), Token::generate());
        let (access, next) =
            (centre.access(), SigningKey::generate(&centre.folder.path().join("next"), "test").unwrap());
        access.take(centre.statement(9, 1_000_000, &[&first])).unwrap();
        let revokes = vec![centre.key.fingerprint()];
        let statement = sign_statement(&[], (Sequence(10), 0), revokes, (&centre.key, &next)).unwrap();
        access.keys.follow(&[statement]).unwrap();
        access.take(centre.statement(9, 2_000_000, &[&first])).unwrap_err();
        // Of an earlier time than the one before it.
        let by_next = sign_access(AccessEvent { time: 5, ..centre.statement(9, 5, &[&second]) }, &next).unwrap();
        access.take(by_next).unwrap();
        assert!(opens(&access, &second) && !opens(&access, &first));
    }
}
