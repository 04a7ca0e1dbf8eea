//! The right that each request needs, before its route. What a push or an update changes is looked
//! at in the landing, since only there it is known.

use conf_core::access::{Principal, Scope, Verb};
use http::Method;

use crate::access::administers;

/// The right that a request needs; `None` is enough for whoever proves a name.
pub(crate) fn verb(method: &Method, path: &str) -> Option<Verb> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match (method, parts.as_slice()) {
        (_, ["api", "v1", "tokens", ..]) => Some(Verb::Administer),
        (&Method::GET, ["api", "v1", "principal"]) => None,
        (&Method::GET | &Method::HEAD, _) => Some(Verb::Read),
        (&Method::POST, ["conf.git", "git-upload-pack"]) => Some(Verb::Read),
        (&Method::POST, ["conf.git", "git-receive-pack"] | ["api", "v1", "config", "update"]) => None,
        (&Method::POST, ["api", "v1", "datacenters", _, _, "plan"]) => Some(Verb::Read),
        (&Method::POST, ["api", "v1", "datacenters", _, _, "hosts"]) => Some(Verb::Report),
        (_, ["api", "v1", "datacenters", _, _, "secrets", ..]) => None,
        // A route that nobody has thought about here.
        _ => Some(Verb::Administer),
    }
}

/// Says why somebody may not ask for this.
pub(crate) fn objection(who: &Principal, method: &Method, path: &str) -> Result<(), String> {
    let Some(verb) = verb(method, path) else { return Ok(()) };
    let scope = who.named().map_or(Scope::Policy, |named| named.scope.clone());
    let may = match scope {
        Scope::Policy => verb == Verb::Read || administers(who),
        Scope::Slave(_) | Scope::Host { .. } => matches!(verb, Verb::Read | Verb::Report),
    };
    if may { Ok(()) } else { Err(format!("{who} may not ask for this: it needs the right `{verb}`")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_thought_about_is_for_administrators() {
        for (method, path, wanted) in [
            (Method::GET, "/api/v1/at", Some(Verb::Read)),
            (Method::GET, "/conf.git/info/refs", Some(Verb::Read)),
            (Method::POST, "/conf.git/git-upload-pack", Some(Verb::Read)),
            (Method::POST, "/conf.git/git-receive-pack", None),
            (Method::POST, "/api/v1/datacenters/lab/1/hosts", Some(Verb::Report)),
            (Method::DELETE, "/api/v1/datacenters/lab/1/hosts", Some(Verb::Administer)),
            (Method::GET, "/api/v1/tokens", Some(Verb::Administer)),
            (Method::GET, "//api/v1//tokens/", Some(Verb::Administer)),
            (Method::POST, "/api/v1/new", Some(Verb::Administer)),
        ] {
            assert_eq!(verb(&method, path), wanted, "{method} {path}");
        }
    }
}
