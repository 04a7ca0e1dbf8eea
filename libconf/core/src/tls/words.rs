//! Why a connection with TLS failed, and what to do.

use std::{error::Error as StdError, io};

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, pki_types::ServerName};

use crate::tls::dates::day;

/// Words about an error of TLS within this error; `None` where TLS has no part in it. `ca` is what
/// names the authorities, as `--ca`.
pub(crate) fn words(error: &(dyn StdError + 'static), ca: &str) -> Option<String> {
    let mut next = Some(error);
    while let Some(one) = next {
        if let Some(fault) = of_tls(one) {
            return Some(about(fault, ca));
        }
        next = one.source();
    }
    None
}

/// An I/O error hides what it was made of from `source`; that may be another I/O error.
fn of_tls<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e Error> {
    if let Some(fault) = error.downcast_ref() {
        return Some(fault);
    }
    of_tls(error.downcast_ref::<io::Error>()?.get_ref()?)
}

fn about(error: &Error, ca: &str) -> String {
    match error {
        Error::InvalidCertificate(fault) => of_certificate(fault, ca),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "there is no TLS on this port: write http:// in place of https://, or start the server with --tls-cert and \
             --tls-key"
                .to_owned()
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server wants a certificate of its clients: give --client-cert and --client-key".to_owned()
        }
        Error::AlertReceived(
            AlertDescription::UnknownCA | AlertDescription::BadCertificate | AlertDescription::DecryptError,
        ) => "the server does not trust this client's certificate: give one of an authority of the server's --tls-client-ca"
            .to_owned(),
        Error::AlertReceived(AlertDescription::CertificateExpired) => {
            "this client's certificate has expired: renew the files of --client-cert and --client-key".to_owned()
        }
        Error::AlertReceived(AlertDescription::ProtocolVersion) | Error::PeerIncompatible(_) => {
            format!("the two have no version of TLS in common ({error}): if one has only TLS 1.2, give the other --tls-min 1.2")
        }
        other => format!("TLS failed: {other}"),
    }
}

fn of_certificate(fault: &CertificateError, ca: &str) -> String {
    match fault {
        // Two authorities of one name differ in their keys.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!(
                "no authority that is trusted here signed the server's certificate: name the one that did with {ca}"
            )
        }
        CertificateError::ExpiredContext { not_after, .. } => format!(
            "the server's certificate expired on {}: renew it there (or set this machine's clock, if that is wrong)",
            day(*not_after)
        ),
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "the server's certificate is good only from {} on: set this machine's clock, if that is wrong",
            day(*not_before)
        ),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let asked = match expected {
                ServerName::DnsName(name) => name.as_ref().to_owned(),
                ServerName::IpAddress(address) => std::net::IpAddr::from(*address).to_string(),
                other => format!("{other:?}"),
            };
            let names: Vec<String> = presented.iter().map(|name| plain(name)).collect();
            if names.is_empty() {
                return format!("the server's certificate names no server: make one with {asked} as subjectAltName");
            }
            let names = names.join(", ");
            format!(
                "the server's certificate is for {names}, not for {asked}: ask by a name of the certificate, or make one for \
                 {asked}"
            )
        }
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "the server shows the certificate of an authority: make one for the server, signed by it".to_owned()
        }
        other => format!("the server's certificate cannot be trusted: {other}"),
    }
}

/// A name of a certificate, which comes as `DnsName("conf.example.org")`.
fn plain(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"').to_owned()
}
