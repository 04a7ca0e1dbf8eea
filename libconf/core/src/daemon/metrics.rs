//! The metrics of a process.

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge, info::Info},
    registry::{Metric, Registry},
};

/// The metrics of this process, shown at `/metrics`.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    /// Makes a registry that shows the program and its version.
    pub fn new(program: &'static str, version: &'static str) -> Self {
        let mut registry = Registry::default();
        let build = Info::new([("program", program), ("version", version)]);
        registry.register("conf_build", "Which program this is", build);
        Self(Arc::new(Mutex::new(registry)))
    }

    /// Registers a metric and returns it; clones of it count into the same number.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        let mut registry = self.0.lock();
        registry.register(name, help, metric.clone());
        metric
    }

    /// A number that only grows; shown as `<name>_total`.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.register(name, help, Counter::default())
    }

    /// A number that goes up and down.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(name, help, Gauge::default())
    }

    /// All metrics in the `OpenMetrics` text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let registry = self.0.lock();
        // Writing into a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }
}
