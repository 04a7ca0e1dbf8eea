//! Makes values: random text, and certificates.

use std::time::Duration;

use anyhow::Context as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine as _};
use conf_core::secret::{Encoding, Generate, SecretValue};
use rand::{Rng as _, TryRngCore as _, rngs::OsRng};
use zeroize::{Zeroize as _, Zeroizing};

/// How long before its making a certificate is valid, for clocks that are slow.
const SLOW_CLOCKS: Duration = Duration::from_secs(3600);
const DAY: i64 = 24 * 3600;

/// Makes a value at `now` (seconds since 1970); returns the end of a certificate beside it.
pub(crate) fn value(generate: &Generate, now: i64) -> anyhow::Result<(SecretValue, Option<i64>)> {
    match generate {
        Generate::Text { length, encoding } => Ok((SecretValue::Text(text(*length, encoding)?), None)),
        Generate::X509 { names, days } => {
            let until = now + i64::from(*days) * DAY;
            Ok((certificate(names, now, until)?, Some(until)))
        }
    }
}

fn text(length: usize, encoding: &Encoding) -> anyhow::Result<Zeroizing<String>> {
    if let Encoding::Alphabet(alphabet) = encoding {
        // The alphabet is ASCII, so a character is a byte. The draw has no bias of a remainder.
        let (letters, mut chance) = (alphabet.as_bytes(), OsRng.unwrap_err());
        let draw = |_| char::from(letters[chance.random_range(0..letters.len())]);
        let mut text = Zeroizing::new(String::with_capacity(length));
        text.extend((0..length).map(draw));
        return Ok(text);
    }
    let mut bytes = Zeroizing::new(vec![0; length]);
    OsRng.try_fill_bytes(&mut bytes).context("the system gives no random bytes")?;
    Ok(Zeroizing::new(match encoding {
        Encoding::Base64Url => BASE64_URL_SAFE_NO_PAD.encode(&*bytes),
        Encoding::Hex => {
            let digit = |digit: u8| char::from_digit(u32::from(digit), 16).unwrap_or_default();
            bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
        }
        _ => BASE64_STANDARD.encode(&*bytes),
    }))
}

/// Makes a self-signed certificate for a server, with a new P-256 key.
fn certificate(names: &[String], now: i64, until: i64) -> anyhow::Result<SecretValue> {
    let mut params = rcgen::CertificateParams::new(names.to_vec()).context("a name of the certificate")?;
    let at = |seconds: i64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    (params.not_before, params.not_after) = (at(now) - SLOW_CLOCKS, at(until));
    params.distinguished_name = rcgen::DistinguishedName::new();
    let first = names.first().map_or("", String::as_str);
    // A common name has at most 64 characters; readers use the alternative names anyway. Source:
    // RFC 5280, appendix A.
    params.distinguished_name.push(rcgen::DnType::CommonName, first.chars().take(64).collect::<String>());
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let mut pair = rcgen::KeyPair::generate().context("no key could be made")?;
    let certificate = params.self_signed(&pair).context("no certificate could be made")?;
    let key = Zeroizing::new(pair.serialize_pem());
    pair.zeroize();
    Ok(SecretValue::Certificate { certificate: certificate.pem(), key })
}

/// Tells whether a certificate made at `made` must be renewed: two thirds of its life are over.
pub(crate) fn is_due(made: i64, valid_until: i64, now: i64) -> bool {
    now >= due_at(made, valid_until)
}

/// Returns when two thirds of a certificate's life are over.
pub(crate) fn due_at(made: i64, valid_until: i64) -> i64 {
    made + (valid_until - made) / 3 * 2
}

#[cfg(test)]
mod tests {
    use rustls::{
        client::verify_server_name,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
        server::ParsedCertificate,
        sign::CertifiedKey,
    };

    use super::*;

    fn text_of(length: usize, encoding: Encoding) -> String {
        match value(&Generate::Text { length, encoding }, 0).unwrap() {
            (SecretValue::Text(text), None) => (*text).clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn text_has_its_declared_form_and_differs_each_time() {
        assert_eq!(BASE64_STANDARD.decode(text_of(33, Encoding::Base64)).unwrap().len(), 33);
        assert_eq!(BASE64_URL_SAFE_NO_PAD.decode(text_of(32, Encoding::Base64Url)).unwrap().len(), 32);
        assert_eq!(text_of(16, Encoding::Hex).len(), 32);
        let pins = text_of(1000, Encoding::Alphabet("01x".to_owned()));
        assert_eq!(pins.len(), 1000);
        // Each occurs about 333 times; fewer than 200 happens about once in 10^19.
        assert!("01x".chars().all(|letter| pins.matches(letter).count() > 200), "{pins}");
        assert_ne!(text_of(16, Encoding::Hex), text_of(16, Encoding::Hex));
    }

    #[test]
    fn a_certificate_is_for_its_names_and_has_its_key() {
        let names = ["web.example.com", "*.example.org", "10.0.0.1", "::1"].map(str::to_owned);
        let now = 1_700_000_000;
        let (made, until) = value(&Generate::X509 { names: names.to_vec(), days: 90 }, now).unwrap();
        assert_eq!(until, Some(now + 90 * DAY));
        let SecretValue::Certificate { certificate, key } = made else { panic!("it is a certificate") };
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let parsed = ParsedCertificate::try_from(&chain[0]).unwrap();
        for name in ["web.example.com", "a.example.org", "10.0.0.1", "::1"] {
            verify_server_name(&parsed, &ServerName::try_from(name).unwrap()).unwrap();
        }
        assert!(verify_server_name(&parsed, &ServerName::try_from("example.com").unwrap()).is_err());
        let pair = CertifiedKey::from_der(chain, key, &ring::default_provider()).unwrap();
        pair.keys_match().unwrap();
    }

    #[test]
    fn a_certificate_is_due_at_two_thirds_of_its_life() {
        let (made, until) = (1000, 1000 + 90 * DAY);
        assert_eq!(due_at(made, until), made + 60 * DAY);
        assert!(!is_due(made, until, made + 60 * DAY - 1) && is_due(made, until, made + 60 * DAY));
        assert!(is_due(made, until, until + DAY), "one that has ended");
    }
}
