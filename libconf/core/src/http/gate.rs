//! What a web page could make somebody's browser send, which is refused before any route.
//!
//! A page of any site can have its visitors' browsers ask a daemon that they reach, by a form or a
//! script. It can also let its own name lead to the daemon's address, so that the browser takes the
//! two for one site. No program that a daemon is for sends any of this.

use std::{collections::HashSet, net::IpAddr, str::FromStr as _, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, uri::Authority};

use crate::http::answer::{Response, error};
use crate::http::authenticator::Authenticator;

/// Says whether a browser sends a request for a page of the same site. Source: W3C, "Fetch Metadata
/// Request Headers".
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// The types of a body that a page may send to any site without asking it. Source: WHATWG, "Fetch",
/// "CORS-safelisted request-header".
const OF_FORMS: [&str; 3] = ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"];
/// The most letters of a header that an answer quotes.
const QUOTED: usize = 100;

/// Who may ask over the network: programs, not web pages, and those who prove a name where that is
/// asked for.
#[derive(Clone, Debug)]
pub struct Gate {
    /// The names that a daemon answers to.
    names: Arc<HashSet<String>>,
    /// Who proves names.
    pub(crate) authenticator: Option<Authenticator>,
}

impl Gate {
    /// Answers to every address, to `localhost`, to this machine's own name, and to these.
    pub fn new(allowed: &[String]) -> Self {
        let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let names = allowed.iter().cloned().chain([own, "localhost".to_owned()]);
        Gate { names: Arc::new(names.map(|name| name.to_ascii_lowercase()).collect()), authenticator: None }
    }

    /// The same, for those alone whom this lets in.
    #[must_use]
    pub fn guarded(self, authenticator: Authenticator) -> Self {
        Gate { authenticator: Some(authenticator), ..self }
    }

    /// Refuses a request that no program would send, only a browser for a foreign page.
    pub(crate) fn refusal(&self, method: &Method, headers: &HeaderMap) -> Option<Response> {
        let value = |name| headers.get(name).map(HeaderValue::to_str).map(|text| text.unwrap_or("?"));
        let host = value(header::HOST).unwrap_or_default();
        if !self.answers_to(host) {
            let name = host_of(host);
            let words = format!(
                "`{}` is no name of this server; ask for its address, or start it with --allowed-host {0}",
                quoted(&name)
            );
            return Some(error(StatusCode::MISDIRECTED_REQUEST, words));
        }
        let from_page =
            |page: &str| error(StatusCode::FORBIDDEN, format!("a web page of {page} may not ask this server"));
        if let Some(origin) = value(header::ORIGIN)
            && !is_same(origin, host)
        {
            return Some(from_page(&format!("`{}`", quoted(origin))));
        }
        if value(SEC_FETCH_SITE).is_some_and(|site| !matches!(site, "same-origin" | "none")) {
            return Some(from_page("another site"));
        }
        let kind = value(header::CONTENT_TYPE).and_then(|kind| kind.split(';').next()).map(str::trim);
        let changes = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        if let Some(kind) = kind.filter(|kind| OF_FORMS.iter().any(|form| form.eq_ignore_ascii_case(kind)))
            && changes
        {
            let words = format!("a body of the type {kind} may come from a web page's form; send application/json");
            return Some(error(StatusCode::UNSUPPORTED_MEDIA_TYPE, words));
        }
        None
    }

    /// Without a name nobody asks for another one: health checks of HTTP/1.0 send none, and
    /// browsers always do.
    fn answers_to(&self, host: &str) -> bool {
        let name = host_of(host);
        let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(&name);
        host.is_empty() || address.parse::<IpAddr>().is_ok() || self.names.contains(name.trim_end_matches('.'))
    }
}

/// The name or address of a `Host`, without its port.
fn host_of(host: &str) -> String {
    Authority::from_str(host).map_or_else(|_| host.to_owned(), |authority| authority.host().to_ascii_lowercase())
}

/// True for a page that this server itself has sent.
fn is_same(origin: &str, host: &str) -> bool {
    origin.split_once("://").is_some_and(|(_, site)| site.eq_ignore_ascii_case(host))
}

fn quoted(text: &str) -> String {
    text.chars().take(QUOTED).collect()
}

/// Tells browsers to take an answer for what it says it is, and to give it to no page of another
/// site.
pub(crate) fn close_to_pages(headers: &mut HeaderMap) {
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let policy = HeaderName::from_static("cross-origin-resource-policy");
    headers.insert(policy, HeaderValue::from_static("same-origin"));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The status of the refusal of a request with these headers; 0 without one.
    fn refused(method: &Method, given: &[(&str, &str)]) -> u16 {
        let gate = Gate::new(&["conf.example.org".to_owned()]);
        let headers = given.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        gate.refusal(method, &headers).map_or(0, |answer| answer.status().as_u16())
    }

    #[test]
    fn only_its_own_names_are_asked() {
        let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
        for good in [
            "127.0.0.1:7400",
            "10.1.2.3",
            "[::1]:7400",
            "localhost:1",
            "LocalHost",
            "conf.example.org",
            "Conf.Example.org.:7400",
            &own,
        ] {
            assert_eq!(refused(&Method::GET, &[("host", good)]), 0, "{good}");
        }
        assert_eq!(refused(&Method::GET, &[]), 0);
        for bad in ["evil.example.com", "localhost.evil.com:7400", "127.0.0.1.evil.com", "a b", "conf.example.org@x"] {
            assert_eq!(refused(&Method::GET, &[("host", bad)]), 421, "{bad}");
        }
    }

    #[test]
    fn pages_of_other_sites_do_not_ask() {
        let host = ("host", "127.0.0.1:7400");
        for method in [Method::GET, Method::POST] {
            for foreign in ["http://evil.example.com", "http://127.0.0.1:7401", "http://127.0.0.1", "null", ""] {
                assert_eq!(refused(&method, &[host, ("origin", foreign)]), 403, "{foreign}");
            }
            for foreign in ["cross-site", "same-site", "else"] {
                assert_eq!(refused(&method, &[host, ("sec-fetch-site", foreign)]), 403, "{foreign}");
            }
            let own = [host, ("origin", "http://127.0.0.1:7400"), ("sec-fetch-site", "same-origin")];
            assert_eq!(refused(&method, &own), 0);
        }
    }

    #[test]
    fn forms_change_nothing() {
        let host = ("host", "127.0.0.1");
        for kind in ["text/plain", "text/plain;charset=UTF-8", "Multipart/Form-Data; boundary=x", OF_FORMS[0]] {
            for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
                assert_eq!(refused(&method, &[host, ("content-type", kind)]), 415, "{kind}");
            }
            assert_eq!(refused(&Method::GET, &[host, ("content-type", kind)]), 0, "{kind}");
        }
        for kind in ["application/json", "application/x-git-receive-pack-request"] {
            assert_eq!(refused(&Method::POST, &[host, ("content-type", kind)]), 0, "{kind}");
        }
    }
}
