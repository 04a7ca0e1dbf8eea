//! The certificates of one run, for `--tls`: an authority, and one for all servers, which are on
//! this machine.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// The files, in PEM.
pub(crate) struct Certificates {
    /// Whom clients trust.
    pub authority: PathBuf,
    /// What servers show.
    pub certificate: PathBuf,
    /// Its key, which its owner alone reads.
    pub key: PathBuf,
}

impl Certificates {
    /// Makes them in a new folder.
    pub(crate) fn make(folder: &Path) -> Result<Self> {
        fs::create_dir(folder)?;
        let (authority_key, key) = (KeyPair::generate()?, KeyPair::generate()?);
        let mut about = CertificateParams::new(Vec::new())?;
        about.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        about.distinguished_name.push(DnType::CommonName, "the authority of this run");
        let authority = about.self_signed(&authority_key)?;
        let issuer = Issuer::new(about, authority_key);
        let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(&key, &issuer)?;
        let made = Certificates {
            authority: folder.join("authority.crt"),
            certificate: folder.join("servers.crt"),
            key: folder.join("servers.key"),
        };
        fs::write(&made.authority, authority.pem())?;
        fs::write(&made.certificate, certificate.pem())?;
        let mut secret = File::options().write(true).create_new(true).mode(0o600).open(&made.key)?;
        secret.write_all(key.serialize_pem().as_bytes())?;
        Ok(made)
    }
}
