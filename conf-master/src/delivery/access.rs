//! The statements that conf-master signs about who may ask a conf-slave.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use conf_core::access::{AccessEvent, AccessReader, AccessTable, Place, Policy, Principal, TokenEntry, Verb};
use conf_core::daemon::chain;
use conf_core::sign::{KeyError, SigningKey, sign_access};
use libconf::name::DatacenterName;
use parking_lot::Mutex;
use tracing::error;

use crate::judge::Rights;
use crate::landing::Published;
use crate::text::now;

/// Signs each statement once for all conf-slaves of a datacenter.
#[derive(Debug)]
pub(crate) struct AccessStatements {
    /// When this began, in seconds since 1970. What is signed is dated later: one that ran here
    /// before may have signed something else about the same change in this very second, and of two
    /// with one date conf-slaves keep the first.
    began: i64,
    signed: Mutex<BTreeMap<DatacenterName, Signed>>,
}

/// The last statement for a datacenter, the tokens and the policy of which it was made, and the key
/// that has signed it.
type Signed = (Arc<AccessTable>, Arc<Policy>, Arc<SigningKey>, Arc<AccessEvent>);

impl AccessStatements {
    /// Has signed nothing yet.
    pub(crate) fn new() -> Self {
        AccessStatements { began: now(), signed: Mutex::default() }
    }

    /// Returns the statement about a datacenter, by the rights that were published. Those about
    /// datacenters that do not exist are not kept, since anybody may make up names.
    pub(crate) fn of(&self, published: &Published, datacenter: &DatacenterName) -> Result<Arc<AccessEvent>, KeyError> {
        let (rights, central) = (&published.rights, published.sequence);
        let keeps = published.datacenters.contains_key(datacenter) || published.deleted.contains(datacenter);
        let Rights { tokens, policy, is_open: open, .. } = rights;
        let key = published.signer.as_ref().ok_or(KeyError::NoKey)?;
        let last = self.signed.lock().get(datacenter).cloned();
        let is_same = |(by, under, signer, _): &Signed| {
            Arc::ptr_eq(by, tokens) && Arc::ptr_eq(under, policy) && Arc::ptr_eq(signer, key)
        };
        if let Some((.., last)) = last.filter(is_same) {
            return Ok(last);
        }
        let (time, only) = (now(), BTreeSet::from([datacenter.clone()]));
        let place = Place { datacenters: &only, ..Place::nowhere() };
        let may_read = |one: &&TokenEntry| {
            let principal = Principal::Named(one.principal());
            one.fault(time).is_none() && policy.check(&principal, Verb::Read, place).is_ok()
        };
        let readers = tokens.tokens().filter(may_read).map(|one| AccessReader {
            hash: one.hash.clone(),
            name: one.name.clone(),
            scope: one.scope.clone(),
            expires: one.expires,
            key: one.key.clone(),
        });
        let (readers, open, signature) = (readers.collect(), *open, String::new());
        let time = time.max(self.began + 1);
        let statement = AccessEvent { central, time, datacenter: datacenter.clone(), open, readers, signature };
        // Signs without the lock, so that others sign theirs meanwhile.
        let signed = Arc::new(sign_access(statement, key)?);
        if keeps {
            let signed = (tokens.clone(), policy.clone(), key.clone(), signed.clone());
            self.signed.lock().insert(datacenter.clone(), signed);
        }
        Ok(signed)
    }
}

/// The statements about one datacenter, for one reader.
#[derive(Debug)]
pub(crate) struct AccessFeed {
    statements: Arc<AccessStatements>,
    told: Option<Arc<AccessEvent>>,
    /// What has signed it.
    signer: Option<Arc<SigningKey>>,
}

impl AccessFeed {
    /// Has told nothing yet.
    pub(crate) fn new(statements: Arc<AccessStatements>) -> Self {
        AccessFeed { statements, told: None, signer: None }
    }

    /// Returns the newest statement, unless it says what the last one did under the same key: one
    /// under a key that may be revoked must not be what counts.
    pub(crate) fn next(&mut self, published: &Published, datacenter: &DatacenterName) -> Option<Arc<AccessEvent>> {
        let is_same_key = self.signer.as_ref().map(Arc::as_ptr) == published.signer.as_ref().map(Arc::as_ptr);
        let is_told = |statement: &AccessEvent| self.told.as_ref().is_some_and(|told| told.says_the_same(statement));
        match self.statements.of(published, datacenter) {
            Ok(statement) if is_same_key && is_told(&statement) => None,
            Ok(statement) => {
                self.signer.clone_from(&published.signer);
                self.told = Some(statement.clone());
                Some(statement)
            }
            Err(error) => {
                error!(error = chain(&error), %datacenter, "a list of who may ask cannot be signed");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use conf_core::access::{Scope, Token};
    use libconf::name::Sequence;

    use super::*;

    #[test]
    fn a_statement_names_those_who_read_the_datacenter() {
        let folder = tempfile::tempdir().unwrap();
        let key = |name: &str| Some(Arc::new(SigningKey::generate(&folder.path().join(name), name).unwrap()));
        let (signer, other) = (key("key"), key("other"));
        let statements = Arc::new(AccessStatements::new());
        let mut table = AccessTable::default();
        let mut add = |name: &str, scope: Scope, expires: Option<i64>| {
            let (hash, name) = (Token::generate().hash(), name.parse().unwrap());
            let entry = TokenEntry { expires, ..TokenEntry::new(hash, name, scope, (0, "test".to_owned())) };
            table.put(entry, now()).unwrap();
        };
        let host = |of: &str| Scope::Host { datacenter: of.parse().unwrap(), host: "web-1".parse().unwrap() };
        add("cache", Scope::Slave("lab/*".to_owned()), None);
        add("elsewhere", Scope::Slave("prod/*".to_owned()), None);
        add("web-1", host("lab/v1"), None);
        add("web-2", host("lab/v2"), None);
        add("late", host("lab/v1"), Some(now() - 1));
        let rights = Rights { tokens: Arc::new(table), policy: Arc::new(Policy::initial()), ..Rights::default() };
        let lab: DatacenterName = "lab/v1".parse().unwrap();
        let of = |rights: &Rights, central: u64, deleted: bool| {
            let deleted = deleted.then(|| lab.clone()).into_iter().collect();
            let published =
                Published { sequence: Sequence(central), rights: rights.clone(), deleted, ..Published::default() };
            let published = Published { signer: signer.clone(), ..published };
            statements.of(&published, &lab).unwrap()
        };
        // One that does not exist leaves nothing behind.
        assert!(!Arc::ptr_eq(&of(&rights, 3, false), &of(&rights, 3, false)));
        assert!(statements.signed.lock().is_empty());
        let statement = of(&rights, 3, true);
        let names: BTreeSet<&str> = statement.readers.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, BTreeSet::from(["cache", "web-1"]));
        // One signature for all who ask, until the tokens or the policy change.
        assert!(Arc::ptr_eq(&statement, &of(&rights, 4, true)));
        let changed = Rights { tokens: Arc::new(AccessTable::clone(&rights.tokens)), ..rights.clone() };
        assert!(!Arc::ptr_eq(&statement, &of(&changed, 4, true)));
        let text = "rights: [{group: administrators, may: [administer]}]\n";
        let policy = Arc::new(Policy::parse(text).unwrap());
        let under = of(&Rights { policy, ..changed }, 5, true);
        assert_eq!(under.central, Sequence(5));
        // What another key signs is told again.
        let mut feed = AccessFeed::new(statements.clone());
        let mut told = |signer: &Option<Arc<SigningKey>>| {
            let published = Published { rights: rights.clone(), signer: signer.clone(), ..Published::default() };
            feed.next(&published, &lab).is_some()
        };
        assert!(told(&signer) && !told(&signer) && told(&other) && !told(&other));
    }

    #[test]
    fn a_statement_after_a_restart_counts_within_the_same_second() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let signer = Some(Arc::new(SigningKey::generate(&path, "test").unwrap()));
        let lab: DatacenterName = "lab/v1".parse().unwrap();
        let of = |statements: &AccessStatements, open: bool| {
            let rights = if open { Rights::open() } else { Rights::default() };
            statements.of(&Published { rights, signer: signer.clone(), ..Published::default() }, &lab).unwrap()
        };
        let before = of(&AccessStatements { began: now() - 60, ..AccessStatements::new() }, true);
        let after = of(&AccessStatements::new(), false);
        assert_eq!(after.central, before.central);
        assert!(after.follows(&before), "{} and {}", after.time, before.time);
    }
}
