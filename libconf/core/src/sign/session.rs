//! Signatures of hosts over a server's nonce: who signs it has the host's identity key now.

use libconf::name::{DatacenterName, HostName};
use ssh_key::{HashAlg, LineEnding, PublicKey, SshSig};

use crate::{
    api::MOST_SIGNATURE_BYTES,
    secret::{HostKey, Identity},
};

/// The namespace of these signatures (`ssh-keygen -Y verify -n`).
const NAMESPACE: &str = "conf-session";

fn text(datacenter: &DatacenterName, host: &HostName, nonce: &str) -> String {
    format!("conf-session 1\ndatacenter {datacenter}\nhost {host}\nnonce {nonce}\n")
}

/// Signs a nonce as this host. `None` for an age identity, which signs nothing.
pub(crate) fn sign_session(
    (datacenter, host): (&DatacenterName, &HostName),
    nonce: &str,
    identity: &Identity,
) -> Option<String> {
    let text = text(datacenter, host, nonce);
    let signature = identity.signer()?.sign(NAMESPACE, HashAlg::Sha512, text.as_bytes()).ok()?;
    signature.to_pem(LineEnding::LF).ok()
}

/// Tells whether the owner of this key signed the nonce as this host.
pub(crate) fn verify_session(
    (datacenter, host): (&DatacenterName, &HostName),
    nonce: &str,
    signature: &str,
    key: &HostKey,
) -> bool {
    let (Ok(signature), Ok(key)) = (SshSig::from_pem(signature), PublicKey::from_openssh(&key.to_string())) else {
        return false;
    };
    let text = text(datacenter, host, nonce);
    text.len() < MOST_SIGNATURE_BYTES
        && key.key_data() == signature.public_key()
        && key.verify(NAMESPACE, text.as_bytes(), &signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::{sign_report, verify_report};

    #[test]
    fn a_signature_is_of_one_host_one_nonce_and_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| Identity::create(&folder.path().join(name)).unwrap();
        let (own, other) = (make("own"), make("other"));
        let (lab, second) = ("lab/v1".parse().unwrap(), "lab/v2".parse().unwrap());
        let (web, db) = ("web-1".parse().unwrap(), "db-1".parse().unwrap());
        let signed = sign_session((&lab, &web), "n", &own).unwrap();
        let good = |host, nonce, key: &Identity| verify_session(host, nonce, &signed, key.recipient());
        assert!(good((&lab, &web), "n", &own));
        assert!(!good((&lab, &web), "n", &other));
        assert!(!good((&lab, &web), "m", &own));
        assert!(!good((&lab, &db), "n", &own));
        assert!(!good((&second, &web), "n", &own));
        assert!(!verify_session((&lab, &web), "n", "", own.recipient()));
        // A report that was signed proves nothing here.
        let report = r#"{"host": "web-1", "datacenter": "lab/v1", "sequence": 7, "commit": null, "state": "current", "agent": "1"}"#;
        let report = sign_report(&serde_json::from_str(report).unwrap(), 1, &own);
        verify_report(&report, own.recipient()).unwrap();
        assert!(!verify_session((&lab, &web), "n", &report.signature.unwrap(), own.recipient()));
    }
}
