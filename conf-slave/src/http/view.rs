//! The parts of the program that the routes read, and the status made from them.

use std::sync::Arc;

use conf_core::{api::WatermarkEvent, sign::KeptKeys};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    above::Above, access::Access, freshness::Heard, mirror::Mirror, problems::Problems, publish::Publisher,
    reports::HostReports,
};

/// The parts of the program that the routes read.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) above: Arc<Above>,
    pub(crate) access: Arc<Access>,
    pub(crate) heard: Arc<Heard>,
    pub(crate) keys: Arc<KeptKeys>,
    pub(crate) mirror: Arc<Mirror>,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) reports: Arc<HostReports>,
    pub(crate) problems: Arc<Problems>,
    pub(crate) watermark: watch::Receiver<Option<WatermarkEvent>>,
    /// The addresses of Consul, or `embedded`.
    pub(crate) consul: Vec<String>,
    /// The addresses of the central servers.
    pub(crate) central: Vec<String>,
}

impl View {
    /// Makes the answer to `GET /api/v1/status`.
    pub(crate) fn status(&self) -> Value {
        let served = self.mirror.served();
        json!({
            "datacenter": self.mirror.datacenter(),
            "sequence": served.as_ref().map_or(0, |served| served.snapshot.sequence.0),
            "commit": served.as_ref().map(|served| served.snapshot.commit),
            // The pointer that Consul was last seen to hold, as this slave wrote or found it.
            "published": self.publisher.published(),
            // The newest change of the central server that this slave has heard of.
            "watermark": self.watermark.borrow().as_ref().map(|watermark| watermark.central),
            // How long the central server was not heard, and its last word, as it came.
            "freshness": self.heard.state(),
            "statement": self.heard.newest(),
            "hosts": self.reports.count(),
            // `problem` is the present outage, in words.
            "consul": { "addresses": self.consul, "problem": self.problems.get("consul") },
            // `relays`: the conf-slaves between this one and conf-master.
            "central": {
                "addresses": self.central,
                "relays": self.above.tiers() - 1,
                "problem": self.problems.get("central"),
            },
            "problems": self.problems.list(),
            "agent": env!("CARGO_PKG_VERSION"),
        })
    }
}
