//! One address of Consul, and how it is spoken to.

use std::{path::PathBuf, time::Duration};

use reqwest::Client;

/// How Consul is to be spoken to, by the names of its usual variables.
#[derive(Clone, Default)]
pub struct ConsulCredentials {
    /// `CONSUL_HTTP_TOKEN`
    pub token: Option<String>,
    /// `CONSUL_HTTP_TOKEN_FILE`, read again for every request; it wins over `token`.
    pub token_file: Option<PathBuf>,
    /// `CONSUL_CACERT`: the only authorities to be trusted, PEM.
    pub ca_cert: Option<PathBuf>,
    /// `CONSUL_CLIENT_CERT`, PEM.
    pub client_cert: Option<PathBuf>,
    /// `CONSUL_CLIENT_KEY`, PEM.
    pub client_key: Option<PathBuf>,
}

impl ConsulCredentials {
    /// Takes Consul's usual variables from `variable`, which daemons give as a look into their environment.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let path = |name: &str| set(name).map(PathBuf::from);
        ConsulCredentials {
            token: set("CONSUL_HTTP_TOKEN"),
            token_file: path("CONSUL_HTTP_TOKEN_FILE"),
            ca_cert: path("CONSUL_CACERT"),
            client_cert: path("CONSUL_CLIENT_CERT"),
            client_key: path("CONSUL_CLIENT_KEY"),
        }
    }
}

impl ConsulCredentials {
    pub(crate) fn current_token(&self) -> Result<Option<String>, String> {
        let Some(path) = &self.token_file else { return Ok(self.token.clone()) };
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Some(text.trim().to_owned()))
    }
}

impl std::fmt::Debug for ConsulCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsulCredentials").field("token_file", &self.token_file).finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(crate) struct Address {
    pub(crate) shown: String,
    pub(crate) base: String,
    pub(crate) http: Client,
}

impl Address {
    pub(crate) fn new(given: &str, credentials: &ConsulCredentials) -> Result<Self, String> {
        // Only the first caller installs it; the others find it there.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = Client::builder()
            .no_proxy()
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_secs(5))
            .redirect(reqwest::redirect::Policy::none());
        let base = match given.split_once("://") {
            Some(("http" | "https", rest)) if !rest.is_empty() => given.trim_end_matches('/').to_owned(),
            Some(("unix", path)) if path.starts_with('/') => {
                client = client.unix_socket(PathBuf::from(path));
                "http://localhost".to_owned()
            }
            None if !given.is_empty() => format!("http://{}", given.trim_end_matches('/')),
            _ => return Err("write http://HOST:PORT, https://HOST:PORT or unix:///PATH".to_owned()),
        };
        reqwest::Url::parse(&base).map_err(|error| format!("{error}; write http://HOST:PORT"))?;
        if base.starts_with("http:") {
            // A machine without certificates of authorities is none the worse for it.
            client = client.tls_certs_only([]);
        } else {
            let read = |path: &PathBuf| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
            if let Some(path) = &credentials.ca_cert {
                let authorities = reqwest::Certificate::from_pem_bundle(&read(path)?);
                let authorities = authorities.map_err(|error| format!("{}: {}", path.display(), words_of(&error)))?;
                client = client.tls_certs_only(authorities);
            }
            match (&credentials.client_cert, &credentials.client_key) {
                (Some(cert), Some(key)) => {
                    let pem = [read(cert)?, b"\n".to_vec(), read(key)?].concat();
                    let identity = reqwest::Identity::from_pem(&pem);
                    client =
                        client.identity(identity.map_err(|error| format!("{}: {}", cert.display(), words_of(&error)))?);
                }
                (None, None) => {}
                _ => return Err("CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY go together".to_owned()),
            }
        }
        let http = client.build().map_err(|error| words_of(&error))?;
        Ok(Address { shown: given.to_owned(), base, http })
    }
}

/// An error of reqwest with its causes, which say more than it does.
pub(crate) fn words_of(error: &reqwest::Error) -> String {
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        cause = error.source();
    }
    words
}
