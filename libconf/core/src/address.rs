//! Addresses of servers, which may hold a name and a password.
//!
//! Always true: what `Display`, `Debug` and `Serialize` show of an address holds no password.

use std::{convert::Infallible, fmt, net::SocketAddr, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;
use reqwest::{Url, header::HeaderValue};
use serde::{Serialize, Serializer};

/// The base URL of a server: `http://HOST:PORT`, perhaps with `USER:PASSWORD@` before the host.
///
/// The login is split off at once, so that no message, request line or error can show it. Only the
/// client that sends requests reads it, for one header.
#[derive(Clone, PartialEq, Eq)]
pub struct BaseUrl {
    url: Url,
    login: Option<Login>,
}

/// The name and the password of a URL.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    user: String,
    password: String,
}

/// A text that is no base URL: what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadBaseUrl(String);

impl BaseUrl {
    /// The URL without its login.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The login, for the header of requests.
    pub(crate) fn login(&self) -> Option<&Login> {
        self.login.as_ref()
    }
}

impl Login {
    /// The value of `Authorization`.
    pub(crate) fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.user, self.password)))
    }

    /// The same, marked so that nothing shows it.
    pub(crate) fn header(&self) -> HeaderValue {
        let mut value = HeaderValue::try_from(self.basic()).expect("base64 fits into a header");
        value.set_sensitive(true);
        value
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

impl FromStr for BaseUrl {
    type Err = BadBaseUrl;

    fn from_str(text: &str) -> Result<Self, BadBaseUrl> {
        let bad = |words: String| Err(BadBaseUrl(words));
        match text.split_once("://") {
            Some(("http" | "https", _)) => {}
            Some(_) => return bad("write http://HOST:PORT or https://HOST:PORT".to_owned()),
            None if text.is_empty() || text.contains(['@', ' ']) => return bad("write http://HOST:PORT".to_owned()),
            None => return bad(format!("write http://{}", text.trim_matches('/'))),
        }
        let mut url = Url::parse(text).map_err(|error| BadBaseUrl(format!("{error}; write http://HOST:PORT")))?;
        let part = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let login = Login { user: part(url.username()), password: url.password().map(part).unwrap_or_default() };
        let login = (!login.user.is_empty() || !login.password.is_empty()).then_some(login);
        // Both succeed where there is a host, as with http.
        let _ = (url.set_username(""), url.set_password(None));
        if url.query().is_some() || url.fragment().is_some() {
            url.set_query(None);
            url.set_fragment(None);
            return bad(format!("write the base URL alone: {}", url.as_str().trim_end_matches('/')));
        }
        if let Some(base) = url.as_str().trim_end_matches('/').strip_suffix("/conf.git") {
            return bad(format!("write the base URL, without /conf.git: {base}"));
        }
        Ok(BaseUrl { url, login })
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BaseUrl({})", self.url)
    }
}

impl Serialize for BaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.url)
    }
}

/// An address of Consul as it was given: `http://…`, `https://…`, `HOST:PORT`, `unix:///…`, or a
/// word that the program knows. It may hold a login, which it does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct GivenAddress(String);

impl GivenAddress {
    /// The whole text, for the client that sends requests.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for GivenAddress {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(GivenAddress(text.to_owned()))
    }
}

impl fmt::Display for GivenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hide_login(&self.0))
    }
}

impl fmt::Debug for GivenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GivenAddress({self})")
    }
}

/// Takes the logins and the queries out of a text that quotes addresses:
/// `http://user:password@host/?token=secret` becomes `http://…@host/?…`.
pub fn hide_logins(text: &str) -> String {
    let is_quote = |letter: char| matches!(letter, '"' | '\'' | '`' | '<' | '>');
    let hide = |word: &str| -> String {
        // A password may hold quotes. Where no address begins, they end a word.
        if word.contains("://") {
            return hide_login(word);
        }
        word.split_inclusive(is_quote).map(|part| hidden(part, false)).collect()
    };
    text.split_inclusive(char::is_whitespace).map(hide).collect()
}

/// Takes the login and the query out of one address as it was given, whatever is wrong with it.
pub fn hide_login(text: &str) -> String {
    hidden(text, true)
}

fn hidden(text: &str, with_query: bool) -> String {
    let scheme = text.find("://").map(|scheme| scheme + 3);
    let begin = scheme.unwrap_or_default();
    let login = text.rfind('@').filter(|at| *at >= begin && (scheme.is_some() || text[..*at].contains(':')));
    let rest = &text[login.unwrap_or(begin)..];
    // What a text goes on with after the address is no part of the query.
    let ends = |letter: char| letter.is_whitespace() || matches!(letter, '"' | '\'' | '`' | '<' | '>');
    let query = rest.find(['?', '#']).filter(|_| with_query).map(|query| query + 1);
    let (shown, after) = match query.map(|query| (query, rest[query..].find(ends).map(|end| query + end))) {
        Some((query, end)) => (format!("{}…", &rest[..query]), end.map_or("", |end| &rest[end..])),
        None => (rest.to_owned(), ""),
    };
    let hidden = if login.is_some() { "…" } else { "" };
    format!("{}{hidden}{shown}{after}", &text[..begin])
}

/// Reads an address to listen on. An error says what to write.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let plain = text.split_once("://").map_or(text, |(_, rest)| rest).trim_end_matches('/');
    let (host, port) = match plain.rsplit_once(':') {
        Some((host, port)) => (host, port),
        None if plain.parse::<u16>().is_ok() => ("", plain),
        None => (plain, ""),
    };
    let port = if port.parse::<u16>().is_ok() { port } else { "PORT" };
    let host = match host {
        "localhost" | "" => "127.0.0.1",
        "*" => "0.0.0.0",
        host if host.parse::<std::net::IpAddr>().is_ok() && host.contains(':') => {
            return Err(format!("write [{host}]:{port}"));
        }
        host if host.parse::<std::net::Ipv4Addr>().is_ok() => host,
        _ => return Err(format!("write an IP address of this machine and a port, as in 127.0.0.1:{port}")),
    };
    Err(format!("write {host}:{port}"))
}

/// Reads the name of a server, without a port. An error says what to write.
pub fn server_name(text: &str) -> Result<String, String> {
    let plain = text.split_once("://").map_or(text, |(_, rest)| rest).trim_end_matches('/');
    let name = plain.rsplit_once(':').map_or(plain, |(name, _)| name).trim_end_matches('.').to_ascii_lowercase();
    let is_name = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    match name.split('.').all(is_name) {
        true if text.eq_ignore_ascii_case(&name) => Ok(name),
        true => Err(format!("write the name alone: {name}")),
        false => Err("write the name of a server, as in conf.example.org".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_kept_for_the_header_and_shown_nowhere() {
        let url: BaseUrl = "http://jo:s%40c:ret@conf.example:7400/base/".parse().unwrap();
        let shown = format!("{url} {url:?} {}", serde_json::to_string(&url).unwrap());
        assert_eq!(
            shown,
            "http://conf.example:7400/base/ BaseUrl(http://conf.example:7400/base/) \"http://conf.example:7400/base/\""
        );
        let header = url.login().unwrap().header();
        assert_eq!(header, format!("Basic {}", STANDARD.encode("jo:s@c:ret")));
        assert_eq!(format!("{header:?}"), "Sensitive");
        assert!("http://conf.example:7400".parse::<BaseUrl>().unwrap().login().is_none());
        let given: GivenAddress = "http://jo:secret@consul:8500".parse().unwrap();
        assert_eq!(format!("{given} {given:?}"), "http://…@consul:8500 GivenAddress(http://…@consul:8500)");
        assert_eq!(given.reveal(), "http://jo:secret@consul:8500");
        let given: GivenAddress = "consul:8500/?token=secret".parse().unwrap();
        assert_eq!(given.to_string(), "consul:8500/?…");
    }

    #[test]
    fn a_text_that_is_no_base_url_says_what_to_write_and_shows_no_login() {
        for (text, words) in [
            ("127.0.0.1:7500", "write http://127.0.0.1:7500"),
            ("localhost:7500/", "write http://localhost:7500"),
            ("jo:secret@host:7500", "write http://HOST:PORT"),
            ("", "write http://HOST:PORT"),
            ("ssh://jo:secret@host/conf.git", "write http://HOST:PORT or https://HOST:PORT"),
            ("http://jo:secret@", "empty host; write http://HOST:PORT"),
            ("http://jo:secret@h:1/conf.git", "write the base URL, without /conf.git: http://h:1"),
            ("http://h:1/base/conf.git/", "write the base URL, without /conf.git: http://h:1/base"),
            ("http://h:1/?token=secret", "write the base URL alone: http://h:1"),
        ] {
            let error = text.parse::<BaseUrl>().unwrap_err().to_string();
            assert_eq!(error, words, "{text}");
        }
    }

    #[test]
    fn logins_go_out_of_a_text_and_all_else_stays() {
        for (text, shown) in [
            ("http://jo:secret@host:1/x", "http://…@host:1/x"),
            (
                "invalid value 'http://jo:secret@host' for '--central <URL>': no",
                "invalid value 'http://…@host' for '--central <URL>': no",
            ),
            ("jo:secret@host:8500", "…@host:8500"),
            ("http://token@host", "http://…@host"),
            ("http://a,http://jo:secret@b", "http://…@b"),
            ("see http://jo:it's@host:1, now", "see http://…@host:1, now"),
            ("get 'http://h:1/?token=secret' now", "get 'http://h:1/?…' now"),
            ("http://jo@h/a?b=secret#c", "http://…@h/a?…"),
            ("http://h/#secret", "http://h/#…"),
            ("what?", "what?"),
            ("services/web@master", "services/web@master"),
            ("jo@example.com", "jo@example.com"),
            ("nothing here", "nothing here"),
        ] {
            assert_eq!(hide_logins(text), shown);
        }
        for (text, shown) in [
            ("http://jo:it's \"my secret\"@host", "http://…@host"),
            ("jo:it's secret@host:8500", "…@host:8500"),
            ("http://h:8500/?token=secret", "http://h:8500/?…"),
            ("services/web@master", "services/web@master"),
            ("127.0.0.1:8500", "127.0.0.1:8500"),
        ] {
            assert_eq!(hide_login(text), shown);
        }
    }

    #[test]
    fn the_name_of_a_server() {
        assert_eq!(server_name("Conf-1.example.org").unwrap(), "conf-1.example.org");
        assert_eq!(server_name("conf_master").unwrap(), "conf_master");
        for (text, words) in [
            ("http://conf.example.org:7400/", "write the name alone: conf.example.org"),
            ("conf.example.org.", "write the name alone: conf.example.org"),
            ("*.example.org", "write the name of a server, as in conf.example.org"),
            ("", "write the name of a server, as in conf.example.org"),
            ("a b", "write the name of a server, as in conf.example.org"),
        ] {
            assert_eq!(server_name(text).unwrap_err(), words, "{text}");
        }
    }

    #[test]
    fn an_address_to_listen_on() {
        assert_eq!(listen_address("127.0.0.1:7400").unwrap().port(), 7400);
        assert_eq!(listen_address("[::1]:0").unwrap().port(), 0);
        for (text, words) in [
            ("localhost:7660", "write 127.0.0.1:7660"),
            (":7660", "write 127.0.0.1:7660"),
            ("7660", "write 127.0.0.1:7660"),
            ("*:7660", "write 0.0.0.0:7660"),
            ("http://127.0.0.1:7660/", "write 127.0.0.1:7660"),
            ("127.0.0.1", "write 127.0.0.1:PORT"),
            ("::1:7660", "write [::1]:7660"),
            ("web-1.internal:7660", "write an IP address of this machine and a port, as in 127.0.0.1:7660"),
            ("nowhere", "write an IP address of this machine and a port, as in 127.0.0.1:PORT"),
            ("127.0.0.1:99999", "write 127.0.0.1:PORT"),
        ] {
            assert_eq!(listen_address(text).unwrap_err(), words, "{text}");
        }
    }
}
