//! The way from a standby to its leader.

use std::sync::Arc;

use anyhow::Context as _;
use conf_core::address::BaseUrl;
use conf_core::upstream::{Credentials, Upstream, Upstreams};
use parking_lot::Mutex;

/// The way to a leader, made once for each.
#[derive(Debug, Default)]
pub(crate) struct LeaderClient {
    credentials: Credentials,
    made: Mutex<Option<(BaseUrl, Arc<Upstream>)>>,
}

impl LeaderClient {
    /// Speaks to leaders over this TLS.
    pub(crate) fn new(credentials: Credentials) -> Self {
        LeaderClient { credentials, made: Mutex::default() }
    }

    /// The client of the leader at this URL.
    pub(crate) fn at(&self, url: &BaseUrl) -> anyhow::Result<Arc<Upstream>> {
        let mut made = self.made.lock();
        if let Some((_, server)) = made.as_ref().filter(|(of, _)| of == url) {
            return Ok(server.clone());
        }
        let servers = Upstreams::new(vec![url.clone()], &self.credentials)?;
        let server = servers.in_order().into_iter().next().context("it has no address")?;
        *made = Some((url.clone(), server.clone()));
        Ok(server)
    }
}
