//! Renews certificates before they end: a landing for each id, for which nobody needs to push.

use std::{collections::BTreeSet, time::Duration};

use conf_core::access::Principal;
use conf_core::http::Who;
use libconf::name::Segment;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::landing::{Lander, Push, Pusher};
use crate::secrets::SecretRequest;
use crate::text::now;

/// How often certificates are checked. A certificate lives a day at least, of which the last third
/// is eight hours.
const EVERY: Duration = Duration::from_secs(3600);
/// A day, in seconds.
const DAY: i64 = 24 * 3600;

/// Checks at start and hourly, until `stop`. The first check renews what will be due within `ahead`
/// days.
pub(crate) async fn run(lander: Lander, ahead: u32, stop: CancellationToken) {
    let mut at = now() + i64::from(ahead) * DAY;
    loop {
        let published = lander.published.borrow().clone();
        // A standby's leader does it.
        let own = published.datacenters.keys().filter(|_| published.leader.is_none());
        let ids: BTreeSet<Segment> = own.map(|name| name.id.clone()).collect();
        for id in ids {
            renew(&lander, id, at).await;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => at = now(),
        }
    }
}

/// Renews the certificates of one id. A failure holds up no other id.
async fn renew(lander: &Lander, id: Segment, at: i64) {
    let who = Who::User(nix::unistd::getuid().as_raw());
    let pusher = Pusher { principal: Principal::Server, through: "renewal".to_owned(), who };
    let outcome = lander.land(Push::secrets(SecretRequest::Renew(id.clone(), at), &pusher)).await;
    match outcome.refusals.iter().flatten().next() {
        Some(why) => error!(%id, reason = %why, "certificates cannot be renewed; tried again within the hour"),
        None if outcome.sequence.is_some() => info!("certificates were renewed: {}", outcome.notes.join("; ")),
        None => {}
    }
}
