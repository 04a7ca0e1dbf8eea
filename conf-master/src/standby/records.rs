//! What the leader refused, so that it can be looked up here too, and once this conf-master leads.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use conf_core::daemon::{blocking, chain};
use conf_core::upstream::Upstreams;
use tracing::debug;

use crate::landing::{Lander, Record};

/// 10 s: how often the leader is asked for what it refused.
const EVERY: Duration = Duration::from_secs(10);
/// How many records it is asked for; of more within that time the older ones stay there.
const AT_ONCE: usize = 100;

/// Takes down for ever what the leader refuses.
pub(crate) async fn keep(leader: &Upstreams, lander: &Lander) {
    let mut known: Option<BTreeSet<String>> = None;
    loop {
        // Whether the leader is heard is said elsewhere.
        if let Err(cause) = take(leader, lander, &mut known).await {
            debug!("what the leader refused is not known: {}", chain(&*cause));
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Asks once, and takes down what is not in `known`: at first, what is not here.
async fn take(leader: &Upstreams, lander: &Lander, known: &mut Option<BTreeSet<String>>) -> anyhow::Result<()> {
    let told: Vec<Record> = leader.get_json(&format!("api/v1/refused?limit={AT_ONCE}")).await?;
    let ids = told.iter().map(|record| record.request.clone()).collect();
    let (audit, before) = (lander.audit.clone(), known.clone());
    let kept = blocking(move || {
        let before = match before {
            Some(before) => before,
            None => audit.newest(10 * AT_ONCE, |_| true)?.into_iter().map(|record| record.request).collect(),
        };
        audit.keep(told.into_iter().rev().filter(|record| !before.contains(&record.request)))
    });
    kept.await.context("cannot write it down")?;
    *known = Some(ids);
    Ok(())
}
