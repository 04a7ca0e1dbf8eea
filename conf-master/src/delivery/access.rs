//! The statements that conf-master signs about who may ask a conf-slave.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use conf_core::access::{AccessEvent, AccessReader, AccessTable, Place, Policy, Principal, TokenEntry, Verb};
use conf_core::daemon::chain;
use conf_core::sign::{KeyError, SigningKey, sign_access};
use libconf::name::{DatacenterName, Sequence};
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::error;

use crate::text::now;

/// Signs each statement once for all conf-slaves of a datacenter.
#[derive(Debug)]
pub(crate) struct AccessStatements {
    key: SigningKey,
    /// The server asks nobody for a token.
    is_open: bool,
    signed: Mutex<BTreeMap<DatacenterName, Signed>>,
}

/// The last statement for a datacenter, and the tokens of which it was made.
type Signed = (Arc<AccessTable>, Arc<AccessEvent>);

impl AccessStatements {
    /// Signs by this key.
    pub(crate) fn new(key: SigningKey, is_open: bool) -> Self {
        AccessStatements { key, is_open, signed: Mutex::default() }
    }

    /// Returns the statement about a datacenter, by these tokens, at the change `central`.
    pub(crate) fn of(
        &self,
        tokens: &Arc<AccessTable>,
        central: Sequence,
        datacenter: &DatacenterName,
    ) -> Result<Arc<AccessEvent>, KeyError> {
        let last = self.signed.lock().get(datacenter).cloned();
        if let Some((_, last)) = last.filter(|(of, _)| Arc::ptr_eq(of, tokens)) {
            return Ok(last);
        }
        let (now, policy, only) = (now(), Policy::initial(), BTreeSet::from([datacenter.clone()]));
        let place = Place { datacenters: &only, ..Place::nowhere() };
        let may_read = |one: &TokenEntry| policy.check(&Principal::Named(one.principal()), Verb::Read, place).is_ok();
        let live = tokens.tokens().filter(|one| one.fault(now).is_none() && may_read(one));
        let readers = live.map(|one| AccessReader {
            hash: one.hash.clone(),
            name: one.name.clone(),
            scope: one.scope.clone(),
            expires: one.expires,
        });
        let (readers, datacenter) = (readers.collect(), datacenter.clone());
        let statement = AccessEvent {
            central,
            time: now,
            datacenter: datacenter.clone(),
            open: self.is_open,
            readers,
            signature: String::new(),
        };
        // Signs without the lock, so that others sign theirs meanwhile.
        let signed = Arc::new(sign_access(statement, &self.key)?);
        self.signed.lock().insert(datacenter, (tokens.clone(), signed.clone()));
        Ok(signed)
    }
}

/// The statements about one datacenter, for one reader.
#[derive(Debug)]
pub(crate) struct AccessFeed {
    tokens: watch::Receiver<Arc<AccessTable>>,
    statements: Arc<AccessStatements>,
    told: Option<Arc<AccessEvent>>,
}

impl AccessFeed {
    /// Follows the tokens from now on; the first statement comes at once.
    pub(crate) fn new(mut tokens: watch::Receiver<Arc<AccessTable>>, statements: Arc<AccessStatements>) -> Self {
        tokens.mark_changed();
        AccessFeed { tokens, statements, told: None }
    }

    /// Waits until the tokens change; never ends once the server stops.
    pub(crate) async fn changed(&mut self) {
        if self.tokens.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns the newest statement, unless it says what the last one did.
    pub(crate) fn next(&mut self, central: Sequence, datacenter: &DatacenterName) -> Option<Arc<AccessEvent>> {
        let tokens = self.tokens.borrow_and_update().clone();
        match self.statements.of(&tokens, central, datacenter) {
            Ok(statement) if self.told.as_ref().is_some_and(|told| told.says_the_same(&statement)) => None,
            Ok(statement) => {
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

    use super::*;

    #[test]
    fn a_statement_names_those_who_read_the_datacenter() {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::generate(&folder.path().join("key"), "test").unwrap();
        let statements = AccessStatements::new(key, false);
        let mut table = AccessTable::default();
        let mut add = |name: &str, scope: Scope, expires: Option<i64>| {
            let entry = TokenEntry {
                hash: Token::generate().hash(),
                name: name.parse().unwrap(),
                groups: BTreeSet::new(),
                scope,
                created: 0,
                by: "test".to_owned(),
                expires,
                revoked: None,
            };
            table.put(entry, now()).unwrap();
        };
        let host = |of: &str| Scope::Host { datacenter: of.parse().unwrap(), host: "web-1".parse().unwrap() };
        add("cache", Scope::Slave("lab/*".to_owned()), None);
        add("elsewhere", Scope::Slave("prod/*".to_owned()), None);
        add("web-1", host("lab/v1"), None);
        add("web-2", host("lab/v2"), None);
        add("late", host("lab/v1"), Some(now() - 1));
        let tokens = Arc::new(table);
        let lab = "lab/v1".parse().unwrap();
        let statement = statements.of(&tokens, Sequence(3), &lab).unwrap();
        let names: BTreeSet<&str> = statement.readers.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, BTreeSet::from(["cache", "web-1"]));
        // One signature for all who ask, until the tokens change.
        assert!(Arc::ptr_eq(&statement, &statements.of(&tokens, Sequence(4), &lab).unwrap()));
        let changed = Arc::new(AccessTable::clone(&tokens));
        assert!(!Arc::ptr_eq(&statement, &statements.of(&changed, Sequence(4), &lab).unwrap()));
    }
}
