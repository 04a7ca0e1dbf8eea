//! This slave's entry in Consul's catalog, by which hosts find it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use conf_core::{
    address::BaseUrl,
    consul::{Consul, ConsulError, Service, Standing},
    daemon::chain,
    retry::with_jitter,
};
use libconf::name::DatacenterName;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{mirror::Mirror, problems::Problems};

/// The name of the service.
pub(crate) const SERVICE: &str = "conf-slave";

/// 6 s without a word of this slave make it critical: it may have died.
const TTL: Duration = Duration::from_secs(6);
/// 1 to 2 s between two of its words.
const EVERY: Duration = Duration::from_secs(2);
/// A day: one that is critical for so long is hardly restarted.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);
/// 1 s for leaving the catalog at the stop.
const LEAVING: Duration = Duration::from_secs(1);
/// The topic in the problems.
const TOPIC: &str = "registration";

/// Where hosts reach this slave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reached {
    scheme: String,
    /// `None`: at the address of the machine of Consul's agent.
    host: Option<String>,
    port: u16,
}

impl Reached {
    /// As the operator says (`advertised`); or else where this slave listens; and where that is
    /// everywhere, by the address from which it reaches an agent of `consul` on another machine.
    pub(crate) fn find(advertised: Option<&BaseUrl>, (scheme, listens): (&str, SocketAddr), consul: &[String]) -> Self {
        if let Some(url) = advertised.map(BaseUrl::url) {
            let host = url.host_str().map(|host| host.trim_matches(['[', ']']).to_owned());
            let port = url.port_or_known_default().unwrap_or(listens.port());
            return Reached { scheme: url.scheme().to_owned(), host, port };
        }
        let ip = listens.ip();
        let host = if ip.is_unspecified() { consul.iter().find_map(|one| towards(one)) } else { Some(ip) };
        Reached { scheme: scheme.to_owned(), host: host.map(|ip| ip.to_string()), port: listens.port() }
    }

    fn service(&self, datacenter: &DatacenterName) -> Service {
        let at = self.host.as_ref().map_or_else(|| self.port.to_string(), |host| format!("{host}:{}", self.port));
        let allowed = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | ':' | '_' | '-');
        let id = format!("{SERVICE}-{datacenter}-{at}");
        let meta = [
            ("datacenter", datacenter.to_string()),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("scheme", self.scheme.clone()),
        ];
        Service {
            name: SERVICE.to_owned(),
            id: id.chars().map(|letter| if allowed(letter) { letter } else { '-' }).collect(),
            address: self.host.clone(),
            port: self.port,
            meta: BTreeMap::from(meta.map(|(name, value)| (name.to_owned(), value))),
            ttl: TTL,
            forgotten_after: FORGOTTEN,
        }
    }
}

/// The address of this machine from which it reaches an agent of Consul, unless that runs here.
fn towards(consul: &str) -> Option<IpAddr> {
    let whole = if consul.contains("://") { consul.to_owned() } else { format!("http://{consul}") };
    let base: BaseUrl = whole.parse().ok()?;
    let agent = *base.url().socket_addrs(|| None).ok()?.first()?;
    // Nothing is sent: the system only looks up the way.
    let socket = UdpSocket::bind(if agent.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).ok()?;
    socket.connect(agent).ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback() && own != agent.ip()).then_some(own)
}

/// Enters this slave into the catalog, says every 2 s how it is, and takes it out at `stop`. A
/// failure is shown, and stops nothing.
pub(crate) async fn run(
    consul: Arc<Consul>,
    reached: Reached,
    mirror: Arc<Mirror>,
    problems: Arc<Problems>,
    stop: CancellationToken,
) {
    let service = reached.service(mirror.datacenter());
    let (mut served, mut changed) = (mirror.subscribe(), problems.subscribe());
    let (mut is_known, mut may_be_known, mut told) = (false, false, None);
    loop {
        served.mark_unchanged();
        changed.mark_unchanged();
        let standing = standing(&mirror, &problems);
        let said = async {
            if is_known {
                consul.tell(&service.id, &standing).await
            } else {
                consul.register(&service, &standing).await
            }
        };
        let said = tokio::select! {
            said = said => said,
            () = stop.cancelled() => {
                may_be_known = true;
                break;
            }
        };
        let was_known = is_known;
        is_known = said.is_ok();
        may_be_known = may_be_known || is_known;
        match said {
            Ok(()) => {
                told = Some(standing);
                problems.clear(TOPIC, "this slave is in Consul's catalog");
            }
            // An agent that was started again knows it no longer: it is registered anew at once.
            Err(_) if was_known => continue,
            Err(error) => problems.set(TOPIC, words(&error)),
        }
        let another = async {
            while told.as_ref() == Some(&self::standing(&mirror, &problems)) {
                tokio::select! {
                    served = served.changed() => if served.is_err() { return std::future::pending().await },
                    changed = changed.changed() => if changed.is_err() { return std::future::pending().await },
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = sleep(with_jitter(EVERY)) => {}
            () = another, if is_known => {}
        }
    }
    // It may have been entered though no answer came.
    if may_be_known {
        let left = timeout(LEAVING, consul.deregister(&service.id)).await;
        if !matches!(left, Ok(Ok(()))) {
            tracing::warn!(
                "this slave could not leave Consul's catalog; it is critical there within {} s",
                TTL.as_secs()
            );
        }
    }
}

/// How this slave is: it works while it serves a snapshot and follows the central history.
fn standing(mirror: &Mirror, problems: &Problems) -> Standing {
    match (problems.refused_history(), mirror.served()) {
        (Some(reason), _) => Standing::Critical(reason),
        (None, Some(_)) => Standing::Passing,
        (None, None) => Standing::Critical(format!("no snapshot of {} is here yet", mirror.datacenter())),
    }
}

fn words(error: &ConsulError) -> String {
    let way = "hosts do not find this slave in Consul's catalog, and do not need to where --surrogate names it. With \
               --no-register it is not entered";
    match error {
        ConsulError::Denied { address, reason } => {
            format!("Consul at {address} refuses it ({reason}): its token needs service:write for {SERVICE}; {way}")
        }
        error => format!("{}; {way}", chain(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_reach_a_slave_where_it_listens_or_as_the_operator_says() {
        let find = |advertised: Option<&str>, listens: &str, consul: &str| {
            let advertised = advertised.map(|url| url.parse().unwrap());
            let reached = Reached::find(advertised.as_ref(), ("http", listens.parse().unwrap()), &[consul.to_owned()]);
            (reached.scheme, reached.host, reached.port)
        };
        let at = |scheme: &str, host: Option<&str>, port| (scheme.to_owned(), host.map(str::to_owned), port);
        let consul = "127.0.0.1:8500";
        assert_eq!(find(None, "10.0.0.1:7401", consul), at("http", Some("10.0.0.1"), 7401));
        assert_eq!(find(None, "[2001:db8::1]:7401", consul), at("http", Some("2001:db8::1"), 7401));
        assert_eq!(find(None, "0.0.0.0:7401", consul), at("http", None, 7401), "the agent's own machine");
        assert_eq!(find(None, "[::]:7401", "unix:///run/consul"), at("http", None, 7401));
        let advertised = find(Some("https://slave.example"), "127.0.0.1:7401", consul);
        assert_eq!(advertised, at("https", Some("slave.example"), 443));
        assert_eq!(find(Some("http://[::1]:80"), "127.0.0.1:7401", consul), at("http", Some("::1"), 80));
    }

    #[test]
    fn an_entry_has_a_name_that_consul_takes() {
        let reached = Reached { scheme: "https".to_owned(), host: Some("2001:db8::1".to_owned()), port: 7401 };
        let service = reached.service(&"us-west/v1".parse().unwrap());
        assert_eq!(service.id, "conf-slave-us-west-v1-2001:db8::1:7401");
        assert_eq!(service.meta["datacenter"], "us-west/v1");
        assert_eq!(service.meta["scheme"], "https");
    }
}
