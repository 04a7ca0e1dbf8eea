//! Puts the parts together: first everything that can fail at start, then the tasks.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use conf_core::{
    access::Token,
    address::GivenAddress,
    audit::{AuditLog, AuditTarget, AuditWriter},
    consul::{Consul, ConsulCredentials, Keys},
    daemon::{self, Metrics},
    git::{self, FetchBounds},
    git_http::{UploadLimits, UploadPack, git_routes},
    http::{self as web, Authenticator, Gate, Health, Listener, StreamPlaces},
    session::{Keyring, Sessions},
    sign::{KeptKeys, TrustedKeys},
    tls::{ClientFiles, ClientTls, ServerTls},
    upstream::{Credentials, Upstreams},
};
use libconf::name::DatacenterName;
use tempfile::TempDir;
use tokio::{
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use warp::Filter as _;

use crate::{
    access::{self, Access},
    config::{ConsulChoice, RunOptions},
    follow::{self, Statements},
    freshness::{self, FRESHNESS, Heard},
    http::{self as api, EmbeddedConsul, View},
    joins::Joins,
    mirror::{self, Mirror},
    problems::Problems,
    publish::Publisher,
    registration::{self, Reached},
    reports,
    upkeep::{branches, keyring::KeyReader, look, maintenance, programs::Programs},
};

/// 5 s between two looks whether files can be opened.
const LOOK: Duration = Duration::from_secs(5);

/// The addresses of Consul, as people see them.
fn shown(addresses: &[GivenAddress], is_embedded: bool) -> Vec<String> {
    if is_embedded { vec!["embedded".to_owned()] } else { addresses.iter().map(ToString::to_string).collect() }
}

/// Takes the newest keys of hosts.
type KeysOfHosts = watch::Sender<Arc<Keyring>>;

async fn listen(at: SocketAddr, gate: Gate, tls: Option<ServerTls>) -> anyhow::Result<(Listener, SocketAddr)> {
    let listener = web::bind_tcp(at, gate).await?.over(tls);
    let address = listener.address().context("a TCP listener has an address")?;
    Ok((listener, address))
}

/// Makes what proves names, and takes the keys of hosts.
fn proving(
    access: &Arc<Access>,
    (datacenter, central): (DatacenterName, Arc<Upstreams>),
    log: AuditLog,
) -> (Authenticator, KeysOfHosts) {
    let joins = Joins::new(datacenter, central, access.subscribe());
    let (sender, keys) = watch::channel(Arc::default());
    let sessions = Sessions::new(keys, access.subscribe());
    let (list, joins) = (Arc::clone(access), Arc::new(joins));
    let authenticator = Authenticator::with_sessions(access.subscribe(), sessions, access::objection)
        .audited(log, move || list.version())
        .joining(move |one| {
            let joins = Arc::clone(&joins);
            Box::pin(async move { joins.join(one).await })
        });
    (authenticator, sender)
}

/// The bounds of fetches and of streams.
fn bounds(fetches: u32, streams: Option<u32>) -> (UploadLimits, StreamPlaces) {
    let limits = UploadLimits { processes: fetches as usize, ..UploadLimits::default() };
    (limits, streams.map_or_else(StreamPlaces::default, |most| StreamPlaces::new(most as usize)))
}

/// Opens what was heard of conf-master, which is stale after so many seconds of silence.
async fn hear(
    state: &Path,
    datacenter: &DatacenterName,
    keys: &TrustedKeys,
    stale_after: u64,
) -> anyhow::Result<Arc<Heard>> {
    let (at, named, trusted) = (state.to_owned(), datacenter.clone(), keys.clone());
    let limit = Duration::from_secs(stale_after);
    Ok(Arc::new(spawn_blocking(move || Heard::open(&at, named, trusted, limit)).await?))
}

/// A conf-slave with its socket bound and its mirror open.
#[derive(Debug)]
pub struct Slave {
    listener: Listener,
    /// Where this program asks the stand-in for Consul itself.
    own: Option<Listener>,
    /// Where health and metrics are answered alone.
    beside: Option<Listener>,
    address: SocketAddr,
    upload: Arc<UploadPack>,
    view: Arc<View>,
    /// What proves hosts, and the keys by which it does.
    hosts: (Authenticator, KeysOfHosts),
    embedded: Option<Arc<EmbeddedConsul>>,
    metrics: Metrics,
    audit: AuditWriter,
    state: PathBuf,
    programs: Arc<Programs>,
    places: StreamPlaces,
    /// Where hosts reach it, and the Consul in whose catalog they look.
    registered: Option<(Arc<Consul>, Reached)>,
    // Removed when the slave ends.
    _temporary: Option<TempDir>,
}

impl Slave {
    /// Does everything that can fail at start: the socket, the state folder, the repository, keys
    /// and addresses.
    pub async fn bind(options: RunOptions) -> anyhow::Result<Self> {
        git::check_version()?;
        daemon::listen_guard(options.listen, options.common.is_protected())?;
        let keys = TrustedKeys::load(&options.trusted_key)?;
        let names = Keys::new(options.pointer_prefix.as_deref())?;
        let variable = |name: &str| std::env::var(name).ok();
        let choice = options.consul_choice(variable).map_err(anyhow::Error::msg)?;
        let central = options.central.iter().map(ToString::to_string).collect();
        let (flags, certificates) = (&options.common.tls, &options.common.certificates);
        let above = ClientTls::load(ClientFiles::of(&options.servers), flags.tls_min, certificates)?;
        let credentials = Credentials::from_file(options.token_file).over(above);
        let asked = choice.addresses();
        let urls = options.central.iter().map(|one| one.url().as_str()).chain(asked.iter().map(String::as_str));
        options.servers.warn_if_unused(urls);
        let mut consul =
            ConsulCredentials::from_variables(variable).over(&options.servers, &asked, flags.tls_min, certificates)?;
        let upstreams = Arc::new(Upstreams::new(options.central, &credentials)?);
        let tls = ServerTls::load(flags, certificates)?;
        let (state, temporary) = state_folder(options.state)?;
        let (at, datacenter) = (state.clone(), options.datacenter.clone());
        let kept = Arc::new(spawn_blocking(move || KeptKeys::open(&at, keys)).await?);
        let (at, keys, trusted) = (state.clone(), kept.keys().clone(), kept.keys().clone());
        // By which this program asks itself, where it stands in for Consul.
        let own_token = Token::generate();
        let own_hash = own_token.hash();
        let access = Arc::new(spawn_blocking(move || Access::open(&at, datacenter, trusted, &own_hash)).await??);
        let metrics = Metrics::new("conf-slave", env!("CARGO_PKG_VERSION"));
        let target = options.audit_log.unwrap_or_else(|| AuditTarget::File(state.join("audit.jsonl")));
        let (log, audit) = AuditLog::open(target, &metrics)?;
        let hosts = proving(&access, (options.datacenter.clone(), upstreams.clone()), log);
        let gate = Gate::new(&options.common.allowed_hosts).guarded(hosts.0.clone());
        let (listener, address) = listen(options.listen, gate, tls).await?;
        let beside = web::bind_health(options.common.metrics_listen, &options.common.allowed_hosts).await?;

        let ConsulAt { addresses, embedded, own } =
            find_consul(choice, &listener, &state, &own_token, &mut consul).await?;
        let whole: Vec<String> = addresses.iter().map(|one| one.reveal().to_owned()).collect();
        let client = Arc::new(Consul::new(&whole, consul)?);
        let reached = || Reached::find(options.advertise.as_ref(), (listener.scheme(), address), &whole);
        let registered = (!options.no_register && embedded.is_none()).then(|| (Arc::clone(&client), reached()));
        let (limits, places) = bounds(options.most_fetches, options.most_streams);
        let upload = UploadPack::relaying(mirror::repository_in(&state), limits, Arc::clone(&upstreams));
        let datacenter = options.datacenter;
        let heard = hear(&state, &datacenter, &keys, options.stale_after).await?;
        let (served_by, at, bytes) = (Arc::clone(&upload), state.clone(), u64::from(options.most_fetched) << 20);
        let (bounds, programs) = (FetchBounds { bytes, ..FetchBounds::HISTORY }, Arc::new(Programs::new(bytes)));
        let mirror = spawn_blocking(move || Mirror::open(&at, datacenter, (keys, bounds), upstreams, served_by));
        let (mirror, problems) = (Arc::new(mirror.await??), Arc::new(Problems::default()));
        let publisher = Publisher::new(client, names, Arc::clone(&mirror), Arc::clone(&problems), &metrics);
        let view = Arc::new(View {
            above: Arc::default(),
            access,
            heard,
            keys: kept,
            watermark: mirror.subscribe_watermark(),
            mirror,
            publisher,
            reports: Arc::default(),
            problems,
            consul: shown(&addresses, embedded.is_some()),
            central,
        });
        Ok(Slave {
            listener,
            own,
            beside,
            address,
            upload,
            view,
            hosts,
            embedded,
            metrics,
            audit,
            state,
            programs,
            places,
            registered,
            _temporary: temporary,
        })
    }

    /// Returns the address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the beginning of its URLs.
    pub fn scheme(&self) -> &'static str {
        self.listener.scheme()
    }

    /// Serves, follows and publishes until `stop`, and joins every task.
    pub async fn run(self, stop: CancellationToken) {
        let Slave { listener, own, beside, upload, view, hosts, embedded, metrics, .. } = self;
        let Slave { audit, state, programs, places, registered, .. } = self;
        let (authenticator, keys) = hosts;
        let (health, mut tasks) = (Health::new(metrics.clone()), JoinSet::new());
        let mirror = || Arc::clone(&view.mirror);
        let problems = || Arc::clone(&view.problems);
        let reports = || Arc::clone(&view.reports);
        let above = || Arc::clone(&view.above);
        let listening = places.clone();
        let (git, sessions) = (git_routes(Arc::clone(&upload), None), web::session_routes(authenticator));
        let routes = git.or(sessions).unify().boxed();
        let routes = api::routes(Arc::clone(&view), (routes, places), health.clone(), embedded.clone(), stop.clone());
        // Hosts that come back after a restart are known at once. What cannot be read is told by
        // the task.
        let keys = KeyReader::new(mirror(), keys);
        let _ = keys.read().await;
        spawn_until(&stop, &mut tasks, keys.follow());
        tasks.spawn(audit.run(stop.clone()));
        tasks.spawn(web::serve_health(beside, health.clone(), stop.clone()));
        tasks.spawn(web::serve_spooling(listener, routes, upload.spools().clone(), stop.clone()));
        if let Some(embedded) = embedded {
            if let Some(own) = own {
                tasks.spawn(web::serve(own, Arc::clone(&embedded).routes(), stop.clone()));
            }
            let stopped = stop.clone().cancelled_owned();
            tasks.spawn(async move {
                stopped.await;
                embedded.close();
            });
        }
        spawn_until(&stop, &mut tasks, web::watch_disks(vec![state], health.clone()));
        spawn_until(&stop, &mut tasks, show_health(Arc::clone(&view), health, metrics, listening));
        let statements = || Statements {
            access: Arc::clone(&view.access),
            keys: Arc::clone(&view.keys),
            heard: Arc::clone(&view.heard),
            above: above(),
        };
        spawn_until(&stop, &mut tasks, follow::fetch_wanted(mirror(), statements(), problems()));
        let central = mirror();
        spawn_until(&stop, &mut tasks, async move { central.upstreams.revive(|_, _| {}).await });
        spawn_until(&stop, &mut tasks, freshness::run(Arc::clone(&view.heard), mirror(), problems()));
        spawn_until(&stop, &mut tasks, follow::listen(mirror(), reports(), statements(), problems()));
        spawn_until(&stop, &mut tasks, Arc::clone(&view.publisher).run());
        if let Some((consul, reached)) = registered {
            tasks.spawn(registration::run(consul, reached, mirror(), problems(), stop.clone()));
        }
        spawn_until(&stop, &mut tasks, branches::run(mirror(), above(), problems(), Arc::clone(&programs)));
        spawn_until(&stop, &mut tasks, reports::send_summaries(reports(), mirror(), problems()));
        spawn_until(&stop, &mut tasks, maintenance::maintain(mirror(), upload, programs));
        spawn_until(&stop, &mut tasks, look::run(mirror()));
        tasks.spawn(maintenance::remember(mirror(), problems(), stop));
        tasks.join_all().await;
    }
}

/// Spawns a task that is dropped at `stop`.
fn spawn_until(stop: &CancellationToken, tasks: &mut JoinSet<()>, task: impl Future<Output = ()> + Send + 'static) {
    let task = stop.clone().run_until_cancelled_owned(task);
    tasks.spawn(async { task.await.unwrap_or_default() });
}

/// Reports this slave as ready while it serves a snapshot and follows the central history, and
/// sets the numbers of `/metrics` whenever somebody asks for them.
async fn show_health(view: Arc<View>, health: Health, metrics: Metrics, places: StreamPlaces) {
    let sequence = metrics.gauge("conf_slave_sequence", "The sequence of the snapshot that is served");
    let published = metrics.gauge("conf_slave_published_sequence", "The sequence that this slave last published");
    let hosts = metrics.gauge("conf_slave_hosts", "Hosts that have reported");
    let listening = metrics.gauge("conf_slave_streams", "Hosts that listen to this slave now");
    let stale = metrics.gauge("conf_slave_stale", "1 while conf-master was not heard within --stale-after");
    let age = metrics.gauge(
        "conf_slave_freshness_age_seconds",
        "The age of conf-master's last freshness statement, -1 before the first one",
    );
    let (mut served, mut problems) = (view.mirror.subscribe(), view.problems.subscribe());
    let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let shown = Arc::clone(&view);
    metrics.on_reading(move || {
        let served = shown.mirror.served();
        sequence.set(served.map_or(0, |served| whole(served.snapshot.sequence.0)));
        published.set(shown.publisher.published().map_or(0, |pointer| whole(pointer.sequence.0)));
        hosts.set(i64::try_from(shown.reports.count()).unwrap_or(i64::MAX));
        listening.set(i64::try_from(places.taken_now()).unwrap_or(i64::MAX));
        let freshness = shown.heard.state();
        stale.set(i64::from(freshness.stale));
        age.set(freshness.age_seconds.map_or(-1, whole));
    });
    let mut look = Instant::now();
    loop {
        let is_served = served.borrow_and_update().is_some();
        problems.mark_unchanged();
        match (view.problems.refused_history(), is_served) {
            (Some(reason), _) => health.set_unready(reason),
            (None, true) => health.set_ready(),
            (None, false) => {
                let why = view.problems.get(follow::DATACENTER).map(|problem| format!(": {problem}"));
                let why = why.unwrap_or_default();
                health.set_unready(format!("no snapshot of {} is here yet{why}", view.mirror.datacenter()));
            }
        }
        health.remark(FRESHNESS, view.problems.get(FRESHNESS));
        // Not with each change, which hosts wait for.
        if look <= Instant::now() {
            health.report("file descriptors", web::no_files_left());
            look = Instant::now() + LOOK;
        }
        tokio::select! {
            changed = served.changed() => if changed.is_err() { return },
            changed = problems.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(look) => {}
        }
    }
}

/// Where Consul is.
struct ConsulAt {
    addresses: Vec<GivenAddress>,
    /// This program stands in for it.
    embedded: Option<Arc<EmbeddedConsul>>,
    /// Where this program then asks itself, if that is not the address of `--listen`.
    own: Option<Listener>,
}

/// Finds Consul; where this program stands in for it, `token` is by what it asks itself.
async fn find_consul(
    choice: ConsulChoice,
    listener: &Listener,
    state: &Path,
    token: &Token,
    credentials: &mut ConsulCredentials,
) -> anyhow::Result<ConsulAt> {
    if let ConsulChoice::Addresses(addresses) = choice {
        return Ok(ConsulAt { addresses, embedded: None, own: None });
    }
    let mut own = None;
    let Ok(at) = if listener.scheme() == "https" {
        // No certificate has to name an address under which this program asks itself.
        let path = std::path::absolute(state.join("consul.sock"))?;
        own = Some(web::bind_unix(&path, 0o600).await?);
        format!("unix://{}", path.display()).parse()
    } else {
        (credentials.token, credentials.token_file) = (Some(token.reveal().to_owned()), None);
        let address = listener.address().context("a TCP listener has an address")?;
        format!("http://{}", reachable(address)).parse()
    };
    Ok(ConsulAt { addresses: vec![at], embedded: Some(EmbeddedConsul::new()), own })
}

fn state_folder(given: Option<PathBuf>) -> anyhow::Result<(PathBuf, Option<TempDir>)> {
    if let Some(state) = given {
        daemon::make_folder(&state, 0o700)
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
