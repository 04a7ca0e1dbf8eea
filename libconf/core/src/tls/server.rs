//! TLS for a listener.

use std::{fmt, sync::Arc};

use rustls::{
    Error, InconsistentKeys, ServerConfig,
    pki_types::CertificateDer,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};

use crate::tls::{
    dates::Dates,
    file::{NamedFile, TlsError},
    flags::{ListenFlags, OldestTls},
    kept::{Certificates, Dated, Kept},
    provider::provider,
};

/// What a listener shows to its clients, and asks of them. Clones are of the same listener.
#[derive(Clone)]
pub struct ServerTls(Arc<Kept<Shown>>);

struct Shown {
    config: Arc<ServerConfig>,
    certificate: CertificateDer<'static>,
}

#[derive(Clone)]
struct Files {
    certificate: NamedFile,
    key: NamedFile,
    client_ca: Option<NamedFile>,
    oldest: OldestTls,
}

impl ServerTls {
    /// Reads the files that the flags name; `None` where they name none.
    pub fn load(flags: &ListenFlags, certificates: &Certificates) -> Result<Option<Self>, TlsError> {
        let client_ca = flags.tls_client_ca.clone().map(|path| NamedFile::new("--tls-client-ca", path));
        let files = match (&flags.tls_cert, &flags.tls_key) {
            (Some(certificate), Some(key)) => Files {
                certificate: NamedFile::new("--tls-cert", certificate.clone()),
                key: NamedFile::of_key("--tls-key", key.clone()),
                client_ca,
                oldest: flags.tls_min,
            },
            (None, None) if client_ca.is_none() => return Ok(None),
            (None, None) => {
                return Err(TlsError::Usage(
                    "--tls-client-ca is for TLS: give --tls-cert and --tls-key too".to_owned(),
                ));
            }
            _ => return Err(TlsError::Usage("--tls-cert and --tls-key go together: give both".to_owned())),
        };
        let named = [files.certificate.clone(), files.key.clone()].into_iter().chain(files.client_ca.clone());
        let kept = Kept::new(named.collect(), move || files.shown())?;
        certificates.add(&kept);
        Ok(Some(ServerTls(kept)))
    }

    /// What holds for a connection that begins now.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.now().config)
    }
}

impl Files {
    fn shown(&self) -> Result<Shown, TlsError> {
        let (chain, key) = (self.certificate.certificates()?, self.key.key()?);
        let certificate = chain[0].clone();
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(self.oldest.versions())
            .expect("the provider has suites for both versions");
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let roots = Arc::new(file.authorities()?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| file.unusable(error.to_string()))?)
            }
        };
        let mut config =
            builder.with_single_cert(chain, key).map_err(|error| pair_fault(&self.certificate, &self.key, &error))?;
        // A session that is taken up again shows no certificate: a client whose own has expired
        // would go on to be let in.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Shown { config: Arc::new(config), certificate })
    }
}

/// What is wrong with a certificate and a key together.
pub(crate) fn pair_fault(certificate: &NamedFile, key: &NamedFile, error: &Error) -> TlsError {
    match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => key.unusable(format!(
            "is not the key of the certificate {} ({}); give the two that were made together",
            certificate.path.display(),
            certificate.what
        )),
        Error::InvalidCertificate(_) => {
            certificate.unusable(format!("cannot be used: {error}; write the certificate into it again"))
        }
        _ => key.unusable(format!(
            "cannot be used: {error}; make a key by `openssl ecparam -name prime256v1 -genkey -noout`, and a certificate for it"
        )),
    }
}

impl Dated for Shown {
    fn dates(&self) -> Dates {
        Dates::of(&self.certificate)
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTls")
    }
}
