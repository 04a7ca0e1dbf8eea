//! Starting and running the agent.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use conf_core::{
    address::BaseUrl,
    consul::{Consul, ConsulCredentials, Keys, named_address},
    daemon::{self, Metrics},
    git::FetchBounds,
    http::{self as web, Gate, Health, Listener},
    sign::{KeptKeys, TrustedKeys},
    tls::{ClientFiles, ClientTls, ServerTls},
    upstream::{Asking, Credentials, HostProof, Trust, UpstreamError, Upstreams},
};
use libconf::name::ComponentSelector;
use tokio::{
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{
        health,
        options::{FileOnly, Ready, RunOptions},
        socket,
    },
    export::Retention,
    follow::{self, Finder, Sources},
    notify::Registry,
    on_demand::Demand,
    place::PlaceEntry,
    probe::{self, ProbeEntry},
    renewal, report,
    service::{self, Service},
    snapshot::{HostKeys, NamedComponent, Offers, SnapshotServers},
    state::{Agent, ReportNumbers, Status, View, WriterRequest, central, freshness},
    transaction::{Audience, Checks, Host, HostOptions},
};

/// Consul's own default address.
const CONSUL: &str = "127.0.0.1:8500";

/// The agent, with everything opened and bound. It has not asked any server yet.
pub struct LocalAgent {
    host: Host,
    sources: Sources,
    reports: Arc<Upstreams>,
    numbers: ReportNumbers,
    keys: HostKeys,
    service: Service,
    requests: mpsc::Receiver<WriterRequest>,
    socket: (Listener, PathBuf),
    http: Option<Listener>,
    /// Where health and metrics are answered alone.
    beside: Option<Listener>,
    probes: Vec<ProbeEntry>,
    ready: Ready,
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
        let (given, state) = (TrustedKeys::load(&options.trusted_key)?, options.state.clone());
        let kept = Arc::new(spawn_blocking(move || KeptKeys::open(&state, given)).await?);
        let keys = kept.keys().clone();
        let (flags, certificates) = (&options.common.tls, &options.common.certificates);
        let above = ClientTls::load(ClientFiles::of(&options.servers), flags.tls_min, certificates)?;
        let pointer = Keys::new(options.pointer_prefix.as_deref())?.snapshot(&options.datacenter);

        let stop = CancellationToken::new();
        // An agent that observes changes nothing outside of its own state.
        let place = (!options.observe).then_some(file.export);
        let (watch, probes) = if options.observe { Default::default() } else { (file.watch, file.probe) };
        let checks = Checks::new(file.check, stop.clone());
        let offers = file.secret_sources;
        offers.expect_users().map_err(anyhow::Error::msg)?;
        let named = named(options.common.config.as_deref());
        let host = open(options.clone(), keys.clone(), (place, file.links), (checks, offers), named).await?;
        let (datacenter, name) = (options.datacenter.clone(), options.host.clone());
        let proof = HostProof { datacenter, host: name, identity: host.identity.clone() };
        let credentials = Credentials::from_file(options.token_file.clone()).over(above).of_host(proof);
        let masters = Upstreams::new(options.central.clone(), &credentials)?;
        let servers = SnapshotServers::new(surrogates(&options, &credentials)?, masters);
        let (consul, is_consul_named) = consul(&options, &servers)?;
        let trusted = HostKeys::new(kept, host.lock.clone());
        let sources = Sources {
            consul: consul.lanes(),
            // The usual address may have no Consul where conf-slaves name the pointer.
            needs_consul: is_consul_named || options.surrogates().is_empty() || !options.services().is_empty(),
            finders: finders(&options, &servers, &host),
            key: pointer,
            datacenter: options.datacenter.clone(),
            servers: servers.clone(),
            keys: trusted.clone(),
        };
        let reports = Arc::clone(&servers.surrogates);
        let mut status = Status::new(options.datacenter.clone(), options.host.clone(), &host.export.path);
        status.observe = options.observe;
        status.sources = host.secrets.offers.names();
        let (agent, requests) = Agent::new(View::new(status), host.history());
        host.publish_to(&agent);
        central::recall(&agent, &host.export.path);
        freshness::recall(&agent, &options.state, Duration::from_secs(options.stale_after), &keys);
        let watchers = Registry::open(&options.state, &watch, host.outbox.clone(), agent.clone(), options.observe);
        host.secrets.set_period(Duration::from_secs(options.secrets_every));
        let repository = host.repository.pool.clone();
        repository.bounded(FetchBounds::of_snapshot(options.most_fetched));
        let collection = host.collection.clone();
        let demand = Demand::new(agent.clone(), repository.clone(), collection, servers, keys, stop.clone());
        let (demand, processes) = (Arc::new(demand), Arc::default());
        let service = Service { agent, watchers, demand, processes, repository, remembered: Arc::default(), stop };
        let numbers = ReportNumbers::open(&options.state).behind(host.lock.clone());

        let tls = ServerTls::load(&options.common.tls, &options.common.certificates)?;
        let bound = web::bind_unix(&options.socket.socket, socket::MODE).await?;
        let http = match options.listen {
            Some(address) => Some(web::bind_tcp(address, Gate::new(&options.common.allowed_hosts)).await?.over(tls)),
            None => None,
        };
        let beside = web::bind_health(options.common.metrics_listen, &options.common.allowed_hosts).await?;
        let socket = (bound, options.socket.socket);
        let ready = options.ready;
        let keys = trusted;
        Ok(LocalAgent { host, sources, reports, numbers, keys, service, requests, socket, http, beside, probes, ready })
    }

    /// Serves, follows, tells and reports until `stop`. Joins every task. Prints that it is ready,
    /// with its address (`--listen`) or else its socket, when `--ready` says so.
    pub async fn run(self, stop: CancellationToken) {
        let LocalAgent { host, sources, reports, numbers, keys, service, requests, socket, http, .. } = self;
        let LocalAgent { beside, probes, ready, .. } = self;
        let address = http.as_ref().and_then(|http| Some((http.scheme(), http.address()?)));
        let metrics = Metrics::new("conf-local", env!("CARGO_PKG_VERSION"));
        let health = Health::new(metrics.clone());
        let routes = service::routes(service.clone(), health.clone());
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
        tasks.spawn(socket::serve(socket.0, socket.1.clone(), routes.clone(), stopping.clone()));
        if let Some(listener) = http {
            tasks.spawn(web::serve(listener, routes, stopping.clone()));
        }
        tasks.spawn(web::serve_health(beside, health.clone(), stopping.clone()));
        let (ready, path) = (is_ready(ready, agent.clone()), socket.1.clone());
        let ready = stopping.clone().run_until_cancelled_owned(ready);
        tasks.spawn(async move {
            match (ready.await, address) {
                (None, _) => {}
                (Some(()), Some((scheme, address))) => daemon::ready(scheme, address),
                (Some(()), None) => daemon::ready_on_socket(&path),
            }
        });
        // A change needs room for its objects and for its files.
        let disks = vec![host.repository.pool.path(), host.export.path.clone()];
        let disks = stopping.clone().run_until_cancelled_owned(web::watch_disks(disks, health.clone()));
        tasks.spawn(async move {
            let _ = disks.await;
        });
        tasks.spawn(health::run(agent.clone(), health, metrics, stopping.clone()));
        tasks.spawn(central::run(agent.clone(), host.export.path.clone(), host.lock.clone(), stopping.clone()));
        tasks.spawn(freshness::run(agent.clone(), host.lock.clone(), stopping.clone()));
        tasks.spawn(watchers.run(stopping.clone()));
        tasks.spawn(probe::run(probes, agent.clone(), host.outbox.clone(), stopping.clone()));
        tasks.spawn(renewal::run(host.secrets.clone(), agent.clone(), stopping.clone()));
        tasks.spawn(report::run(agent, reports, host.identity.clone(), keys, numbers, stopping.clone()));
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

/// Ends when the agent is ready.
async fn is_ready(when: Ready, agent: Agent) {
    if when == Ready::Exported {
        // An error means that the agent is gone.
        let _ = agent.follow().wait_for(|view| view.exported.is_some()).await;
    }
}

/// The conf-slaves, over which the hosts of a datacenter are spread, or in the order given.
fn surrogates(options: &RunOptions, credentials: &Credentials) -> Result<Upstreams, UpstreamError> {
    let spread = (!options.surrogates_in_order).then(|| options.host.to_string());
    let trust = if options.trust_found { Trust::Any } else { Trust::Proven };
    let finds = (!options.services().is_empty()).then_some(trust);
    Upstreams::asking(options.surrogates(), credentials, Asking { spread, finds })
}

/// Makes a client of the given addresses of Consul, or of those of Consul's usual variables, or of
/// its usual address; and tells whether somebody has named one.
fn consul(options: &RunOptions, servers: &SnapshotServers) -> anyhow::Result<(Consul, bool)> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let mut addresses: Vec<String> = options.consul.iter().map(|one| one.reveal().to_owned()).collect();
    if addresses.is_empty() {
        addresses.extend(named_address(variable));
    }
    let is_named = !addresses.is_empty();
    if !is_named {
        addresses.push(CONSUL.to_owned());
    }
    let surrogates = options.surrogates();
    if options.services().is_empty() {
        let above = surrogates.iter().chain(&options.central).map(|one| one.url().as_str());
        options.servers.warn_if_unused(above.chain(addresses.iter().map(String::as_str)));
    }
    let (oldest, certificates) = (options.common.tls.tls_min, &options.common.certificates);
    let credentials = ConsulCredentials::from_variables(variable);
    let mut credentials = credentials.over(&options.servers, &addresses, oldest, certificates)?;
    // Conf-slaves that stand in for Consul get what they get anyway; a Consul never does.
    let is_surrogate = |address: &String| {
        let address = address.parse::<BaseUrl>().ok();
        surrogates.iter().any(|one| address.as_ref().is_some_and(|address| address.url() == one.url()))
    };
    if credentials.token.is_none() && credentials.token_file.is_none() && addresses.iter().all(is_surrogate) {
        credentials.token_file.clone_from(&options.token_file);
        credentials.surrogates = Some(Arc::clone(&servers.surrogates));
    }
    Ok((Consul::new(&addresses, credentials)?, is_named))
}

/// Those that find conf-slaves in Consul, each for one name of a service.
fn finders(options: &RunOptions, servers: &SnapshotServers, host: &Host) -> Vec<Finder> {
    let surrogates = || Arc::clone(&servers.surrogates);
    let finder = |name| Finder::recall(name, options.datacenter.clone(), surrogates(), host.lock.clone());
    options.services().into_iter().map(finder).collect()
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
    (place, links): (Option<Vec<PlaceEntry>>, Vec<ComponentSelector>),
    (checks, offers): (Checks, Offers),
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
            offers,
            named,
        })
    });
    host.await.context("opening was interrupted")?
}
