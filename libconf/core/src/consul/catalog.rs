//! Services in Consul's catalog: one registers itself at an agent and says how it is; others list
//! those that are well.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use serde_json::json;

use crate::consul::client::{Answer, Connection, Consul, ConsulError};

/// The deadline of a request that does not wait.
const DEADLINE: Duration = Duration::from_secs(5);
/// The most instances that an answer may name: a datacenter has a few.
const MOST_INSTANCES: usize = 256;

/// What an instance of a service tells the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The name of the service.
    pub name: String,
    /// The name of this instance, unique at its agent: letters, digits, `.`, `:`, `_` and `-`.
    pub id: String,
    /// The address that others connect to; `None` is that of the agent's machine.
    pub address: Option<String>,
    /// The port that others connect to.
    pub port: u16,
    /// What else is to be known of it.
    pub meta: BTreeMap<String, String>,
    /// It counts as critical when it has not said for so long how it is.
    pub ttl: Duration,
    /// One that is critical for so long is forgotten; Consul makes a minute of less.
    pub forgotten_after: Duration,
}

/// How an instance is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It works.
    Passing,
    /// It does not, for this reason.
    Critical(String),
}

impl Standing {
    fn status(&self) -> &'static str {
        match self {
            Standing::Passing => "passing",
            Standing::Critical(_) => "critical",
        }
    }

    /// What people see. While all is well it never changes: each change wakes all watchers.
    fn output(&self) -> &str {
        match self {
            Standing::Passing => "it works",
            Standing::Critical(reason) => reason,
        }
    }
}

/// An instance of a service that the catalog names as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its address, or that of its machine.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// What else it told.
    pub meta: BTreeMap<String, String>,
}

impl Instance {
    /// Its base URL, if its address and `scheme` make one of `http` or `https`.
    pub fn url(&self, scheme: &str) -> Option<Url> {
        let host = match self.address.parse() {
            Ok(IpAddr::V6(address)) => format!("[{address}]"),
            _ => self.address.clone(),
        };
        let url = Url::parse(&format!("{scheme}://{host}:{}", self.port)).ok()?;
        let is_base = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let is_named = url.username().is_empty() && url.password().is_none() && url.host_str().is_some();
        (matches!(url.scheme(), "http" | "https") && is_base && is_named).then_some(url)
    }
}

/// How far a watcher of a service has seen. It begins with nothing: the first call answers at once.
#[derive(Clone, Debug, Default)]
pub struct ServiceIndex(Option<(usize, u64)>);

impl Consul {
    /// Enters an instance into the catalog, or changes its entry.
    ///
    /// - Errors: `Denied` (the ACL token needs `service:write` for the name).
    /// - Source: Consul HTTP API, "Register Service".
    pub async fn register(&self, service: &Service, standing: &Standing) -> Result<(), ConsulError> {
        check_id(&service.id)?;
        let mut body = json!({
            "ID": service.id, "Name": service.name, "Port": service.port, "Meta": service.meta,
            "Check": {
                "CheckID": check_of(&service.id),
                "Name": format!("{} says how it is", service.name),
                "TTL": format!("{}ms", service.ttl.as_millis()),
                "Status": standing.status(),
                "DeregisterCriticalServiceAfter": format!("{}s", service.forgotten_after.as_secs()),
            },
        });
        if let Some(address) = &service.address {
            body["Address"] = json!(address);
        }
        let answer = self.ask(Method::PUT, "/v1/agent/service/register", Some(bytes(&body)), DEADLINE).await?;
        done(&answer)
    }

    /// Says how a registered instance is. Any error may mean that the agent does not know it (any
    /// more).
    pub async fn tell(&self, id: &str, standing: &Standing) -> Result<(), ConsulError> {
        check_id(id)?;
        let body = json!({"Status": standing.status(), "Output": standing.output()});
        let path = format!("/v1/agent/check/update/{}", check_of(id));
        done(&self.ask(Method::PUT, &path, Some(bytes(&body)), DEADLINE).await?)
    }

    /// Takes an instance out of the catalog.
    pub async fn deregister(&self, id: &str) -> Result<(), ConsulError> {
        check_id(id)?;
        let path = format!("/v1/agent/service/deregister/{id}");
        done(&self.ask(Method::PUT, &path, None, DEADLINE).await?)
    }

    /// Waits until the instances of a service that are well may have changed since `seen`, or until
    /// `wait` has passed, then lists them. Those that the token may not read are left out.
    ///
    /// - Errors: as for [`Consul::watch`]; an error is never "there is none".
    /// - `seen` begins anew after an error, at another address, and when Consul's index went back.
    /// - Cancel: dropping the future loses no change; the next call answers at once.
    /// - Source: Consul HTTP API, "List Nodes for Service", "Blocking Queries".
    pub async fn watch_service(
        &self,
        name: &str,
        seen: &mut ServiceIndex,
        wait: Duration,
    ) -> Result<Vec<Instance>, ConsulError> {
        check_id(name)?;
        let path = format!("/v1/health/service/{name}?passing");
        let before = seen.0.take();
        let blocked = match before {
            Some((at, index)) => {
                let path = format!("{path}&index={index}&wait={}ms", wait.as_millis());
                let deadline = wait + wait / 16 + DEADLINE;
                self.ask_one(at, Connection::Pooled, Method::GET, &path, None, deadline).await.ok()
            }
            None => None,
        };
        let answer = match blocked {
            Some(answer) => answer,
            None => self.ask(Method::GET, &path, None, DEADLINE).await?,
        };
        let instances = instances(&answer)?;
        let went_back = before.is_some_and(|(at, index)| at == answer.at && answer.index < index);
        seen.0 = (!went_back).then_some((answer.at, answer.index));
        Ok(instances)
    }
}

pub(crate) fn check_of(id: &str) -> String {
    format!("service:{id}")
}

fn bytes(body: &serde_json::Value) -> Vec<u8> {
    body.to_string().into_bytes()
}

/// Checks the answer to a change of the catalog.
fn done(answer: &Answer) -> Result<(), ConsulError> {
    match answer.status {
        StatusCode::OK => Ok(()),
        status => Err(answer.malformed(format!("{status}: {}", String::from_utf8_lossy(&answer.body).trim()))),
    }
}

/// Refuses names that would mean something else in a URL.
fn check_id(id: &str) -> Result<(), ConsulError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b':' | b'_' | b'-');
    if (1..=256).contains(&id.len()) && id != "." && id != ".." && id.bytes().all(allowed) {
        return Ok(());
    }
    let start: String = id.chars().take(100).collect();
    Err(ConsulError::Refused(format!("{start:?} is not a name of letters, digits and '.:_-'")))
}

fn instances(answer: &Answer) -> Result<Vec<Instance>, ConsulError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Healthy {
        node: Node,
        service: Named,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Node {
        #[serde(default)]
        address: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Named {
        #[serde(default)]
        address: String,
        port: u16,
        meta: Option<BTreeMap<String, String>>,
    }
    if answer.status != StatusCode::OK || answer.index == 0 {
        return Err(answer.malformed(format!("{} without an index to a question for a service", answer.status)));
    }
    let healthy: Vec<Healthy> = serde_json::from_slice(&answer.body).map_err(|error| answer.malformed(error))?;
    if healthy.len() > MOST_INSTANCES {
        return Err(answer.malformed(format!("{} instances; {MOST_INSTANCES} are read at most", healthy.len())));
    }
    let instance = |Healthy { node, service }: Healthy| {
        let address = if service.address.is_empty() { node.address } else { service.address };
        Instance { address, port: service.port, meta: service.meta.unwrap_or_default() }
    };
    Ok(healthy.into_iter().map(instance).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_has_a_url_of_its_address_and_nothing_else() {
        let url = |address: &str, scheme: &str| {
            let instance = Instance { address: address.to_owned(), port: 7401, meta: BTreeMap::new() };
            instance.url(scheme).map(|url| url.to_string())
        };
        assert_eq!(url("10.0.0.1", "http").as_deref(), Some("http://10.0.0.1:7401/"));
        assert_eq!(url("2001:db8::1", "https").as_deref(), Some("https://[2001:db8::1]:7401/"));
        assert_eq!(url("slave.example", "https").as_deref(), Some("https://slave.example:7401/"));
        for bad in ["", "a/b", "user@a", "a?b", "a#b", "a b", "a:80/"] {
            assert_eq!(url(bad, "http"), None, "{bad:?}");
        }
        assert_eq!(url("a", "ftp"), None);
        assert_eq!(url("a", ""), None);
    }

    #[test]
    fn names_that_are_sent() {
        assert!(check_id("conf-slave-lab-v1-10.0.0.1:7401").is_ok());
        for bad in ["", ".", "..", "a/b", "a?b", "a b", "ä"] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }
}
