//! One address of Consul, and the credentials that Consul asks for.

use std::path::PathBuf;

use reqwest::{Client, ClientBuilder, Method, RequestBuilder, header::AUTHORIZATION};

use crate::{
    address::{BaseUrl, Login, hide_login},
    daemon::chain,
    silence::notice_dead_peers,
};

/// Credentials for Consul, under the names of its usual variables.
#[derive(Clone, Default)]
pub struct ConsulCredentials {
    /// `CONSUL_HTTP_TOKEN`
    pub token: Option<String>,
    /// `CONSUL_HTTP_TOKEN_FILE`, read again for every request; it wins over `token`.
    pub token_file: Option<PathBuf>,
    /// `CONSUL_CACERT`, PEM: the client trusts these authorities and no other.
    pub ca_cert: Option<PathBuf>,
    /// `CONSUL_CLIENT_CERT`, PEM.
    pub client_cert: Option<PathBuf>,
    /// `CONSUL_CLIENT_KEY`, PEM.
    pub client_key: Option<PathBuf>,
}

/// An address that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use Consul at {address}: {reason}")]
pub struct BadAddress {
    /// The address.
    pub address: String,
    /// What is wrong with it, and what to write instead.
    pub reason: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Address {
    /// The address as it was given, without a login, for messages.
    pub(crate) shown: String,
    base: String,
    login: Option<Login>,
    http: Client,
    /// Makes a connection for each request.
    fresh: Client,
}

impl ConsulCredentials {
    /// Takes Consul's usual variables from `variable`; daemons look them up in their environment.
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

impl Address {
    pub(crate) fn new(given: &str, credentials: &ConsulCredentials) -> Result<Self, String> {
        let (base, login, http) = Self::client(given, credentials, Client::builder())?;
        let (.., fresh) = Self::client(given, credentials, Client::builder().pool_max_idle_per_host(0))?;
        Ok(Address { shown: hide_login(given), base, login, http, fresh })
    }

    /// Makes a client of the address, its base URL, and its login.
    fn client(
        given: &str,
        credentials: &ConsulCredentials,
        builder: ClientBuilder,
    ) -> Result<(String, Option<Login>, Client), String> {
        // The first caller in a process installs the provider; it fails for the others, which find
        // it installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = notice_dead_peers(builder)
            .no_proxy()
            .tcp_nodelay(true)
            .connect_timeout(std::time::Duration::from_secs(5))
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
        let base: BaseUrl = base.parse().map_err(|error| format!("{error}"))?;
        let login = base.login().cloned();
        let base = base.url().as_str().trim_end_matches('/').to_owned();
        if base.starts_with("http:") {
            // Plain HTTP works on a machine that has no certificates of authorities.
            client = client.tls_certs_only([]);
        } else {
            let read = |path: &PathBuf| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
            let bad = |path: &PathBuf, error: &reqwest::Error| format!("{}: {}", path.display(), chain(error));
            if let Some(path) = &credentials.ca_cert {
                let authorities = reqwest::Certificate::from_pem_bundle(&read(path)?);
                client = client.tls_certs_only(authorities.map_err(|error| bad(path, &error))?);
            }
            match (&credentials.client_cert, &credentials.client_key) {
                (Some(cert), Some(key)) => {
                    let pem = [read(cert)?, b"\n".to_vec(), read(key)?].concat();
                    let identity = reqwest::Identity::from_pem(&pem);
                    client = client.identity(identity.map_err(|error| bad(cert, &error))?);
                }
                (None, None) => {}
                _ => return Err("CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY go together".to_owned()),
            }
        }
        let http = client.build().map_err(|error| chain(&error))?;
        Ok((base, login, http))
    }

    /// Begins a request, with the login of the address if it has one; over a connection of its own
    /// if it `is_fresh`.
    pub(crate) fn request(&self, is_fresh: bool, method: Method, path: &str) -> RequestBuilder {
        let http = if is_fresh { &self.fresh } else { &self.http };
        let request = http.request(method, format!("{}{path}", self.base));
        match &self.login {
            Some(login) => request.header(AUTHORIZATION, login.header()),
            None => request,
        }
    }
}
