//! The time as status and history show it, and random pauses. Relies on nothing.

use std::time::Duration;

/// The time now: RFC 3339, UTC, to the millisecond.
pub(crate) fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

/// A random part of `limit`, so that many hosts or processes do not act in the same instant.
pub(crate) fn random_up_to(limit: Duration) -> Duration {
    limit.mul_f64(rand::random::<f64>())
}

/// Waits this long, or for ever.
pub(crate) async fn pause(length: Option<Duration>) {
    match length {
        Some(length) => tokio::time::sleep(length).await,
        None => std::future::pending().await,
    }
}
