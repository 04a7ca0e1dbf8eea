//! A Rust service that links libconf: typed settings, and every change of them without a signal.

use std::{
    error::Error,
    time::{Duration, SystemTime},
};

use libconf::client::{Client, Current};
use poc::Report;
use serde::Deserialize;

#[derive(Deserialize)]
struct Shop {
    release: u64,
    discount: u8,
}

fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::connect()?;
    let mut shop = client.component("services/shop")?.typed::<Shop>()?;
    report("start", &shop.current());
    loop {
        if let Some(now) = shop.changed_blocking(Duration::from_secs(3600)) {
            report("libconf", &now);
        }
    }
}

fn report(reason: &str, now: &Current<Shop>) {
    let words = format!("release {}, discount {}", now.release, now.discount);
    Report::say(SystemTime::now(), reason, now.sequence().0, &words);
}
