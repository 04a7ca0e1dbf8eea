//! What is shown to servers above, and whom of them is trusted: the token of `--token-file` or a
//! host's key, which joins by a token for many, and TLS.

use std::{io, os::unix::fs::MetadataExt as _, path::PathBuf, sync::Arc, time::SystemTime};

use parking_lot::Mutex;

use crate::{
    access::Token,
    tls::ClientTls,
    upstream::{bearer::HostProof, error::UpstreamError},
};

/// The token of `--token-file`, read again whenever the file changes, or no token; and TLS for
/// servers with `https://`.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    token: Option<Arc<TokenFile>>,
    host: Option<Arc<HostProof>>,
    tls: ClientTls,
}

#[derive(Debug)]
struct TokenFile {
    path: PathBuf,
    read: Mutex<Option<(Stamp, Arc<str>)>>,
}

/// Inode, size and time of a file: they change when it is written or replaced.
type Stamp = (u64, u64, Option<SystemTime>);

impl Credentials {
    /// Sends no credential.
    pub fn none() -> Self {
        Credentials::default()
    }

    /// Sends the first line of this file; without a file, nothing.
    pub fn from_file(path: Option<PathBuf>) -> Self {
        let token = path.map(|path| Arc::new(TokenFile { path, read: Mutex::default() }));
        Credentials { token, ..Credentials::default() }
    }

    /// The same; where there is no token, or one for joining, this host proves itself by its key.
    #[must_use]
    pub fn of_host(self, host: HostProof) -> Self {
        Credentials { host: Some(Arc::new(host)), ..self }
    }

    /// The host that proves itself where a server asks who this is.
    pub(crate) fn host(&self) -> Option<&HostProof> {
        self.host.as_deref().filter(|_| matches!(self.token(), Ok(None)))
    }

    /// The token with which this host joins, if the file has such a one.
    pub(crate) fn join(&self) -> Option<Arc<str>> {
        self.read().ok()?.filter(|token| Token::is_for_joining(token))
    }

    /// The token that is sent with each request, as it is now.
    pub(crate) fn token(&self) -> Result<Option<Arc<str>>, UpstreamError> {
        let token = self.read()?;
        match (&self.token, token.as_ref().is_some_and(|token| Token::is_for_joining(token)), &self.host) {
            (_, false, _) => Ok(token),
            (_, true, Some(_)) | (None, ..) => Ok(None),
            (Some(file), true, None) => {
                let words = "it is a join token, which is for conf-local alone";
                let cause = io::Error::new(io::ErrorKind::InvalidData, words);
                Err(UpstreamError::Token { path: file.path.clone(), cause })
            }
        }
    }

    /// The same, over this TLS.
    #[must_use]
    pub fn over(self, tls: ClientTls) -> Self {
        Credentials { tls, ..self }
    }

    pub(crate) fn tls(&self) -> &ClientTls {
        &self.tls
    }

    /// The token in the file as it is now.
    fn read(&self) -> Result<Option<Arc<str>>, UpstreamError> {
        let Some(file) = &self.token else { return Ok(None) };
        let failed = |cause| UpstreamError::Token { path: file.path.clone(), cause };
        let about = std::fs::metadata(&file.path).map_err(failed)?;
        let stamp = (about.ino(), about.len(), about.modified().ok());
        let mut read = file.read.lock();
        if let Some((_, token)) = read.as_ref().filter(|(of, _)| *of == stamp) {
            return Ok(Some(token.clone()));
        }
        let text = std::fs::read_to_string(&file.path).map_err(failed)?;
        let token: Arc<str> = text.lines().next().unwrap_or_default().trim().into();
        let fault = match &*token {
            "" => Some("its first line is empty"),
            token if token.starts_with('\u{feff}') => Some("it begins with a byte order mark; save it without one"),
            _ => None,
        };
        if let Some(fault) = fault {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidData, fault)));
        }
        *read = Some((stamp, token.clone()));
        Ok(Some(token))
    }
}
