//! Whether a daemon can serve.

use std::sync::Arc;

use http::StatusCode;
use parking_lot::Mutex;
use warp::Filter as _;

use crate::{
    daemon::Metrics,
    http::answer::{Routes, bytes_of, error, text},
};

/// Whether this daemon can serve, and if not, why.
#[derive(Clone, Debug)]
pub struct Health {
    waiting_for: Arc<Mutex<Option<String>>>,
    metrics: Metrics,
}

impl Health {
    /// Begins as not ready.
    pub fn new(metrics: Metrics) -> Self {
        Self { waiting_for: Arc::new(Mutex::new(Some("starting".to_owned()))), metrics }
    }

    /// Reports that the daemon can serve.
    pub fn set_ready(&self) {
        *self.waiting_for.lock() = None;
    }

    /// Reports that the daemon cannot serve, and why.
    pub fn set_unready(&self, reason: impl Into<String>) {
        *self.waiting_for.lock() = Some(reason.into());
    }

    /// Why it cannot serve; `None` when it can.
    pub fn reason(&self) -> Option<String> {
        self.waiting_for.lock().clone()
    }
}

/// `/healthz`: the process is alive; `/readyz`: 200, or 503 with the reason; `/metrics`: for
/// Prometheus.
pub fn health_routes(health: Health) -> Routes {
    let ready = health.clone();
    let alive = warp::path!("healthz").and(warp::get()).map(|| text(StatusCode::OK, "ok\n"));
    let ready = warp::path!("readyz").and(warp::get()).map(move || match ready.reason() {
        None => text(StatusCode::OK, "ready\n"),
        Some(reason) => error(StatusCode::SERVICE_UNAVAILABLE, reason),
    });
    let metrics = warp::path!("metrics").and(warp::get()).map(move || {
        const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        bytes_of(StatusCode::OK, OPENMETRICS, health.metrics.encode().into())
    });
    alive.boxed().or(ready.boxed()).unify().or(metrics.boxed()).unify().boxed()
}
