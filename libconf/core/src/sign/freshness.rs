//! Signatures on freshness statements: conf-master's word that a snapshot was a datacenter's newest
//! at a time, whoever carries it.

use crate::{
    api::{FreshnessEvent, Pointer},
    sign::{
        key::{KeyError, SigningKey},
        trusted::TrustedKeys,
    },
};
use libconf::name::{DatacenterName, Sequence};

/// The namespace of these signatures (`ssh-keygen -Y verify -n`).
const NAMESPACE: &str = "conf-freshness";

/// The text that is signed.
fn text(statement: &FreshnessEvent) -> String {
    let FreshnessEvent { central, datacenter, snapshot, commit, time, .. } = statement;
    format!(
        "conf-freshness 1\ndatacenter {datacenter}\ncentral {central}\nsnapshot {snapshot}\ncommit {commit}\ntime {time}\n"
    )
}

/// Signs that `newest` is the datacenter's newest snapshot not above the change `central`, at
/// `time`: seconds since 1970.
pub fn sign_freshness(
    central: Sequence,
    datacenter: &DatacenterName,
    newest: Pointer,
    time: i64,
    key: &SigningKey,
) -> Result<FreshnessEvent, KeyError> {
    let Pointer { sequence: snapshot, commit } = newest;
    let (datacenter, signature) = (datacenter.clone(), String::new());
    let mut statement = FreshnessEvent { central, datacenter, snapshot, commit, time, signature };
    statement.signature = key.sign_for(NAMESPACE, text(&statement).as_bytes())?;
    Ok(statement)
}

/// Checks that a statement is for this datacenter, and signed by a key that is trusted for its
/// snapshots.
pub fn verify_freshness(
    statement: &FreshnessEvent,
    datacenter: &DatacenterName,
    keys: &TrustedKeys,
) -> Result<(), KeyError> {
    if statement.datacenter != *datacenter {
        return Err(KeyError::BadSignature(format!("it is the freshness statement of {}", statement.datacenter)));
    }
    keys.verify_present(NAMESPACE, text(statement).as_bytes(), &statement.signature)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::key::public_path;

    #[test]
    fn a_changed_statement_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let key = |name: &str| {
            let path = folder.path().join(name);
            (SigningKey::generate(&path, name).unwrap(), TrustedKeys::load(&public_path(&path)).unwrap())
        };
        let ((key, trusted), (_, others)) = (key("own"), key("other"));
        let datacenter: DatacenterName = "us-west/v1".parse().unwrap();
        let newest = Pointer { sequence: Sequence(5), commit: [5; 20].into() };
        let good = sign_freshness(Sequence(9), &datacenter, newest, 100, &key).unwrap();
        verify_freshness(&good, &datacenter, &trusted).unwrap();
        verify_freshness(&good, &datacenter, &others).unwrap_err();
        verify_freshness(&good, &"us-east/v1".parse().unwrap(), &trusted).unwrap_err();
        let changes: [fn(&mut FreshnessEvent); 6] = [
            |one| one.central.0 += 1,
            |one| one.snapshot.0 += 1,
            |one| one.commit = [6; 20].into(),
            |one| one.time += 1,
            |one| one.datacenter = "us-west/v2".parse().unwrap(),
            |one| one.signature.clear(),
        ];
        for (at, change) in changes.iter().enumerate() {
            let mut changed = good.clone();
            change(&mut changed);
            assert!(verify_freshness(&changed, &changed.datacenter, &trusted).is_err(), "{at}");
        }
        // By the right key, for another purpose.
        let other = FreshnessEvent { signature: key.sign(&text(&good)).unwrap(), ..good };
        verify_freshness(&other, &datacenter, &trusted).unwrap_err();
    }
}
