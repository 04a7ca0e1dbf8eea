//! Puts the parts together: everything that can fail at start, then the tasks.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use conf_core::{
    api::{Pointer, WatermarkEvent},
    consul::{Consul, ConsulCredentials, Keys},
    daemon::{self, Metrics},
    git,
    git_http::{UploadLimits, UploadPack},
    http::{self as web, Health, Listener},
    sign::TrustedKeys,
    upstream::{Credentials, Upstreams},
};
use prometheus_client::metrics::gauge::Gauge;
use tempfile::TempDir;
use tokio::{
    sync::{Notify, watch},
    task::{JoinSet, spawn_blocking},
};
use tokio_util::sync::CancellationToken;

use crate::{
    central as follow,
    config::{ConsulChoice, RunOptions},
    http as api,
    http::{Shown, at, embedded::Store},
    mirror::{Mirror, tips, upkeep},
    problems::Problems,
    publish::Publisher,
    reports as hosts,
    reports::Hosts,
};

/// A conf-slave that is bound and has its mirror open.
#[derive(Debug)]
pub struct Slave {
    listener: Listener,
    address: SocketAddr,
    mirror: Arc<Mirror>,
    upload: Arc<UploadPack>,
    upstreams: Arc<Upstreams>,
    publisher: Arc<Publisher>,
    hosts: Arc<Hosts>,
    problems: Arc<Problems>,
    store: Option<Arc<Store>>,
    health: Health,
    metrics: Metrics,
    wanted: watch::Sender<Option<Pointer>>,
    central: watch::Sender<Option<WatermarkEvent>>,
    consul: Vec<String>,
    centrals: Vec<String>,
    // Removed when the slave ends.
    _temporary: Option<TempDir>,
}

impl Slave {
    /// Does everything that can fail at start: the socket, the state folder, the repository, keys and addresses.
    pub async fn bind(options: RunOptions) -> anyhow::Result<Self> {
        git::check_version()?;
        daemon::listen_guard(options.listen, options.common.insecure)?;
        let keys = TrustedKeys::load(&options.trusted_key)?;
        let names = Keys::new(options.pointer_prefix.as_deref())?;
        let variable = |name: &str| std::env::var(name).ok();
        let choice = options.consul_choice(variable).map_err(anyhow::Error::msg)?;
        let upstreams =
            Arc::new(Upstreams::new(options.central.clone(), &Credentials::from_file(options.token_file.clone()))?);
        let listener = web::bind_tcp(options.listen)
            .await
            .with_context(|| format!("cannot listen on {}; is another program there?", options.listen))?;
        let address = listener.address().context("a TCP listener has an address")?;

        let (consul, store) = match choice {
            ConsulChoice::Embedded => (vec![format!("http://{}", reachable(address))], Some(Store::new())),
            ConsulChoice::Addresses(addresses) => (addresses, None),
        };
        let client = Arc::new(Consul::new(&consul, ConsulCredentials::from_variables(variable))?);

        let (state, temporary) = state_folder(options.state.clone())?;
        let upload =
            UploadPack::relaying(Mirror::repository_in(&state), UploadLimits::default(), Arc::clone(&upstreams));
        let opened = (state, options.datacenter.clone(), Arc::clone(&upstreams), Arc::clone(&upload));
        let mirror = spawn_blocking(move || {
            let (state, datacenter, upstreams, upload) = opened;
            Mirror::open(&state, datacenter, keys, upstreams, upload)
        });
        let mirror = Arc::new(mirror.await??);

        let problems = Arc::new(Problems::default());
        let (wanted, central) = (watch::Sender::new(None), watch::Sender::new(None));
        let metrics = Metrics::new("conf-slave", env!("CARGO_PKG_VERSION"));
        let (for_mirror, for_problems) = (Arc::clone(&mirror), Arc::clone(&problems));
        let publisher = Publisher::new(client, names, for_mirror, for_problems, wanted.clone(), &metrics);
        let shown = if store.is_some() { vec!["embedded".to_owned()] } else { consul };
        Ok(Slave {
            listener,
            address,
            mirror,
            upload,
            upstreams,
            publisher,
            hosts: Arc::default(),
            problems,
            store,
            health: Health::new(metrics.clone()),
            metrics,
            wanted,
            central,
            consul: shown,
            centrals: options.central.iter().map(ToString::to_string).collect(),
            _temporary: temporary,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves, follows and publishes until `stop`; every task is joined.
    pub async fn run(self, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        let doubt = Arc::new(Notify::new());
        let shown = Arc::new(Shown {
            mirror: Arc::clone(&self.mirror),
            publisher: Arc::clone(&self.publisher),
            hosts: Arc::clone(&self.hosts),
            problems: Arc::clone(&self.problems),
            central: self.central.subscribe(),
            consul: self.consul,
            centrals: self.centrals,
            bounds: at::Bounds::new(stop.clone()),
        });
        let routes = api::routes(Arc::clone(&shown), Arc::clone(&self.upload), self.health.clone(), self.store.clone());
        let (mirror, problems, upstreams) = (&self.mirror, &self.problems, &self.upstreams);
        tasks.spawn(web::serve(self.listener, routes, stop.clone()));
        let gauges = Gauges::new(&self.metrics);
        tasks.spawn(show_health(Arc::clone(&shown), self.health, gauges, stop.clone()));
        if let Some(store) = self.store {
            let stop = stop.clone();
            tasks.spawn(async move {
                stop.cancelled().await;
                store.close();
            });
        }
        let follower = follow::follow(
            Arc::clone(mirror),
            self.wanted.subscribe(),
            Arc::clone(&doubt),
            Arc::clone(problems),
            stop.clone(),
        );
        tasks.spawn(follower);
        let listener = follow::listen(
            Arc::clone(mirror),
            Arc::clone(upstreams),
            self.wanted,
            self.central,
            Arc::clone(&self.hosts),
            Arc::clone(problems),
            stop.clone(),
        );
        tasks.spawn(listener);
        tasks.spawn(self.publisher.run(stop.clone()));
        tasks.spawn(tips::run(Arc::clone(mirror), Arc::clone(upstreams), Arc::clone(problems), stop.clone()));
        tasks.spawn(hosts::report(
            self.hosts,
            Arc::clone(mirror),
            Arc::clone(upstreams),
            Arc::clone(problems),
            stop.clone(),
        ));
        tasks.spawn(upkeep::remember(Arc::clone(mirror), Arc::clone(problems), stop.clone()));
        tasks.spawn(upkeep::maintain(Arc::clone(mirror), self.upload, doubt, stop));
        tasks.join_all().await;
    }
}

/// Numbers of `/metrics`.
struct Gauges {
    sequence: Gauge,
    published: Gauge,
    hosts: Gauge,
}

impl Gauges {
    fn new(metrics: &Metrics) -> Self {
        Gauges {
            sequence: metrics.gauge("conf_slave_sequence", "The sequence of the snapshot that is served"),
            published: metrics.gauge("conf_slave_published_sequence", "The sequence that this slave last published"),
            hosts: metrics.gauge("conf_slave_hosts", "Hosts that have reported"),
        }
    }
}

/// Ready while there is something to serve; keeps the numbers of `/metrics`.
async fn show_health(shown: Arc<Shown>, health: Health, gauges: Gauges, stop: CancellationToken) {
    let mut serving = shown.mirror.subscribe();
    loop {
        let now = serving.borrow_and_update().clone();
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        match now {
            Some(serving) => {
                health.set_ready();
                gauges.sequence.set(whole(serving.snapshot.sequence.0));
            }
            None => health.set_unready(format!("no snapshot of {} is here yet", shown.mirror.datacenter())),
        }
        gauges.published.set(shown.publisher.published().map_or(0, |pointer| whole(pointer.sequence.0)));
        gauges.hosts.set(i64::try_from(shown.hosts.count()).unwrap_or(i64::MAX));
        tokio::select! {
            () = stop.cancelled() => return,
            changed = serving.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
        }
    }
}

fn state_folder(given: Option<PathBuf>) -> anyhow::Result<(PathBuf, Option<TempDir>)> {
    if let Some(state) = given {
        std::fs::create_dir_all(&state)
            .with_context(|| format!("cannot make the folder {}; name another with --state", state.display()))?;
        return Ok((state, None));
    }
    let temporary = tempfile::Builder::new().prefix("conf-slave-").tempdir();
    let temporary = temporary.context("cannot make a temporary folder; name one with --state")?;
    Ok((temporary.path().to_owned(), Some(temporary)))
}

/// An address under which this program reaches itself.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        ip if !ip.is_unspecified() => address,
        IpAddr::V4(_) => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port()),
        IpAddr::V6(_) => SocketAddr::new(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), address.port()),
    }
}
