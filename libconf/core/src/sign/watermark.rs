//! Signatures on watermarks: conf-master's word that nothing follows a snapshot up to a change,
//! whoever carries it.

use crate::{
    api::{Pointer, WatermarkEvent},
    sign::key::{KeyError, SigningKey},
    sign::trusted::TrustedKeys,
};
use libconf::name::{DatacenterName, Sequence};

/// The namespace of these signatures (`ssh-keygen -Y verify -n`).
pub(crate) const NAMESPACE: &str = "conf-watermark";

/// The text that is signed.
pub(crate) fn text(watermark: &WatermarkEvent) -> String {
    let WatermarkEvent { central, datacenter, snapshot, commit, .. } = watermark;
    format!("conf-watermark 1\ndatacenter {datacenter}\ncentral {central}\nsnapshot {snapshot}\ncommit {commit}\n")
}

/// Signs that `newest` is the datacenter's newest snapshot not above the change `central`.
pub fn sign_watermark(
    central: Sequence,
    datacenter: &DatacenterName,
    newest: Pointer,
    key: &SigningKey,
) -> Result<WatermarkEvent, KeyError> {
    let Pointer { sequence: snapshot, commit } = newest;
    let mut watermark =
        WatermarkEvent { central, datacenter: datacenter.clone(), snapshot, commit, signature: String::new() };
    watermark.signature = key.sign_for(NAMESPACE, text(&watermark).as_bytes())?;
    Ok(watermark)
}

/// Checks that a watermark is for this datacenter, and signed by a key that is trusted for its
/// snapshots.
pub fn verify_watermark(
    watermark: &WatermarkEvent,
    datacenter: &DatacenterName,
    keys: &TrustedKeys,
) -> Result<(), KeyError> {
    if watermark.datacenter != *datacenter {
        return Err(KeyError::BadSignature(format!("it is the watermark of {}", watermark.datacenter)));
    }
    keys.verify_for(NAMESPACE, text(watermark).as_bytes(), &watermark.signature, watermark.central)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::key::public_path;

    #[test]
    fn a_changed_watermark_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let key = |name: &str| {
            let path = folder.path().join(name);
            (SigningKey::generate(&path, name).unwrap(), TrustedKeys::load(&public_path(&path)).unwrap())
        };
        let ((key, trusted), (_, others)) = (key("own"), key("other"));
        let datacenter = "us-west/v1".parse().unwrap();
        let newest = Pointer { sequence: Sequence(5), commit: [5; 20].into() };
        let good = sign_watermark(Sequence(9), &datacenter, newest, &key).unwrap();
        verify_watermark(&good, &datacenter, &trusted).unwrap();
        verify_watermark(&good, &datacenter, &others).unwrap_err();
        verify_watermark(&good, &"us-east/v1".parse().unwrap(), &trusted).unwrap_err();
        let other = "us-east/v1".parse().unwrap();
        for bad in [
            WatermarkEvent { central: Sequence(10), ..good.clone() },
            WatermarkEvent { snapshot: Sequence(6), ..good.clone() },
            WatermarkEvent { commit: [6; 20].into(), ..good.clone() },
            WatermarkEvent { datacenter: "us-west/v2".parse().unwrap(), ..good.clone() },
            WatermarkEvent { signature: String::new(), ..good.clone() },
            // By the right key, for another purpose.
            WatermarkEvent { signature: key.sign(&text(&good)).unwrap(), ..good.clone() },
            WatermarkEvent {
                signature: sign_watermark(Sequence(9), &other, newest, &key).unwrap().signature,
                ..good.clone()
            },
        ] {
            verify_watermark(&bad, &bad.datacenter, &trusted).expect_err(&format!("{bad:?}"));
        }
    }
}
