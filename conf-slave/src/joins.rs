//! Hosts that join: conf-master lets them in, and says so to all conf-slaves of the datacenter.

use std::sync::Arc;
use std::time::Duration;

use conf_core::access::{AccessTable, TokenHash};
use conf_core::api::{JoinRequest, SecretText};
use conf_core::http::{Joining, NotJoined};
use conf_core::upstream::{UpstreamError, Upstreams};
use http::{Method, StatusCode};
use libconf::name::DatacenterName;
use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

/// Hosts that conf-master is asked for at once; those that come besides ask again.
const AT_ONCE: usize = 64;
/// 22 s: conf-master lets them wait for 20.
const ANSWER: Duration = Duration::from_secs(22);
/// 5 s from conf-master's answer to its list with the host.
const HEARD: Duration = Duration::from_secs(5);

/// Has hosts join at conf-master.
#[derive(Debug)]
pub(crate) struct Joins {
    datacenter: DatacenterName,
    upstreams: Arc<Upstreams>,
    table: watch::Receiver<Arc<AccessTable>>,
    places: Semaphore,
}

impl Joins {
    pub(crate) fn new(
        datacenter: DatacenterName,
        upstreams: Arc<Upstreams>,
        table: watch::Receiver<Arc<AccessTable>>,
    ) -> Self {
        Joins { datacenter, upstreams, table, places: Semaphore::new(AT_ONCE) }
    }

    /// Asks conf-master, and waits until its list has the host.
    pub(crate) async fn join(&self, joining: Joining) -> Result<(), NotJoined> {
        let later = |words: String| NotJoined::Later(words);
        let Joining { datacenter, host, key, token } = joining;
        if datacenter != self.datacenter {
            return Err(NotJoined::Refused(format!("this conf-slave serves {}, not {datacenter}", self.datacenter)));
        }
        let _place = self.places.try_acquire().map_err(|_| later(format!("{AT_ONCE} hosts are joining already")))?;
        let hash = TokenHash::of_key(&datacenter, &key);
        let path = format!("api/v1/datacenters/{datacenter}/hosts/{host}/key");
        let body = JoinRequest { key: (&key).into(), join: SecretText(token.reveal().to_owned()) };
        let (status, said) = self.ask(&path, &body).await.map_err(|error| later(error.to_string()))?;
        let words = || said["error"].as_str().unwrap_or("conf-master gave no reason").to_owned();
        match status {
            status if status.is_success() => {}
            StatusCode::CONFLICT => return Err(NotJoined::Refused(words())),
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                return Err(later(format!(
                    "conf-master lets no host join; is it older than this conf-slave? {}",
                    words()
                )));
            }
            _ => return Err(later(words())),
        }
        let mut table = self.table.clone();
        let is_there = |table: &Arc<AccessTable>| table.find(&hash, 0).is_ok();
        match timeout(HEARD, table.wait_for(is_there)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(later("conf-master let the host join, and has not told it yet".to_owned())),
        }
    }

    async fn ask(&self, path: &str, body: &JoinRequest) -> Result<(StatusCode, Value), UpstreamError> {
        let mut first = None;
        for one in self.upstreams.in_order() {
            match one.call(Method::POST, path, &[], Some(body), ANSWER).await {
                Ok(answer) => return Ok(answer),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or(UpstreamError::NoServer))
    }
}
