//! TLS with servers that this program asks.

use std::{ffi::OsString, fmt, path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        ResolvesClientCert, Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::CertifiedKey,
};

use crate::tls::{
    dates::Dates,
    file::{NamedFile, TlsError},
    flags::{ClientFlags, OldestTls},
    kept::{Certificates, Dated, Kept},
    provider::provider,
    server::pair_fault,
};

/// The files of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// The authorities; without them those of this system.
    pub ca: Option<NamedFile>,
    /// The certificate for servers that ask for one.
    pub certificate: Option<NamedFile>,
    /// Its key.
    pub key: Option<NamedFile>,
}

impl ClientFiles {
    /// The files that the flags name.
    pub fn of(flags: &ClientFlags) -> Self {
        let ClientFlags { ca, client_cert, client_key } = flags.clone();
        ClientFiles {
            ca: ca.map(|path| NamedFile::new("--ca", path)),
            certificate: client_cert.map(|path| NamedFile::new("--client-cert", path)),
            key: client_key.map(|path| NamedFile::of_key("--client-key", path)),
        }
    }
}

/// Whom a client trusts, and what it shows. Clones are of the same client.
#[derive(Clone, Default)]
pub struct ClientTls {
    /// Made when it is needed first, where there are no files.
    kept: Option<Arc<Kept<Trust>>>,
    files: ClientFiles,
    oldest: OldestTls,
}

struct Trust {
    verifier: Arc<WebPkiServerVerifier>,
    own: Option<Arc<CertifiedKey>>,
}

impl ClientTls {
    /// Reads the files. Those of the system are read when the first server speaks TLS.
    pub fn load(files: ClientFiles, oldest: OldestTls, certificates: &Certificates) -> Result<Self, TlsError> {
        if files == ClientFiles::default() {
            return Ok(ClientTls { kept: None, files, oldest });
        }
        let kept = keep(files.clone())?;
        certificates.add(&kept);
        Ok(ClientTls { kept: Some(kept), files, oldest })
    }

    /// True if the operator named the authorities.
    pub(crate) fn names_authorities(&self) -> bool {
        self.files.ca.is_some()
    }

    /// The same for Git's own programs: names and values of its configuration.
    pub(crate) fn git_settings(&self) -> Vec<(&'static str, OsString)> {
        git_settings(&self.files, self.oldest, |name| std::env::var_os(name))
    }

    /// What an HTTP client takes.
    pub(crate) fn config(&self) -> Result<ClientConfig, TlsError> {
        let kept = match &self.kept {
            Some(kept) => Arc::clone(kept),
            None => keep(ClientFiles::default())?,
        };
        let current = Arc::new(Current(kept));
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(self.oldest.versions())
            .expect("the provider has suites for both versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&current) as Arc<dyn ServerCertVerifier>)
            .with_client_cert_resolver(current);
        // A session that is taken up again asks for no certificate: an authority that was taken out
        // of the file would go on to be trusted.
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

/// The settings of Git for these files. Of `variable` it takes what names the authorities of this
/// system for this program, too.
pub(crate) fn git_settings(
    files: &ClientFiles,
    oldest: OldestTls,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Vec<(&'static str, OsString)> {
    let path = |file: &Option<NamedFile>| file.as_ref().map(|file| file.path.clone());
    let system = || variable("SSL_CERT_FILE").filter(|file| !file.is_empty()).map(PathBuf::from);
    let named = [
        ("http.sslCAInfo", path(&files.ca).or_else(system)),
        ("http.sslCert", path(&files.certificate)),
        ("http.sslKey", path(&files.key)),
    ];
    let named = named.into_iter().filter_map(|(name, path)| {
        let path = path?;
        // Git starts in another folder.
        Some((name, std::path::absolute(&path).unwrap_or(path).into()))
    });
    // For Git, a version is the oldest one.
    named.chain([("http.sslVersion", format!("tlsv{oldest}").into())]).collect()
}

fn keep(files: ClientFiles) -> Result<Arc<Kept<Trust>>, TlsError> {
    if files.certificate.is_some() != files.key.is_some() {
        let (certificate, key) = match (&files.certificate, &files.key) {
            (Some(one), _) | (_, Some(one)) if one.what.starts_with("CONSUL") => {
                ("CONSUL_CLIENT_CERT", "CONSUL_CLIENT_KEY")
            }
            _ => ("--client-cert", "--client-key"),
        };
        return Err(TlsError::Usage(format!("{certificate} and {key} go together: give both")));
    }
    let named = [&files.ca, &files.certificate, &files.key].into_iter().flatten().cloned().collect();
    Kept::new(named, move || trust(&files))
}

fn trust(files: &ClientFiles) -> Result<Trust, TlsError> {
    let roots = match &files.ca {
        Some(file) => file.authorities()?,
        None => system()?,
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    let verifier = verifier.map_err(|error| TlsError::Usage(format!("the authorities cannot be used: {error}")))?;
    let own = match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => {
            let own = CertifiedKey::from_der(certificate.certificates()?, key.key()?, &provider());
            Some(Arc::new(own.map_err(|error| pair_fault(certificate, key, &error))?))
        }
        _ => None,
    };
    Ok(Trust { verifier, own })
}

/// The authorities of this system.
fn system() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Among hundreds, a few that nobody can read do no harm.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let words = "this system has no certificates of authorities: install the package ca-certificates, or name your own \
                     authority's certificate with --ca";
        return Err(TlsError::Usage(words.to_owned()));
    }
    Ok(roots)
}

/// Decides by the files as they are when a connection begins.
struct Current(Arc<Kept<Trust>>);

impl ServerCertVerifier for Current {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0.now().verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.now().verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.now().verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.now().verifier.supported_verify_schemes()
    }
}

impl ResolvesClientCert for Current {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.now().own.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.now().own.is_some()
    }
}

impl Dated for Trust {
    fn dates(&self) -> Dates {
        self.own.as_ref().and_then(|own| own.cert.first()).map_or(Dates::Good, Dates::of)
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current")
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("oldest", &self.oldest).finish_non_exhaustive()
    }
}
