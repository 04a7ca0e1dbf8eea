//! How long a certificate is good.

use std::time::Duration;

use jiff::Timestamp;
use rustls::{
    CertificateError, Error, RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    pki_types::{CertificateDer, UnixTime},
    server::ParsedCertificate,
};

use crate::tls::provider::provider;

/// 14 days: long enough to renew a certificate by hand, and shorter than what robots leave.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// What its dates say of a certificate now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dates {
    /// It is good, and will be for a while.
    Good,
    /// It is good, and will not be for long: until when.
    Soon(String),
    /// It is not good now: why.
    Bad(String),
}

impl Dates {
    /// Reads the dates. What is wrong with a certificate otherwise is not looked at.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Self {
        let now = UnixTime::now();
        match (fault(certificate, now), fault(certificate, after(now, SOON))) {
            (Some(fault), _) => Dates::Bad(fault),
            (None, Some(until)) => Dates::Soon(until),
            (None, None) => Dates::Good,
        }
    }
}

/// What the dates say at this time. Dates are looked at before anything else, so that without any
/// authority this answers for the dates alone.
fn fault(certificate: &CertificateDer<'_>, at: UnixTime) -> Option<String> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    let algorithms = provider().signature_verification_algorithms.all;
    match verify_server_cert_signed_by_trust_anchor(&parsed, &RootCertStore::empty(), &[], at, algorithms) {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            Some(format!("expired on {}", day(not_after)))
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => {
            Some(format!("is good only from {} on", day(not_before)))
        }
        _ => None,
    }
}

fn after(time: UnixTime, later: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(time.as_secs()) + later)
}

/// A time as people read it.
pub(crate) fn day(time: UnixTime) -> String {
    let time = i64::try_from(time.as_secs()).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(|| "an unknown day".to_owned(), |time| time.strftime("%Y-%m-%d %H:%M UTC").to_string())
}
