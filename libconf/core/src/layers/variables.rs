//! The variables of a template besides settings and secrets.

use serde_json::{Map, Value, json};

use crate::{layers::layer::Sources, settings::merge};
use libconf::name::{ComponentVersion, HostName};

/// The name of a host that has none.
const NO_HOST: &str = "unlisted";

/// The variables `datacenter`, `platform`, `host` and `component`.
pub(crate) fn variables(
    sources: &Sources<'_>,
    component: &ComponentVersion,
    host: Option<&HostName>,
) -> Map<String, Value> {
    let Sources { datacenter, instance, platform, .. } = sources;
    let listed = host.and_then(|host| instance.hosts.get(host));
    let roles: Vec<&str> = listed.into_iter().flat_map(|host| &host.roles).map(|(role, _)| role.as_str()).collect();
    let mut variables = Map::new();
    let of_roles = listed.into_iter().flat_map(|host| &host.roles).filter_map(|(role, _)| instance.roles.get(role));
    of_roles.for_each(|role| merge(&mut variables, &role.variables));
    listed.iter().for_each(|host| merge(&mut variables, &host.variables));
    let all = json!({
        "datacenter": {
            "id": datacenter.id.as_str(),
            "version": datacenter.version.as_str(),
            "name": datacenter.to_string(),
            "class": instance.conf.class.as_str(),
        },
        "platform": platform,
        "host": {
            "name": host.map_or(NO_HOST, HostName::as_str),
            "roles": roles,
            "labels": listed.map(|host| host.labels.clone()).unwrap_or_default(),
            "variables": variables,
        },
        "component": {
            "kind": component.component.kind.as_str(),
            "name": component.component.name.as_str(),
            "version": component.version.as_str(),
        },
    });
    match all {
        Value::Object(all) => all,
        _ => Map::new(),
    }
}
