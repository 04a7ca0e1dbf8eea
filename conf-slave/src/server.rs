//! Puts the parts together: first everything that can fail at start, then the tasks.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use conf_core::{
    consul::{Consul, ConsulCredentials, Keys},
    daemon::{self, Metrics},
    git,
    git_http::{UploadLimits, UploadPack},
    http::{self as web, Health, Listener},
    sign::TrustedKeys,
    upstream::{Credentials, Upstreams},
};
use tempfile::TempDir;
use tokio::task::{JoinSet, spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{ConsulChoice, RunOptions},
    follow,
    http::{self as api, EmbeddedConsul, View},
    mirror::{self, Mirror},
    problems::Problems,
    publish::Publisher,
    reports,
    upkeep::{branches, maintenance},
};

/// A conf-slave with its socket bound and its mirror open.
#[derive(Debug)]
pub struct Slave {
    listener: Listener,
    address: SocketAddr,
    upload: Arc<UploadPack>,
    view: Arc<View>,
    embedded: Option<Arc<EmbeddedConsul>>,
    metrics: Metrics,
    // Removed when the slave ends.
    _temporary: Option<TempDir>,
}

impl Slave {
    /// Does everything that can fail at start: the socket, the state folder, the repository, keys
    /// and addresses.
    pub async fn bind(options: RunOptions) -> anyhow::Result<Self> {
        git::check_version()?;
        daemon::listen_guard(options.listen, options.common.insecure)?;
        let keys = TrustedKeys::load(&options.trusted_key)?;
        let names = Keys::new(options.pointer_prefix.as_deref())?;
        let variable = |name: &str| std::env::var(name).ok();
        let choice = options.consul_choice(variable).map_err(anyhow::Error::msg)?;
        let central = options.central.iter().map(ToString::to_string).collect();
        let upstreams = Arc::new(Upstreams::new(options.central, &Credentials::from_file(options.token_file))?);
        let listener = web::bind_tcp(options.listen)
            .await
            .with_context(|| format!("cannot listen on {}; is another program there?", options.listen))?;
        let address = listener.address().context("a TCP listener has an address")?;

        let (addresses, embedded) = match choice {
            ConsulChoice::Embedded => (vec![format!("http://{}", reachable(address))], Some(EmbeddedConsul::new())),
            ConsulChoice::Addresses(addresses) => (addresses, None),
        };
        let client = Arc::new(Consul::new(&addresses, ConsulCredentials::from_variables(variable))?);

        let (state, temporary) = state_folder(options.state)?;
        let upload =
            UploadPack::relaying(mirror::repository_in(&state), UploadLimits::default(), Arc::clone(&upstreams));
        let (datacenter, served_by) = (options.datacenter, Arc::clone(&upload));
        let mirror = spawn_blocking(move || Mirror::open(&state, datacenter, keys, upstreams, served_by));
        let mirror = Arc::new(mirror.await??);

        let problems = Arc::new(Problems::default());
        let metrics = Metrics::new("conf-slave", env!("CARGO_PKG_VERSION"));
        let publisher = Publisher::new(client, names, Arc::clone(&mirror), Arc::clone(&problems), &metrics);
        let view = Arc::new(View {
            watermark: mirror.subscribe_watermark(),
            mirror,
            publisher,
            reports: Arc::default(),
            problems,
            consul: if embedded.is_some() { vec!["embedded".to_owned()] } else { addresses },
            central,
        });
        Ok(Slave { listener, address, upload, view, embedded, metrics, _temporary: temporary })
    }

    /// Returns the address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves, follows and publishes until `stop`, and joins every task.
    pub async fn run(self, stop: CancellationToken) {
        let Slave { listener, upload, view, embedded, metrics, .. } = self;
        let health = Health::new(metrics.clone());
        let mirror = || Arc::clone(&view.mirror);
        let problems = || Arc::clone(&view.problems);
        let reports = || Arc::clone(&view.reports);
        let routes =
            api::routes(Arc::clone(&view), Arc::clone(&upload), health.clone(), embedded.clone(), stop.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(web::serve(listener, routes, stop.clone()));
        if let Some(embedded) = embedded {
            let stopped = stop.clone().cancelled_owned();
            tasks.spawn(async move {
                stopped.await;
                embedded.close();
            });
        }
        spawn_until(&stop, &mut tasks, show_health(Arc::clone(&view), health, metrics));
        spawn_until(&stop, &mut tasks, follow::fetch_wanted(mirror(), problems()));
        spawn_until(&stop, &mut tasks, follow::listen(mirror(), reports(), problems()));
        spawn_until(&stop, &mut tasks, Arc::clone(&view.publisher).run());
        spawn_until(&stop, &mut tasks, branches::run(mirror(), problems()));
        spawn_until(&stop, &mut tasks, reports::send_summaries(reports(), mirror(), problems()));
        spawn_until(&stop, &mut tasks, maintenance::maintain(mirror(), upload));
        tasks.spawn(maintenance::remember(mirror(), problems(), stop));
        tasks.join_all().await;
    }
}

/// Spawns a task that is dropped at `stop`.
fn spawn_until(stop: &CancellationToken, tasks: &mut JoinSet<()>, task: impl Future<Output = ()> + Send + 'static) {
    let task = stop.clone().run_until_cancelled_owned(task);
    tasks.spawn(async { task.await.unwrap_or_default() });
}

/// Reports this slave as ready while a snapshot is served, and sets the numbers of `/metrics`
/// whenever somebody asks for them.
async fn show_health(view: Arc<View>, health: Health, metrics: Metrics) {
    let sequence = metrics.gauge("conf_slave_sequence", "The sequence of the snapshot that is served");
    let published = metrics.gauge("conf_slave_published_sequence", "The sequence that this slave last published");
    let hosts = metrics.gauge("conf_slave_hosts", "Hosts that have reported");
    let mut served = view.mirror.subscribe();
    let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let shown = Arc::clone(&view);
    metrics.on_reading(move || {
        let served = shown.mirror.served();
        sequence.set(served.map_or(0, |served| whole(served.snapshot.sequence.0)));
        published.set(shown.publisher.published().map_or(0, |pointer| whole(pointer.sequence.0)));
        hosts.set(i64::try_from(shown.reports.count()).unwrap_or(i64::MAX));
    });
    loop {
        let is_served = served.borrow_and_update().is_some();
        if is_served {
            health.set_ready();
        } else {
            let why = view.problems.get(follow::DATACENTER).map(|problem| format!(": {problem}"));
            let why = why.unwrap_or_default();
            health.set_unready(format!("no snapshot of {} is here yet{why}", view.mirror.datacenter()));
        }
        health.report("file descriptors", web::no_files_left());
        tokio::select! {
            changed = served.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
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

/// Returns an address under which this program reaches itself.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}
