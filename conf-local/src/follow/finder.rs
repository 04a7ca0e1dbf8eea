//! Finding this datacenter's conf-slaves in Consul's catalog.
//!
//! What Consul says gives no trust: snapshots are verified as ever, and a conf-slave that was found
//! is shown a token only where something else proves who it is. No error and no empty answer takes
//! a conf-slave away: the last good list stays, over restarts too.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use conf_core::{
    address::BaseUrl,
    consul::{Consul, Instance, ServiceIndex},
    daemon::chain,
    git::Durability,
    retry::{Backoff, with_jitter},
    upstream::Upstreams,
};
use libconf::name::DatacenterName;
use serde::{Deserialize, Serialize};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    fs::{StateLock, read_state, replace_state},
    state::Agent,
};

/// 60 s: one question waits so long for a change. A Consul that came back without its past may
/// forget to wake who waits.
const WAIT: Duration = Duration::from_secs(60);
/// 1 s between two questions at least: what changes is told to all hosts at once.
const PAUSE: Duration = Duration::from_secs(1);
/// 10 s between two attempts at most.
const SELDOM: Duration = Duration::from_secs(10);

/// Finds the conf-slaves of a datacenter under one name in the catalog.
pub(crate) struct Finder {
    service: String,
    datacenter: DatacenterName,
    surrogates: Arc<Upstreams>,
    file: PathBuf,
    /// Nothing is kept where another agent may be at work.
    lock: StateLock,
}

/// The content of the file that keeps the last good list.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Found {
    #[serde(default)]
    datacenter: String,
    #[serde(default)]
    urls: BTreeSet<String>,
}

impl Finder {
    /// Begins with those that were found last, as the state folder has them.
    pub(crate) fn recall(
        service: String,
        datacenter: DatacenterName,
        surrogates: Arc<Upstreams>,
        lock: StateLock,
    ) -> Self {
        let file = lock.folder().join(format!("found-{service}.json"));
        let finder = Finder { service, datacenter, surrogates, file, lock };
        // What cannot be read is found again.
        let known: Found = read_state(&finder.file).unwrap_or_default();
        if known.datacenter == finder.datacenter.to_string() {
            finder.take(&known.urls);
        }
        finder
    }

    /// Follows the catalog. Never ends.
    pub(crate) async fn find(&self, consul: &Consul, agent: &Agent) {
        let topic = format!("{} in Consul", self.service);
        let mut index = ServiceIndex::default();
        let mut backoff = Backoff::new(Duration::from_millis(200), SELDOM);
        let mut before = None;
        loop {
            let earliest = Instant::now() + with_jitter(PAUSE);
            match consul.watch_service(&self.service, &mut index, WAIT).await {
                Ok(instances) => {
                    backoff.reset();
                    let urls = urls_of(&instances, &self.datacenter);
                    if urls.is_empty() {
                        agent.set_away(&topic, &self.nothing(instances.len()));
                    } else if before.as_ref() != Some(&urls) {
                        match self.take(&urls).as_slice() {
                            [] => agent.set_back(&topic),
                            faults => agent.set_away(&topic, &faults.join("; ")),
                        }
                        self.keep(&urls).await;
                        before = Some(urls);
                    } else {
                        agent.set_back(&topic);
                    }
                }
                Err(error) => {
                    let words = format!("{}; those that were found last are asked", chain(&error));
                    agent.set_away(&topic, &words);
                    sleep(backoff.next_wait()).await;
                }
            }
            sleep_until(earliest).await;
        }
    }

    fn take(&self, urls: &BTreeSet<String>) -> Vec<String> {
        self.surrogates.found(urls.iter().filter_map(|url| url.parse::<BaseUrl>().ok()).collect())
    }

    async fn keep(&self, urls: &BTreeSet<String>) {
        let (file, lock) = (self.file.clone(), self.lock.clone());
        let content = Found { datacenter: self.datacenter.to_string(), urls: urls.clone() };
        let keep = move || lock.expect_held().and_then(|()| replace_state(&file, &content, Durability::Full));
        let kept = spawn_blocking(keep).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(%error, file = %self.file.display(), "the conf-slaves that were found could not be kept");
        }
    }

    fn nothing(&self, others: usize) -> String {
        let Finder { service, datacenter, .. } = self;
        let others = match others {
            0 => "no healthy instance of it at all".to_owned(),
            others => format!("{others} of other datacenters"),
        };
        format!(
            "Consul names no healthy {service} of {datacenter}, but {others}; those that were found last are asked. Does a \
             conf-slave run, and does the token of Consul have service:read for {service} and node:read?"
        )
    }
}

/// The URLs of the instances that are of this datacenter.
fn urls_of(instances: &[Instance], datacenter: &DatacenterName) -> BTreeSet<String> {
    let datacenter = datacenter.to_string();
    let is_own = |one: &&Instance| one.meta.get("datacenter") == Some(&datacenter);
    let url = |one: &Instance| one.url(one.meta.get("scheme").map_or("http", String::as_str));
    instances.iter().filter(is_own).filter_map(url).map(|url| url.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use conf_core::upstream::{Asking, Credentials, Trust};

    use super::*;

    fn instance(address: &str, datacenter: Option<&str>, scheme: Option<&str>) -> Instance {
        let meta = [("datacenter", datacenter), ("scheme", scheme)];
        let meta = meta.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
        Instance { address: address.to_owned(), port: 7401, meta }
    }

    #[test]
    fn only_conf_slaves_of_this_datacenter_are_asked() {
        let instances = [
            instance("10.0.0.1", Some("lab/v1"), Some("https")),
            instance("10.0.0.2", Some("lab/v1"), None),
            instance("10.0.0.3", Some("lab/v2"), None),
            instance("10.0.0.4", None, None),
            instance("10.0.0.5", Some("lab/v1"), Some("file")),
            instance("a/b", Some("lab/v1"), None),
        ];
        let found = urls_of(&instances, &"lab/v1".parse().unwrap());
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["http://10.0.0.2:7401/", "https://10.0.0.1:7401/"]);
    }

    #[tokio::test]
    async fn the_last_good_list_outlives_a_restart_and_is_of_one_datacenter() {
        let folder = tempfile::tempdir().unwrap();
        let lock = StateLock::take(folder.path()).unwrap();
        let asked = |datacenter: &str| {
            let asking = Asking { spread: Some("web-1".to_owned()), finds: Some(Trust::Proven) };
            let surrogates = Arc::new(Upstreams::asking(Vec::new(), &Credentials::none(), asking).unwrap());
            let service = "conf-slave".to_owned();
            let finder = Finder::recall(service, datacenter.parse().unwrap(), Arc::clone(&surrogates), lock.clone());
            let urls: Vec<_> = surrogates.in_order().iter().map(|one| one.url().to_string()).collect();
            (finder, urls)
        };
        let (finder, before) = asked("lab/v1");
        assert!(before.is_empty());
        finder.keep(&BTreeSet::from(["http://10.0.0.2:7401/".to_owned()])).await;
        assert_eq!(asked("lab/v1").1, ["http://10.0.0.2:7401/"]);
        assert!(asked("lab/v2").1.is_empty());
    }
}
