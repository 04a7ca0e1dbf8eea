//! Issues certificates anew before they end: a landing for each id, for which nobody needs to push.

use std::{collections::BTreeSet, time::Duration};

use libconf::name::{ObjectId, Segment};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::secrets::order::Order;
use crate::{
    judge::Wish,
    landing::{Lander, Options, Push},
    store as repository,
};

/// How often it is looked; a certificate lives a day at least, of which the last third is eight hours.
const EVERY: Duration = Duration::from_secs(3600);
const DAY: i64 = 24 * 3600;

/// Looks at start and hourly, until `stop`. What will be due within `ahead` days is issued anew at the start already.
pub async fn run(lander: Lander, ahead: u32, stop: CancellationToken) {
    let mut at = repository::now() + i64::from(ahead) * DAY;
    loop {
        let ids: BTreeSet<Segment> =
            lander.published().borrow().datacenters.keys().map(|name| name.id.clone()).collect();
        for id in ids {
            renew(&lander, id, at).await;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => at = repository::now(),
        }
    }
}

/// What is wrong with one id holds up no other.
async fn renew(lander: &Lander, id: Segment, at: i64) {
    let order = Order::Renew(id.clone(), at);
    let wish = |name: libconf::name::RefName| Wish { name: name.to_string(), old: ObjectId::ZERO, new: ObjectId::ZERO };
    let push = Push {
        wishes: order.references().into_iter().map(wish).collect(),
        atomic: true,
        by: Some("conf-master".to_owned()),
        through: "renewal".to_owned(),
        request: format!("{:016x}", rand::random::<u64>()),
        options: Options::default(),
        update: None,
        order: Some(order),
    };
    let outcome = lander.land(push).await;
    match outcome.refusals.iter().flatten().next() {
        Some(why) => error!(%id, reason = %why, "certificates cannot be issued anew; tried again within the hour"),
        None if outcome.sequence.is_some() => info!("certificates were issued anew: {}", outcome.notes.join("; ")),
        None => {}
    }
}
