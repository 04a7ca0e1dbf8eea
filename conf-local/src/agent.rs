//! The daemon as a whole: everything that can fail at start in [`LocalAgent::bind`], everything else in
//! [`LocalAgent::run`].

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
};

use anyhow::{Context as _, ensure};
use conf_core::{
    api::HostState,
    consul::{Consul, ConsulCredentials, Keys},
    daemon::Metrics,
    http::{self as web, Health, Listener},
    sign::TrustedKeys,
    upstream::{Credentials, Upstreams},
};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::{
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
};
use tokio_util::sync::CancellationToken;
use warp::Filter as _;

use crate::{
    cli::config::{FileOnly, RunOptions},
    export::Retention,
    follow::{self, Sources},
    notify::Registry,
    on_demand::Demand,
    probe::{self, ProbeEntry},
    report,
    service::{self, Service},
    state::{Agent, Request, Status, View, central},
    transaction::{Audience, Host, HostOptions, check::Checks},
};

/// Consul's own default.
const CONSUL: &str = "127.0.0.1:8500";

/// Everything opened and bound; nobody was asked yet.
pub struct LocalAgent {
    host: Host,
    sources: Sources,
    reports: Arc<Upstreams>,
    keys: TrustedKeys,
    demand: Arc<Demand>,
    audience: Audience,
    registry: Arc<Registry>,
    requests: mpsc::Receiver<Request>,
    socket: (Listener, PathBuf),
    http: Option<Listener>,
    metrics: Metrics,
    /// Ends what was made before it was known when to stop.
    stopping: CancellationToken,
    probes: Vec<ProbeEntry>,
}

impl LocalAgent {
    /// Opens state, export and repository, and binds the socket. Needs nothing of the network.
    pub async fn bind(options: RunOptions, file: FileOnly) -> anyhow::Result<Self> {
        ensure!(
            !options.surrogate.is_empty() || !options.central.is_empty(),
            "give --surrogate or --central at least once: without one there is nowhere to fetch from"
        );
        if let Some(address) = options.listen {
            ensure!(
                address.ip().is_loopback(),
                "--listen {address}: the local service is for this host, use 127.0.0.1"
            );
        }
        let keys = TrustedKeys::load(&options.trusted_key)?;
        let names = Keys::new(options.pointer_prefix.as_deref())?;
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let consul = match options.consul.as_slice() {
            [] => vec![variable("CONSUL_HTTP_ADDR").unwrap_or_else(|| CONSUL.to_owned())],
            given => given.to_vec(),
        };
        let credentials = Credentials::from_file(options.token_file.clone());
        let sources = Sources {
            consul: Consul::new(&consul, ConsulCredentials::from_variables(variable))?,
            key: names.snapshot(&options.datacenter),
            surrogates: Upstreams::new(options.surrogate.clone(), &credentials)?,
            central: Upstreams::new(options.central.clone(), &credentials)?,
        };
        let reports = Arc::new(Upstreams::new(options.surrogate.clone(), &credentials)?);

        let (opening, trusted) = (options.clone(), keys.clone());
        // Whoever observes leaves everything outside of the agent's own state as it is.
        let place = (!options.observe).then_some(file.export);
        let (watch, probes) = if options.observe { Default::default() } else { (file.watch, file.probe) };
        let stopping = CancellationToken::new();
        let checks = Checks::new(file.check, stopping.clone());
        let host = spawn_blocking(move || {
            Host::open(HostOptions {
                datacenter: &opening.datacenter,
                host: &opening.host,
                keys: trusted,
                state: &opening.state,
                git_dir: opening.git_dir.as_deref(),
                retention: Retention::new(opening.keep, opening.keep_seconds),
                identity: opening.identity.as_deref(),
                place,
                checks,
            })
        });
        let host = host.await.context("opening was cut short")??;
        let mut status = Status::new(options.datacenter.clone(), options.host.clone(), host.export_path());
        status.observe = options.observe;
        let (agent, requests) = Agent::new(View::new(status), host.history());
        host.publish_to(&agent);
        central::recall(&agent, host.export_path());
        let registry = Registry::open(&options.state, &watch, host.duties(), agent.clone(), options.observe);
        let audience = Audience { agent, watchers: registry.clone() };

        let asked = (
            Upstreams::new(options.surrogate.clone(), &credentials)?,
            Upstreams::new(options.central.clone(), &credentials)?,
        );
        let (here, fetching) = (host.opened(), host.fetching());
        let demand = Demand::new(audience.agent.clone(), here, fetching, asked, keys.clone(), stopping.clone());

        // Everybody on this host may ask; the routes say who may do what.
        let socket = web::bind_unix(&options.socket.socket, 0o666).await?;
        let http = match options.listen {
            Some(address) => Some(web::bind_tcp(address).await?),
            None => None,
        };
        let metrics = Metrics::new("conf-local", env!("CARGO_PKG_VERSION"));
        Ok(LocalAgent {
            host,
            sources,
            reports,
            keys,
            demand: Arc::new(demand),
            audience,
            registry,
            requests,
            socket: (socket, options.socket.socket),
            http,
            metrics,
            stopping,
            probes,
        })
    }

    /// Where it answers over HTTP, with `--listen`.
    pub fn address(&self) -> Option<SocketAddr> {
        self.http.as_ref().and_then(Listener::address)
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.socket.1.clone()
    }

    /// What it knows, for whoever runs it in the same process.
    pub fn agent(&self) -> Agent {
        self.audience.agent.clone()
    }

    /// Serves, follows, tells and reports until `stop`; every task is joined.
    pub async fn run(self, stop: CancellationToken) {
        let health = Health::new(self.metrics.clone());
        let repository = self.host.opened();
        let (watchers, demand) = (self.registry.clone(), self.demand.clone());
        let processes = Arc::default();
        let service = Service { agent: self.agent(), watchers, demand, processes, repository, stop: stop.clone() };
        let routes = web::health_routes(health.clone()).or(service::routes(service)).unify().boxed();

        let mut tasks = JoinSet::new();
        let (stopped, stopping) = (stop.clone(), self.stopping);
        tasks.spawn(async move {
            stopped.cancelled().await;
            stopping.cancel();
        });
        let demand = self.demand;
        tasks.spawn(async move { demand.stopped().await });
        tasks.spawn(web::serve(self.socket.0, routes.clone(), stop.clone()));
        if let Some(listener) = self.http {
            tasks.spawn(web::serve(listener, routes, stop.clone()));
        }
        tasks.spawn(show_health(self.audience.agent.clone(), health, self.metrics, stop.clone()));
        tasks.spawn(central::run(self.audience.agent.clone(), self.host.export_path().to_owned(), stop.clone()));
        tasks.spawn(self.registry.run(stop.clone()));
        tasks.spawn(probe::run(self.probes, self.audience.agent.clone(), self.host.duties(), stop.clone()));
        tasks.spawn(report::run(self.audience.clone(), self.reports, self.host.identity(), self.keys, stop.clone()));
        tasks.spawn(follow::run(self.host, self.sources, self.audience, self.requests, stop));
        while let Some(ended) = tasks.join_next().await {
            // A panic ends the process by itself where panics abort; a test sees it here.
            if let Err(error) = ended {
                tracing::error!(%error, "a task of the agent ended badly");
            }
        }
        let _ = std::fs::remove_file(&self.socket.1);
    }
}

/// Keeps `/readyz` and `/metrics` as the view has it. Ready means that there are files to read.
async fn show_health(agent: Agent, health: Health, metrics: Metrics, stop: CancellationToken) {
    let exported: Gauge = metrics.gauge("conf_local_sequence", "The sequence of what is exported");
    let wanted: Gauge = metrics.gauge("conf_local_pointer_sequence", "The sequence that the pointer names");
    let components: Gauge = metrics.gauge("conf_local_components", "Components exported");
    let faults: Gauge = metrics.gauge("conf_local_component_faults", "Components that were held back");
    let failed: Gauge = metrics.gauge("conf_local_failed", "1 while the wanted snapshot could not be taken");
    let away: Gauge = metrics.gauge("conf_local_away", "Servers that cannot be reached");
    let time = Gauge::<f64, AtomicU64>::default();
    let time = metrics.register("conf_local_switch_seconds", "From the pointer to the last switch", time);
    let switches: Counter = metrics.counter("conf_local_switches", "Switches of the export");
    let mut views = agent.follow();
    let mut seen = agent.view().status.sequence;
    loop {
        let view = views.borrow_and_update().clone();
        let status = &view.status;
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        exported.set(number(status.sequence.0));
        wanted.set(number(status.pointer.map_or(0, |pointer| pointer.sequence.0)));
        components.set(number(status.components as u64));
        faults.set(number(status.faults.len() as u64));
        failed.set(i64::from(status.state == HostState::Failed));
        away.set(number(status.away.len() as u64));
        match (&view.exported, &status.error) {
            (Some(_), _) => health.set_ready(),
            (None, Some(error)) => health.set_unready(format!("nothing is exported yet: {error}")),
            (None, None) => health.set_unready("nothing is exported yet"),
        }
        if status.sequence != seen {
            seen = status.sequence;
            switches.inc();
            let took_ms = agent.history().first().map_or(0, |entry| entry.took_ms);
            time.set(std::time::Duration::from_millis(took_ms).as_secs_f64());
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = views.changed() => if changed.is_err() { return },
        }
    }
}
