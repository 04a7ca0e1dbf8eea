//! The servers that snapshots are fetched from.

use std::{sync::Arc, time::Duration};

use conf_core::upstream::{Upstream, UpstreamError, Upstreams};
use tokio::time::sleep;

/// 5 s: a central server that works again is shown so within this.
const BACK: Duration = Duration::from_secs(5);

/// The conf-slaves of this datacenter, and conf-masters, which are asked after them.
/// Clones share what is known about each server's health.
#[derive(Clone, Debug)]
pub struct SnapshotServers {
    pub(crate) surrogates: Arc<Upstreams>,
    pub(crate) masters: Arc<Upstreams>,
}

impl SnapshotServers {
    /// Pairs the two.
    pub fn new(surrogates: Upstreams, masters: Upstreams) -> Self {
        SnapshotServers { surrogates: Arc::new(surrogates), masters: Arc::new(masters) }
    }

    /// Lists all servers in the order in which to ask them: those that are silent come last, since
    /// each of them would cost the patience for it.
    pub(crate) fn in_order(&self) -> Vec<Arc<Upstream>> {
        let mut list: Vec<_> = self.surrogates.in_order().into_iter().chain(self.masters.in_order()).collect();
        list.sort_by_key(|server| server.is_silent());
        list
    }

    /// Asks servers that failed whether they are back, until it is dropped. Calls `back` with each
    /// that is. A central server may also be found back by a question whose answer nobody waited
    /// for.
    pub(crate) async fn revive(&self, back: impl Fn(&Upstream)) {
        let report = |server: &Upstream, answer: Result<(), UpstreamError>| {
            if answer.is_ok() {
                back(server);
            }
        };
        let working = async {
            loop {
                sleep(BACK).await;
                self.masters.in_order().iter().filter(|one| !one.is_failing()).for_each(|one| back(one));
            }
        };
        tokio::join!(self.surrogates.revive(report), self.masters.revive(report), working);
    }
}
