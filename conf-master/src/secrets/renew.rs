//! Issues certificates anew before they end: a landing of its own, for which nobody needs to push.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::order::Order;
use crate::{
    land::{Lander, Options, Push},
    repository,
};

/// How often it is looked; a certificate lives a day at least, of which the last third is eight hours.
const EVERY: Duration = Duration::from_secs(3600);
const DAY: i64 = 24 * 3600;

/// Looks at start and hourly, until `stop`. What will be due within `ahead` days is issued anew at the start already.
pub async fn run(lander: Lander, ahead: u32, stop: CancellationToken) {
    let mut at = repository::now() + i64::from(ahead) * DAY;
    loop {
        let push = Push {
            wishes: Vec::new(),
            atomic: true,
            by: Some("conf-master".to_owned()),
            through: "renewal".to_owned(),
            request: format!("{:016x}", rand::random::<u64>()),
            options: Options::default(),
            update: None,
            order: Some(Order::Renew(at)),
        };
        let outcome = lander.land(push).await;
        match outcome.refusals.first().and_then(Option::as_ref) {
            Some(why) => error!(reason = %why, "certificates cannot be issued anew; tried again within the hour"),
            None if outcome.sequence.is_some() => info!("certificates were issued anew: {}", outcome.notes.join("; ")),
            None => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => at = repository::now(),
        }
    }
}
