//! The right that each request needs, before its route. What a push or an update changes is looked
//! at in the landing, since only there it is known.

use std::collections::BTreeSet;

use conf_core::access::{Place, Policy, Principal, Scope, Verb};
use http::{Method, Uri};
use libconf::name::DatacenterName;

/// The right that a request needs; `None` is enough for whoever proves a name.
pub(crate) fn verb(method: &Method, path: &str) -> Option<Verb> {
    let (is_reading, is_post) = (matches!(*method, Method::GET | Method::HEAD), *method == Method::POST);
    match parts(path).as_slice() {
        ["api", "v1", "tokens", ..] => Some(Verb::Administer),
        ["api", "v1", "principal" | "openapi.json"] if is_reading => None,
        _ if is_reading => Some(Verb::Read),
        ["conf.git", "git-upload-pack"]
        | ["api", "v1", "policy", "test"]
        | ["api", "v1", "datacenters", _, _, "plan"]
            if is_post =>
        {
            Some(Verb::Read)
        }
        ["api", "v1", "datacenters", _, _, "hosts"] if is_post => Some(Verb::Report),
        // The landing looks at what these change.
        ["conf.git", "git-receive-pack"] | ["api", "v1", "config", "update"] if is_post => None,
        ["api", "v1", "datacenters", _, _, "secrets", ..] => None,
        // A route that nobody has thought about here.
        _ => Some(Verb::Administer),
    }
}

/// Says why somebody may not ask for this, by the policy.
pub(crate) fn objection(policy: &Policy, who: &Principal, method: &Method, uri: &Uri) -> Result<(), String> {
    let Some(verb) = verb(method, uri.path()) else { return Ok(()) };
    let named = who.named().filter(|named| named.scope != Scope::Policy);
    if named.is_some() && verb == Verb::Read && parts(uri.path()).first() == Some(&"conf.git") {
        // Which of its commits is looked at when they are wanted.
        return Ok(());
    }
    let datacenters = datacenter_in(uri).into_iter().collect();
    let place = Place { datacenters: &datacenters, ..Place::nowhere() };
    policy.check(who, verb, place).map_err(|denied| denied.to_string())
}

fn parts(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !part.is_empty()).collect()
}

/// The datacenter that a request is about, where it names one.
fn datacenter_in(uri: &Uri) -> BTreeSet<DatacenterName> {
    let in_path = match parts(uri.path()).as_slice() {
        ["api", "v1", "datacenters", id, version, ..] => format!("{id}/{version}").parse().ok(),
        _ => None,
    };
    let pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let in_query = pairs
        .filter(|(name, _)| *name == "datacenter")
        .filter_map(|(_, value)| value.replace("%2F", "/").replace("%2f", "/").parse().ok());
    in_path.into_iter().chain(in_query).collect()
}

#[cfg(test)]
mod tests {
    use conf_core::access::Named;

    use super::*;

    #[test]
    fn what_nobody_thought_about_is_for_administrators() {
        for (method, path, wanted) in [
            (Method::GET, "/api/v1/at", Some(Verb::Read)),
            (Method::GET, "/conf.git/info/refs", Some(Verb::Read)),
            (Method::POST, "/api/v1/policy/test", Some(Verb::Read)),
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

    #[test]
    fn the_description_names_the_same_rights() {
        let document: serde_json::Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
        for (path, item) in document["paths"].as_object().unwrap() {
            let operations = item.as_object().unwrap().iter();
            for (method, described) in
                operations.filter_map(|(method, one)| Some((method, one["x-conf-verb"].as_str()?)))
            {
                let needed = verb(&method.to_uppercase().parse().unwrap(), path);
                let is_same = match needed {
                    // Anybody may ask for health.
                    Some(Verb::Read) => ["read", "none"].contains(&described),
                    Some(verb) => verb.to_string() == described,
                    // The landing looks at it, or every token is enough.
                    None => ["push", "secrets", "read"].contains(&described),
                };
                assert!(is_same, "{method} {path} needs {needed:?}, and is described with {described}");
            }
        }
    }

    #[test]
    fn the_token_of_a_conf_slave_opens_its_datacenters() {
        let scope = Scope::Slave("lab/*".to_owned());
        let who =
            Principal::Named(Named { name: "cache".parse().unwrap(), groups: BTreeSet::new(), scope, token: None });
        let may =
            |method: Method, uri: &str| objection(&Policy::initial(), &who, &method, &uri.parse().unwrap()).is_ok();
        for uri in [
            "/api/v1/events?datacenter=lab/v1",
            "/api/v1/events?x=1&datacenter=lab%2Fv1",
            "/api/v1/datacenters/lab/v1",
            "/conf.git/info/refs?service=git-upload-pack",
            "/api/v1/openapi.json",
        ] {
            assert!(may(Method::GET, uri), "{uri}");
        }
        assert!(may(Method::POST, "/api/v1/datacenters/lab/v1/hosts"));
        for uri in [
            "/api/v1/events?datacenter=prod/v1",
            "/api/v1/events?datacenter=lab/v1&datacenter=prod/v1",
            "/api/v1/events",
            "/api/v1/datacenters",
            "/api/v1/datacenters/prod/v1",
            "/api/v1/refused",
            "/metrics",
        ] {
            assert!(!may(Method::GET, uri), "{uri}");
        }
        assert!(!may(Method::POST, "/api/v1/datacenters/prod/v1/hosts"));
        assert!(!may(Method::POST, "/api/v1/datacenters/lab/v1/plan?datacenter=prod/v1"));
    }
}
