//! The keys that this host trusts, and the servers that are asked for the statements about them.

use std::{sync::Arc, time::Duration};

use conf_core::{
    api::{KeyStatement, KeysEvent},
    daemon::{self, chain},
    sign::{KeptKeys, KeyError, TrustedKeys},
    upstream::Upstream,
};
use futures_util::future::join_all;
use tokio::{sync::watch, time::timeout};

use crate::fs::StateLock;

/// 2 s for an answer.
const ASKING: Duration = Duration::from_secs(2);

/// The keys that this host trusts: those that it was given, and those that statements lead to.
/// Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct HostKeys {
    kept: Arc<KeptKeys>,
    /// Nothing is kept where another agent may be at work.
    lock: StateLock,
}

impl HostKeys {
    /// Keeps statements in the state folder with this lock.
    pub(crate) fn new(kept: Arc<KeptKeys>, lock: StateLock) -> Self {
        HostKeys { kept, lock }
    }

    /// Returns the keys.
    pub(crate) fn trusted(&self) -> &TrustedKeys {
        self.kept.keys()
    }

    /// Subscribes to the statements that are followed.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Vec<KeyStatement>>> {
        self.kept.subscribe()
    }

    /// Follows statements that a server offers. Tells whether there was a new one.
    pub(crate) async fn take(&self, statements: Vec<KeyStatement>) -> Result<bool, KeyError> {
        let own = self.clone();
        let take = move || if own.lock.is_held() { own.kept.take(&statements) } else { Ok(false) };
        daemon::blocking(take).await
    }

    /// Asks all of these servers at once for statements. Tells whether there was a new one.
    pub(crate) async fn ask(&self, servers: Vec<Arc<Upstream>>) -> bool {
        let asking = servers.into_iter().map(|server| async move {
            let answer = timeout(ASKING, server.get_json::<KeysEvent>("api/v1/keys")).await;
            // A server of an earlier version has none.
            Some((server.url().to_string(), answer.ok()?.ok()?))
        });
        let mut is_any_new = false;
        for (server, KeysEvent { statements }) in join_all(asking).await.into_iter().flatten() {
            match self.take(statements).await {
                Ok(is_new) => is_any_new |= is_new,
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(error, server, "what a server says of conf-master's keys is not followed");
                }
            }
        }
        is_any_new
    }
}
