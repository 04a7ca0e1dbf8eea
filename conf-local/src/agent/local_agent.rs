//! Starting and running the agent.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use conf_core::{
    consul::{Consul, ConsulCredentials, Keys},
    daemon::{self, Metrics},
    http::{self as web, Health, Listener},
    sign::TrustedKeys,
    upstream::{Credentials, Upstreams, Url},
};
use libconf::name::ComponentSelector;
use tokio::{
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
};
use tokio_util::sync::CancellationToken;
use warp::Filter as _;

use crate::{
    agent::{
        health,
        options::{FileOnly, RunOptions},
    },
    export::Retention,
    follow::{self, Sources},
    notify::Registry,
    on_demand::Demand,
    place::PlaceEntry,
    probe::{self, ProbeEntry},
    renewal, report,
    service::{self, Service},
    snapshot::{NamedComponent, SnapshotServers},
    state::{Agent, Status, View, WriterRequest, central},
    transaction::{Audience, Checks, Host, HostOptions},
};

/// Consul's own default address.
const CONSUL: &str = "127.0.0.1:8500";

/// The agent, with everything opened and bound. It has not asked any server yet.
pub struct LocalAgent {
    host: Host,
    sources: Sources,
    reports: Upstreams,
    keys: TrustedKeys,
    service: Service,
    requests: mpsc::Receiver<WriterRequest>,
    socket: (Listener, PathBuf),
    http: Option<Listener>,
    probes: Vec<ProbeEntry>,
}

impl LocalAgent {
    /// Opens state, export and repository, and binds the socket. Needs no network.
    pub async fn bind(options: RunOptions, file: FileOnly) -> anyhow::Result<Self> {
        ensure!(
            !options.surrogate.is_empty() || !options.central.is_empty(),
            "give --surrogate or --central at least once: without one there is nowhere to fetch from"
        );
        if let Some(address) = options.listen {
            let is_loopback = address.ip().is_loopback();
            ensure!(is_loopback, "--listen {address}: the local service is for this host, use 127.0.0.1");
        }
        let keys = TrustedKeys::load(&options.trusted_key)?;
        let credentials = Credentials::from_file(options.token_file.clone());
        let upstreams = |urls: &[Url]| Upstreams::new(urls.to_vec(), &credentials);
        let servers = || anyhow::Ok(SnapshotServers::new(upstreams(&options.surrogate)?, upstreams(&options.central)?));
        let sources = Sources {
            consul: consul(&options.consul)?,
            key: Keys::new(options.pointer_prefix.as_deref())?.snapshot(&options.datacenter),
            servers: servers()?,
        };
        let reports = upstreams(&options.surrogate)?;

        let stop = CancellationToken::new();
        // An agent that observes changes nothing outside of its own state.
        let place = (!options.observe).then_some(file.export);
        let (watch, probes) = if options.observe { Default::default() } else { (file.watch, file.probe) };
        let checks = Checks::new(file.check, stop.clone());
        let named = named(options.common.config.as_deref());
        let host = open(options.clone(), keys.clone(), place, file.links, checks, named).await?;
        let mut status = Status::new(options.datacenter.clone(), options.host.clone(), &host.export.path);
        status.observe = options.observe;
        let (agent, requests) = Agent::new(View::new(status), host.history());
        host.publish_to(&agent);
        central::recall(&agent, &host.export.path);
        let watchers = Registry::open(&options.state, &watch, host.outbox.clone(), agent.clone(), options.observe);
        host.secrets.set_period(Duration::from_secs(options.secrets_every));
        let repository = host.repository.pool.clone();
        let collection = host.collection.clone();
        let demand = Demand::new(agent.clone(), repository.clone(), collection, servers()?, keys.clone(), stop.clone());
        let (demand, processes) = (Arc::new(demand), Arc::default());
        let service = Service { agent, watchers, demand, processes, repository, stop };

        // Every user of this host may ask. The routes decide what each user may do.
        let socket = web::bind_unix(&options.socket.socket, 0o666).await?;
        let http = match options.listen {
            Some(address) => Some(web::bind_tcp(address).await?),
            None => None,
        };
        let socket = (socket, options.socket.socket);
        Ok(LocalAgent { host, sources, reports, keys, service, requests, socket, http, probes })
    }

    /// Prints that the agent can serve, and its address with `--listen`, or else its socket.
    pub fn print_ready(&self) {
        match self.http.as_ref().and_then(Listener::address) {
            Some(address) => daemon::ready(address),
            None => daemon::ready_on_socket(&self.socket.1),
        }
    }

    /// Serves, follows, tells and reports until `stop`. Joins every task.
    pub async fn run(self, stop: CancellationToken) {
        let LocalAgent { host, sources, reports, keys, service, requests, socket, http, probes } = self;
        let metrics = Metrics::new("conf-local", env!("CARGO_PKG_VERSION"));
        let health = Health::new(metrics.clone());
        let routes = web::health_routes(health.clone()).or(service::routes(service.clone())).unify().boxed();
        let Service { agent, watchers, demand, stop: stopping, .. } = service;
        let audience = Audience { agent: agent.clone(), watchers: watchers.clone() };

        let mut tasks = JoinSet::new();
        tasks.spawn({
            let stopping = stopping.clone();
            async move {
                stop.cancelled().await;
                stopping.cancel();
            }
        });
        tasks.spawn(async move { demand.stopped().await });
        tasks.spawn(web::serve(socket.0, routes.clone(), stopping.clone()));
        if let Some(listener) = http {
            tasks.spawn(web::serve(listener, routes, stopping.clone()));
        }
        tasks.spawn(health::run(agent.clone(), health, metrics, stopping.clone()));
        tasks.spawn(central::run(agent.clone(), host.export.path.clone(), stopping.clone()));
        tasks.spawn(watchers.run(stopping.clone()));
        tasks.spawn(probe::run(probes, agent.clone(), host.outbox.clone(), stopping.clone()));
        tasks.spawn(renewal::run(host.secrets.clone(), agent.clone(), stopping.clone()));
        tasks.spawn(report::run(agent, reports, host.identity.clone(), keys, stopping.clone()));
        tasks.spawn(follow::run(host, sources, audience, requests, stopping));
        while let Some(ended) = tasks.join_next().await {
            // Where panics abort, a panic has ended the process already. A test sees it here.
            if let Err(error) = ended {
                tracing::error!(%error, "a task of the agent ended badly");
            }
        }
        let _ = std::fs::remove_file(&socket.1);
    }
}

/// Connects to the given addresses of Consul, or to those of Consul's usual variables.
fn consul(given: &[String]) -> anyhow::Result<Consul> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let usual = || vec![variable("CONSUL_HTTP_ADDR").unwrap_or_else(|| CONSUL.to_owned())];
    let addresses = if given.is_empty() { usual() } else { given.to_vec() };
    Ok(Consul::new(&addresses, ConsulCredentials::from_variables(variable))?)
}

/// Lists the components that the file names.
fn named(file: Option<&Path>) -> Vec<NamedComponent> {
    let Some(path) = file else { return Vec::new() };
    // The file was read a moment ago: one that is gone now names nothing.
    let text = std::fs::read_to_string(path).unwrap_or_default();
    NamedComponent::all(&path.display().to_string(), &text)
}

async fn open(
    options: RunOptions,
    keys: TrustedKeys,
    place: Option<Vec<PlaceEntry>>,
    links: Vec<ComponentSelector>,
    checks: Checks,
    named: Vec<NamedComponent>,
) -> anyhow::Result<Host> {
    let host = spawn_blocking(move || {
        let younger_than = Duration::from_secs(options.keep_seconds);
        Host::open(HostOptions {
            datacenter: &options.datacenter,
            host: &options.host,
            keys,
            state: &options.state,
            git_dir: options.git_dir.as_deref(),
            retention: Retention { last: options.keep as usize, younger_than },
            identity: options.identity.as_deref(),
            place,
            links,
            checks,
            named,
        })
    });
    host.await.context("opening was interrupted")?
}
