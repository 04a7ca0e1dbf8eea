//! Signatures on statements about who may ask a conf-slave.

use crate::access::{AccessEvent, AccessReader};
use crate::sign::key::{KeyError, SigningKey};
use crate::sign::trusted::TrustedKeys;
use libconf::name::DatacenterName;

/// The namespace of these signatures (`ssh-keygen -Y verify -n`).
const NAMESPACE: &str = "conf-access";

/// Signs a statement.
pub fn sign_access(mut statement: AccessEvent, key: &SigningKey) -> Result<AccessEvent, KeyError> {
    statement.signature = key.sign_for(NAMESPACE, statement.text().as_bytes())?;
    Ok(statement)
}

/// Checks that a statement is for this datacenter, and signed by a key that is trusted for its
/// snapshots.
pub fn verify_access(statement: &AccessEvent, datacenter: &DatacenterName, keys: &TrustedKeys) -> Result<(), KeyError> {
    if statement.datacenter != *datacenter {
        return Err(KeyError::BadSignature(format!("it is the list of {}", statement.datacenter)));
    }
    if !statement.readers.iter().all(AccessReader::is_coherent) {
        return Err(KeyError::BadSignature("a key in it is not the one that was signed".to_owned()));
    }
    keys.verify_present(NAMESPACE, statement.text().as_bytes(), &statement.signature)
}

#[cfg(test)]
mod tests {
    use libconf::name::Sequence;

    use super::*;
    use crate::access::{Scope, Token, TokenHash};
    use crate::secret::Identity;
    use crate::sign::key::public_path;

    #[test]
    fn a_changed_statement_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let key = |name: &str| {
            let path = folder.path().join(name);
            (SigningKey::generate(&path, name).unwrap(), TrustedKeys::load(&public_path(&path)).unwrap())
        };
        let ((key, trusted), (_, others)) = (key("own"), key("other"));
        let reader = |expires| AccessReader {
            hash: Token::generate().hash(),
            name: "web-1".parse().unwrap(),
            scope: Scope::Host { datacenter: "lab/v1".parse().unwrap(), host: "web-1".parse().unwrap() },
            expires,
            key: None,
        };
        let datacenter: DatacenterName = "lab/v1".parse().unwrap();
        let identity = |name: &str| Identity::create(&folder.path().join(name)).unwrap().recipient().clone();
        let (joined, foreign) = (identity("joined"), identity("foreign"));
        let joined = AccessReader { hash: TokenHash::of_key(&datacenter, &joined), key: Some(joined), ..reader(None) };
        let statement = AccessEvent {
            central: Sequence(9),
            time: 100,
            datacenter: datacenter.clone(),
            open: false,
            readers: vec![reader(None), reader(Some(200)), joined],
            signature: String::new(),
        };
        let good = sign_access(statement, &key).unwrap();
        verify_access(&good, &datacenter, &trusted).unwrap();
        verify_access(&good, &datacenter, &others).unwrap_err();
        verify_access(&good, &"lab/v2".parse().unwrap(), &trusted).unwrap_err();
        let changes: [fn(&mut AccessEvent); 8] = [
            |one| one.central.0 += 1,
            |one| one.time += 1,
            |one| one.open = true,
            |one| drop(one.readers.pop()),
            |one| one.readers[0].expires = Some(1),
            |one| one.readers[1].expires = None,
            |one| one.readers[0].scope = Scope::Slave("*".to_owned()),
            |one| one.readers[0].hash = Token::generate().hash(),
        ];
        for (at, change) in changes.iter().enumerate() {
            let mut changed = good.clone();
            change(&mut changed);
            assert!(verify_access(&changed, &datacenter, &trusted).is_err(), "{at}");
        }
        // The hash of a key is signed, and so no other key counts.
        let mut changed = good.clone();
        changed.readers[2].key = Some(foreign);
        verify_access(&changed, &datacenter, &trusted).unwrap_err();
        changed.readers[2].key = None;
        verify_access(&changed, &datacenter, &trusted).unwrap_err();
        let copied = AccessEvent { datacenter: "lab/v2".parse().unwrap(), ..good };
        verify_access(&copied, &copied.datacenter, &trusted).unwrap_err();
    }
}
