//! The metrics of a process.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge, info::Info},
    registry::{Metric, Registry},
};

/// The metrics of this process, shown at `/metrics`.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    readings: Arc<Mutex<Vec<Reading>>>,
}

/// Sets metrics to the present state.
#[derive(Clone)]
struct Reading(Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reading")
    }
}

impl Metrics {
    /// Makes a registry that shows the program and its version.
    pub fn new(program: &'static str, version: &'static str) -> Self {
        let mut registry = Registry::default();
        let build = Info::new([("program", program), ("version", version)]);
        registry.register("conf_build", "Which program this is", build);
        Self { registry: Arc::new(Mutex::new(registry)), readings: Arc::default() }
    }

    /// Calls `reading` whenever somebody asks for the metrics, so that it sets those that show a
    /// state. It must not block.
    pub fn on_reading(&self, reading: impl Fn() + Send + Sync + 'static) {
        self.readings.lock().push(Reading(Arc::new(reading)));
    }

    /// Registers a metric and returns it; clones of it count into the same number.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        let mut registry = self.registry.lock();
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
        let readings = self.readings.lock().clone();
        readings.iter().for_each(|reading| (reading.0)());
        let mut text = String::new();
        let registry = self.registry.lock();
        // Writing into a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }
}
