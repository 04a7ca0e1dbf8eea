//! Signatures on hosts' reports, so that a report counts as its host's, whichever conf-slave
//! carries it.

use ssh_key::{HashAlg, LineEnding, PublicKey, SshSig};

use crate::{
    api::{HostFailure, HostReport, HostState, MOST_SIGNATURE_BYTES},
    secret::{HostKey, Identity},
};

/// The namespace of these signatures (`ssh-keygen -Y verify -n`).
pub(crate) const NAMESPACE: &str = "conf-report";

/// Why a report does not count as its host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    /// The report is not signed.
    #[error(
        "its report is not signed, though the inventory lists a key that signs; does its agent run with another identity?"
    )]
    Unsigned,
    /// The signature cannot be read.
    #[error("its report carries no valid signature")]
    Malformed,
    /// The signature is by another key.
    #[error(
        "its report is signed by another key than the inventory lists; write what `conf-local identity` prints on the host"
    )]
    OtherKey,
    /// The signature belongs to another text.
    #[error("the signature of its report belongs to another text")]
    OtherWords,
}

/// The text that is signed: every member that a barrier decides by. `None` without a time. The
/// error's words and the time of receipt are not part of it. Without failures it is the text that
/// earlier versions sign.
pub(crate) fn text(report: &HostReport) -> Option<String> {
    let HostReport { host, datacenter, sequence, commit, state, failures, time, .. } = report;
    let commit = commit.map_or_else(|| "-".to_owned(), |commit| commit.to_string());
    let state = match state {
        HostState::Current => "current",
        HostState::Updating => "updating",
        HostState::Failed => "failed",
    };
    let failures = failures.iter().map(|HostFailure { after, through, .. }| {
        let through = through.map_or_else(|| "-".to_owned(), |through| through.to_string());
        format!("failure {after} {through}\n")
    });
    let failures: String = failures.collect();
    time.map(|time| {
        format!(
            "conf-report 1\ndatacenter {datacenter}\nhost {host}\nsequence {sequence}\ncommit {commit}\nstate {state}\ntime {time}\n{failures}"
        )
    })
}

/// Signs a report under its number `time`. With an age identity the report stays
/// unsigned.
pub fn sign_report(report: &HostReport, time: u64, identity: &Identity) -> HostReport {
    let mut report = HostReport { time: Some(time), signature: None, ..report.clone() };
    report.signature = signature(&report, identity);
    report
}

fn signature(report: &HostReport, identity: &Identity) -> Option<String> {
    let signature = identity.signer()?.sign(NAMESPACE, HashAlg::Sha512, text(report)?.as_bytes()).ok()?;
    signature.to_pem(LineEnding::LF).ok()
}

/// Checks that a report is by the host with this key, which must be one that signs
/// ([`HostKey::signs`]).
pub fn verify_report(report: &HostReport, key: &HostKey) -> Result<(), Unproven> {
    let signature =
        report.signature.as_ref().filter(|text| text.len() <= MOST_SIGNATURE_BYTES).ok_or(Unproven::Unsigned)?;
    let signature = SshSig::from_pem(signature).map_err(|_| Unproven::Malformed)?;
    let text = text(report).ok_or(Unproven::OtherWords)?;
    let key = PublicKey::from_openssh(&key.to_string()).map_err(|_| Unproven::OtherKey)?;
    if key.key_data() != signature.public_key() {
        return Err(Unproven::OtherKey);
    }
    key.verify(NAMESPACE, text.as_bytes(), &signature).map_err(|_| Unproven::OtherWords)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use libconf::name::Sequence;

    use super::*;
    use crate::sign::key::SigningKey;

    fn report() -> HostReport {
        let text = r#"{"host": "web-1", "datacenter": "us-west/v1", "sequence": 7, "commit": null, "state": "current",
            "agent": "0.1.0"}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_signature_covers_every_member_that_a_barrier_decides_by() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| Identity::create(&folder.path().join(name)).unwrap();
        let (own, other) = (make("own"), make("other"));
        assert_eq!(verify_report(&report(), own.recipient()), Err(Unproven::Unsigned));
        let failures =
            ["a", "b"].map(|words| HostFailure { after: report().sequence, through: None, error: words.to_owned() });
        let mut signed = sign_report(&HostReport { failures: failures.into(), ..report() }, 1, &own);
        verify_report(&signed, own.recipient()).unwrap();
        assert_eq!(verify_report(&signed, other.recipient()), Err(Unproven::OtherKey));
        let changes: [fn(&mut HostReport); 11] = [
            |report| report.sequence.0 += 1,
            |report| report.host = "web-2".parse().unwrap(),
            |report| report.datacenter = "us-west/v2".parse().unwrap(),
            |report| report.commit = Some(libconf::name::CommitId::ZERO),
            |report| report.state = HostState::Failed,
            |report| report.time = report.time.map(|time| time + 1),
            |report| report.time = None,
            |report| report.failures.clear(),
            |report| drop(report.failures.pop()),
            |report| report.failures[1].after.0 += 1,
            |report| report.failures[1].through = Some(report.sequence),
        ];
        for (at, change) in changes.iter().enumerate() {
            let mut changed = signed.clone();
            change(&mut changed);
            assert_eq!(verify_report(&changed, own.recipient()), Err(Unproven::OtherWords), "{at}");
        }
        // Members outside of the signed text do not matter.
        signed.received = Some("now".to_owned());
        signed.failures[0].error.push_str(", and more");
        verify_report(&signed, own.recipient()).unwrap();
        for damaged in ["", "x", &"x".repeat(5000)] {
            let damaged = HostReport { signature: Some(damaged.to_owned()), ..signed.clone() };
            assert!(verify_report(&damaged, own.recipient()).is_err());
        }
    }

    #[test]
    fn a_report_without_failures_is_signed_as_by_earlier_versions() {
        let signed = text(&HostReport { time: Some(5), ..report() });
        let expected =
            "conf-report 1\ndatacenter us-west/v1\nhost web-1\nsequence 7\ncommit -\nstate current\ntime 5\n";
        assert_eq!(signed.as_deref(), Some(expected));
        let failed = HostFailure { after: Sequence(3), through: Some(Sequence(7)), error: String::new() };
        let signed = text(&HostReport { time: Some(5), failures: vec![failed], ..report() });
        assert_eq!(signed, Some(format!("{expected}failure 3 7\n")));
    }

    #[test]
    fn a_signature_for_another_purpose_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let key = SigningKey::generate(&path, "").unwrap();
        let identity = Identity::load(&path).unwrap();
        let mut signed = HostReport { time: Some(1), ..report() };
        signed.signature = Some(key.sign(&text(&signed).unwrap()).unwrap());
        assert_eq!(verify_report(&signed, identity.recipient()), Err(Unproven::OtherWords));
    }

    #[test]
    fn ssh_keygen_accepts_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let identity = Identity::create(&path("identity")).unwrap();
        let signed = sign_report(&report(), 1, &identity);
        std::fs::write(path("signers"), format!("web-1 {}\n", identity.recipient())).unwrap();
        std::fs::write(path("signature"), signed.signature.as_ref().unwrap()).unwrap();
        std::fs::write(path("text"), text(&signed).unwrap()).unwrap();
        let mut keygen = Command::new("ssh-keygen");
        keygen.current_dir(&folder).args([
            "-Y",
            "verify",
            "-n",
            NAMESPACE,
            "-I",
            "web-1",
            "-f",
            "signers",
            "-s",
            "signature",
        ]);
        let output = keygen.stdin(std::fs::File::open(path("text")).unwrap()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
