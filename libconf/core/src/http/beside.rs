//! A listener of its own for health and metrics: a Prometheus or a load balancer that has no token
//! asks there, and nothing else is answered.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::http::{
    gate::Gate,
    health::{Health, health_routes},
    listener::{Listener, ListenerLimits, serve_with},
    spool::Spools,
};

/// Connections at once, half of them of one peer: a few programs ask now and then.
const CONNECTIONS: usize = 64;
/// How long a client may take to send a request, and how long an idle connection is kept: more than
/// the pause between two readings of a usual Prometheus.
const IDLE: Duration = Duration::from_secs(90);

/// Listens on the address of `--metrics-listen`, where one is given.
pub async fn bind_health(address: Option<SocketAddr>, allowed_hosts: &[String]) -> io::Result<Option<Listener>> {
    let Some(address) = address else { return Ok(None) };
    let listener = TcpListener::bind(address).await.map_err(|cause| {
        io::Error::new(cause.kind(), format!("cannot listen on {address}, which --metrics-listen names: {cause}"))
    })?;
    tracing::info!(address = %listener.local_addr()?, "health and metrics are answered here without a token");
    Ok(Some(Listener::Tcp(listener, Gate::new(allowed_hosts), None)))
}

/// Answers `/healthz`, `/readyz` and `/metrics` there, until `stop`.
pub async fn serve_health(listener: Option<Listener>, health: Health, stop: CancellationToken) {
    let Some(listener) = listener else { return };
    let limits = ListenerLimits { connections: CONNECTIONS, header_timeout: IDLE, ..ListenerLimits::default() };
    serve_with(listener, health_routes(health), Spools::new(&std::env::temp_dir()), stop, limits).await;
}
