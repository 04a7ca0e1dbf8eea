//! One address of Consul, and the credentials that Consul asks for.

use std::{path::PathBuf, sync::Arc};

use reqwest::{Client, ClientBuilder, Error, Method, RequestBuilder, Response, header::AUTHORIZATION};

use crate::{
    access::Token,
    address::{BaseUrl, Login, hide_login},
    daemon::chain,
    silence::notice_dead_peers,
    tls::{Certificates, ClientFiles, ClientFlags, ClientTls, NamedFile, OldestTls, TlsError},
    upstream::{Upstream, Upstreams},
};

/// Credentials for Consul, under the names of its usual variables.
#[derive(Clone, Default)]
pub struct ConsulCredentials {
    /// `CONSUL_HTTP_TOKEN`
    pub token: Option<String>,
    /// `CONSUL_HTTP_TOKEN_FILE`, read again for every request; it wins over `token`.
    pub token_file: Option<PathBuf>,
    /// `CONSUL_CACERT`, `CONSUL_CLIENT_CERT` and `CONSUL_CLIENT_KEY`.
    pub files: ClientFiles,
    /// Made of them; without it they are read for each client.
    pub tls: Option<ClientTls>,
    /// Conf-slaves, some of which stand in for Consul: what proves a host to one of them does so
    /// here too.
    pub surrogates: Option<Arc<Upstreams>>,
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

/// The variable that names the key of a client's certificate.
const CLIENT_KEY: &str = "CONSUL_CLIENT_KEY";

/// Where Consul's own agent listens.
const USUAL_ADDRESS: &str = "127.0.0.1:8500";

/// The address that Consul's usual variables name: `CONSUL_HTTP_ADDR`, over TLS where
/// `CONSUL_HTTP_SSL` says so.
pub fn named_address(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    Some(with_scheme(set("CONSUL_HTTP_ADDR")?, variable))
}

/// The same, or the address where Consul's own agent listens on each machine.
pub fn named_or_usual_address(variable: impl Fn(&str) -> Option<String>) -> String {
    named_address(&variable).unwrap_or_else(|| with_scheme(USUAL_ADDRESS.to_owned(), variable))
}

fn with_scheme(address: String, variable: impl Fn(&str) -> Option<String>) -> String {
    // As Consul's own programs read it.
    let is_secure =
        variable("CONSUL_HTTP_SSL").is_some_and(|value| ["1", "t", "T", "true", "TRUE", "True"].contains(&&*value));
    if is_secure && !address.contains("://") { format!("https://{address}") } else { address }
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
    /// The conf-slave that it is.
    surrogate: Option<Arc<Upstream>>,
}

impl ConsulCredentials {
    /// Takes Consul's usual variables from `variable`; daemons look them up in their environment.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let path = |name: &str| set(name).map(PathBuf::from);
        let named = |name| Some(NamedFile::new(name, path(name)?));
        ConsulCredentials {
            token: set("CONSUL_HTTP_TOKEN"),
            token_file: path("CONSUL_HTTP_TOKEN_FILE"),
            files: ClientFiles {
                ca: named("CONSUL_CACERT"),
                certificate: named("CONSUL_CLIENT_CERT"),
                key: path(CLIENT_KEY).map(|path| NamedFile::of_key(CLIENT_KEY, path)),
            },
            tls: None,
            surrogates: None,
        }
    }

    /// Reads the files of TLS, now and whenever they change, where one of `addresses` is asked over
    /// TLS: a variable may be set for other programs of this machine, and its file be missing here.
    /// What no variable names is as the flags say: a conf-slave may stand in for Consul.
    pub fn over(
        self,
        flags: &ClientFlags,
        addresses: &[String],
        oldest: OldestTls,
        certificates: &Certificates,
    ) -> Result<Self, TlsError> {
        if !addresses.iter().any(|one| one.starts_with("https://")) {
            return Ok(ConsulCredentials { files: ClientFiles::default(), ..self });
        }
        let (given, of_flags) = (self.files, ClientFiles::of(flags));
        let has_own = given.certificate.is_some() || given.key.is_some();
        let pair = if has_own { (given.certificate, given.key) } else { (of_flags.certificate, of_flags.key) };
        let files = ClientFiles { ca: given.ca.or(of_flags.ca), certificate: pair.0, key: pair.1 };
        let tls = Some(ClientTls::load(files.clone(), oldest, certificates)?);
        Ok(ConsulCredentials { files, tls, ..self })
    }

    fn tls(&self) -> Result<ClientTls, TlsError> {
        let read = || ClientTls::load(self.files.clone(), OldestTls::default(), &Certificates::default());
        self.tls.clone().map_or_else(read, Ok)
    }

    pub(crate) fn current_token(&self) -> Result<Option<String>, String> {
        let Some(path) = &self.token_file else { return Ok(self.token.clone()) };
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        // A join token is for the sessions of this host, and no server gets it with each request.
        Ok(Some(text.trim().to_owned()).filter(|token| !Token::is_for_joining(token)))
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
        let url: Option<BaseUrl> = base.parse().ok();
        let surrogate = credentials.surrogates.as_ref().zip(url).and_then(|(all, url)| all.with_url(&url));
        Ok(Address { shown: hide_login(given), base, login, http, fresh, surrogate })
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
            let tls = credentials.tls().and_then(|tls| tls.config());
            client = client.tls_backend_preconfigured(tls.map_err(|error| chain(&error))?);
        }
        let http = client.build().map_err(|error| chain(&error))?;
        Ok((base, login, http))
    }

    /// The session of this host with the conf-slave that this is.
    pub(crate) fn session(&self) -> Option<Arc<str>> {
        self.surrogate.as_ref().and_then(|one| one.session.bearer())
    }

    /// Sends a request; to a conf-slave as a host that proves itself.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        match &self.surrogate {
            // Most addresses are no conf-slave's.
            Some(surrogate) => Box::pin(surrogate.send_proven(request)).await,
            None => request.send().await,
        }
    }

    /// Begins a request, with the login of the address if it has one and no session; over a
    /// connection of its own if it `is_fresh`.
    pub(crate) fn request(&self, is_fresh: bool, method: Method, path: &str) -> RequestBuilder {
        let http = if is_fresh { &self.fresh } else { &self.http };
        let request = http.request(method, format!("{}{path}", self.base));
        match self.login.as_ref().filter(|_| self.session().is_none()) {
            Some(login) => request.header(AUTHORIZATION, login.header()),
            None => request,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_where_consul_is_asked_over_tls() {
        let missing = |name: &str| (name == "CONSUL_CACERT").then(|| "/nowhere/ca.crt".to_owned());
        let over = |address: &str| {
            let credentials = ConsulCredentials::from_variables(missing);
            let (flags, certificates) = (ClientFlags::default(), Certificates::default());
            credentials.over(&flags, &[address.to_owned()], OldestTls::default(), &certificates)
        };
        for plain in ["http://consul:8500", "consul:8500", "unix:///run/consul"] {
            let credentials = over(plain).unwrap();
            assert!(Address::new(plain, &credentials).is_ok(), "{plain}");
        }
        assert!(over("https://consul:8501").unwrap_err().to_string().contains("CONSUL_CACERT"));
    }

    #[test]
    fn the_usual_variables_name_an_address() {
        let named = |address: &str, ssl: &str| {
            let (address, ssl) = (address.to_owned(), ssl.to_owned());
            named_address(|name| Some(if name == "CONSUL_HTTP_ADDR" { address.clone() } else { ssl.clone() }))
        };
        for (address, ssl, expected) in [
            ("", "true", None),
            ("c:8500", "", Some("c:8500")),
            ("c:8501", "true", Some("https://c:8501")),
            ("c:8501", "1", Some("https://c:8501")),
            ("c:8501", "TRUE", Some("https://c:8501")),
            ("c:8500", "false", Some("c:8500")),
            ("http://c:8500", "true", Some("http://c:8500")),
            ("unix:///run/consul", "true", Some("unix:///run/consul")),
        ] {
            assert_eq!(named(address, ssl).as_deref(), expected, "{address} {ssl}");
        }
        let usual = |ssl: Option<&str>| {
            let ssl = ssl.map(str::to_owned);
            named_or_usual_address(|name| ssl.clone().filter(|_| name == "CONSUL_HTTP_SSL"))
        };
        assert_eq!(usual(None), "127.0.0.1:8500");
        assert_eq!(usual(Some("true")), "https://127.0.0.1:8500");
    }
}
