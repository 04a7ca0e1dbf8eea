//! The right that each request needs, before its route. What a push or an update changes is looked
//! at in the landing, since only there it is known.

use std::collections::BTreeSet;

use conf_core::access::{Place, Policy, Principal, Verb};
use http::{Method, Uri};
use libconf::name::DatacenterName;

/// The right that a request needs; `None` is enough for whoever proves a name.
pub(crate) fn verb(method: &Method, path: &str) -> Option<Verb> {
    let (is_reading, is_post) = (matches!(*method, Method::GET | Method::HEAD), *method == Method::POST);
    match parts(path).as_slice() {
        ["api", "v1", "tokens" | "standby", ..] => Some(Verb::Administer),
        ["api", "v1", "principal" | "openapi.json" | "keys"] if is_reading => None,
        ["api", "v1", "sessions"] if is_post => None,
        _ if is_reading => Some(Verb::Read),
        ["conf.git", "git-upload-pack"]
        | ["api", "v1", "policy", "test"]
        | ["api", "v1", "datacenters", _, _, "plan"]
            if is_post =>
        {
            Some(Verb::Read)
        }
        ["api", "v1", "datacenters", _, _, "hosts"] | ["api", "v1", "datacenters", _, _, "hosts", _, "key"]
            if is_post =>
        {
            Some(Verb::Report)
        }
        // The landing looks at what these change.
        ["conf.git", "git-receive-pack"] | ["api", "v1", "config", "update"] if is_post => None,
        ["api", "v1", "datacenters", _, _, "secrets", ..] => None,
        // A route that nobody has thought about here.
        _ => Some(Verb::Administer),
    }
}

/// Says why somebody may not ask for this, by the policy.
pub(crate) fn objection(policy: &Policy, who: &Principal, method: &Method, uri: &Uri) -> Result<(), String> {
    let is_git = parts(uri.path()).first() == Some(&"conf.git");
    let pushes = is_git && uri.query() == Some("service=git-receive-pack");
    let is_reading = matches!(*method, Method::GET | Method::HEAD);
    let verb = match verb(method, uri.path()) {
        // Before anything of it is taken in.
        verb if pushes || verb.is_none() && !is_reading => {
            return if policy.changes_something(who) { Ok(()) } else { Err(lacks(who, Verb::Push)) };
        }
        None => return Ok(()),
        Some(verb) => verb,
    };
    if is_git && verb == Verb::Read {
        // Git is shown the part of the repository that somebody reads.
        return if policy.reads_something(who) { Ok(()) } else { Err(lacks(who, Verb::Read)) };
    }
    let datacenters = datacenters_of(uri)?;
    let place = Place { datacenters: &datacenters, ..Place::nowhere() };
    policy.check(who, verb, place).map_err(|denied| denied.to_string())?;
    if verb == Verb::Read && datacenters.is_empty() && !policy.reads_everything(who) {
        return Err(format!(
            "{who} reads some datacenters or refs alone, and this is about everything; that needs the right `read` without \
             `refs` and `datacenters`"
        ));
    }
    Ok(())
}

fn lacks(who: &Principal, verb: Verb) -> String {
    format!("{who} lacks the right `{verb}`; an administrator can give it, in policy.yaml on the branch policy")
}

fn parts(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !part.is_empty()).collect()
}

/// The datacenters that a request is about: those of its path, or of its query on the routes that
/// read it there. None is everything.
fn datacenters_of(uri: &Uri) -> Result<BTreeSet<DatacenterName>, String> {
    let query = match parts(uri.path()).as_slice() {
        ["api", "v1", "datacenters", id, version, ..] => {
            return Ok(format!("{id}/{version}").parse().into_iter().collect());
        }
        ["api", "v1", "at" | "events" | "delivery" | "refused"] | ["conf", ..] => uri.query().unwrap_or_default(),
        _ => return Ok(BTreeSet::new()),
    };
    // As the routes read it.
    let url = reqwest::Url::parse(&format!("http://localhost/?{query}")).map_err(|bad| bad.to_string())?;
    let named = url.query_pairs().filter(|(name, _)| name == "datacenter");
    named.map(|(_, value)| value.parse().map_err(|bad| format!("{bad}"))).collect()
}

#[cfg(test)]
mod tests {
    use conf_core::access::{Named, Scope};

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
            (Method::POST, "/api/v1/datacenters/lab/1/hosts/web-1/key", Some(Verb::Report)),
            (Method::DELETE, "/api/v1/datacenters/lab/1/hosts", Some(Verb::Administer)),
            (Method::DELETE, "/api/v1/datacenters/lab/1/hosts/web-1/key", Some(Verb::Administer)),
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
                    None => ["push", "secrets", "read", "none"].contains(&described),
                };
                assert!(is_same, "{method} {path} needs {needed:?}, and is described with {described}");
            }
        }
    }

    #[test]
    fn who_reads_some_datacenters_reads_nothing_else() {
        let text = "groups: {some: [ann]}\nrights:\n  - {group: some, may: [read, push], datacenters: [\"lab/*\"]}\n";
        let policy = Policy::parse(text).unwrap();
        let named = |name: &str| {
            let (name, scope) = (name.parse().unwrap(), Scope::Policy);
            Principal::Named(Named { name, groups: BTreeSet::new(), scope, token: None })
        };
        let may = |who: &str, uri: &str| objection(&policy, &named(who), &Method::GET, &uri.parse().unwrap()).is_ok();
        assert!(may("ann", "/api/v1/datacenters/lab/v1/log"));
        assert!(may("ann", "/conf.git/info/refs?service=git-receive-pack"));
        assert!(may("ann", "/conf/services/web?datacenter=lab/v1&host=a"));
        assert!(may("ann", "/conf.git/info/refs?service=git-upload-pack"), "a part of it");
        for uri in ["/api/v1/refused", "/metrics", "/conf/services/web"] {
            assert!(!may("ann", uri), "{uri}");
        }
        assert!(!may("bob", "/conf.git/info/refs?service=git-upload-pack"));
        assert!(!may("bob", "/conf.git/info/refs?service=git-receive-pack"));
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
            "/api/v1/keys",
        ] {
            assert!(may(Method::GET, uri), "{uri}");
        }
        assert!(may(Method::POST, "/api/v1/datacenters/lab/v1/hosts"));
        for uri in [
            "/api/v1/events?datacenter=prod/v1",
            "/api/v1/events?datacenter=lab/v1&datacenter=prod/v1",
            "/api/v1/events",
            "/api/v1/datacenters",
            "/api/v1/datacenters?datacenter=lab/v1",
            "/api/v1/datacenters/prod/v1",
            "/api/v1/datacenters/prod/v1?datacenter=lab/v1",
            "/api/v1/delivery?datacenter=lab/v1&%64atacenter=prod/v1",
            "/api/v1/at?datacenter=pr%6fd/v1&sequence=4",
            "/api/v1/at?datacenter=lab/v1&datacenter=%00",
            "/api/v1/where?object=0&datacenter=lab/v1",
            "/api/v1/policy?as=a&ref=b&datacenter=lab/v1",
            "/conf.git/info/refs?service=git-receive-pack",
            "/api/v1/refused",
            "/metrics",
        ] {
            assert!(!may(Method::GET, uri), "{uri}");
        }
        assert!(!may(Method::POST, "/api/v1/datacenters/prod/v1/hosts"));
        for path in
            ["/conf.git/git-receive-pack", "/api/v1/config/update", "/api/v1/datacenters/lab/v1/secrets/a/rotate"]
        {
            assert!(!may(Method::POST, path), "{path}");
        }
    }
}
