//! How this conf-master stands to others with the same history: it leads, it follows, or an
//! election says which.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use conf_core::address::BaseUrl;
use conf_core::consul::{Consul, ConsulCredentials, Service, named_or_usual_address};
use conf_core::http::Health;
use conf_core::tls::{ClientFiles, ClientTls};
use conf_core::upstream::{Credentials, Upstreams};
use libconf::name::HostName;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::delivery::{Heard, Hosts};
use crate::election::{self, Elector, LeaderKey, LockOffice, Own};
use crate::judge::Rights;
use crate::landing::{Lander, Leader, Published, Role, SyncRule};
use crate::server::flags::ServeFlags;
use crate::standby::{self, Following};
use crate::store;

/// The name of the service in Consul's catalog.
const SERVICE: &str = "conf-master";
/// One that is critical for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);

/// What a server does about others.
pub(crate) enum Way {
    /// Nothing.
    Alone,
    /// It follows one, or tells it that it leads no more.
    Follows(Box<Following>),
    /// An election decides.
    Elected(Box<Elector>),
}

/// Refuses to serve a repository whose history another server goes on with, and a standby's without
/// a leader.
pub(crate) fn guard(flags: &ServeFlags) -> anyhow::Result<()> {
    if let Some((words, file)) = store::superseded(&flags.repo) {
        bail!(
            "{words}. Move this repository away, and make a standby of that server with `conf-master init --follow`; or, if \
             that server is gone for good and this one is to lead again, remove {}",
            file.display()
        );
    }
    if flags.standby.leader.is_some() && flags.standby.sync == 0 {
        bail!("--leader needs --sync 1 or more: a change that one server alone has is lost with it");
    }
    if store::is_standby(&flags.repo) && flags.standby.follow.is_none() && flags.standby.leader.is_none() {
        bail!(
            "{} is the repository of a standby; say whom it follows with --follow URL. Where that server is lost, start it \
             so all the same, and run `conf-master promote`",
            flags.repo.display()
        );
    }
    Ok(())
}

/// What this server is, and what it does about others.
pub(crate) fn role(
    flags: &ServeFlags,
    path: &Path,
    rights: Rights,
    health: &Health,
) -> anyhow::Result<(Role, Arc<Heard>, Way)> {
    let sync = SyncRule { standbys: flags.standby.sync.into(), strict: flags.standby.sync_strict };
    let heard = Arc::new(Heard::default());
    let (leader, way) = match (&flags.standby.follow, &flags.standby.leader) {
        (None, None) => (None, Way::Alone),
        (Some(url), _) => {
            let leader = store::is_standby(path).then(|| Leader::At(url.clone()));
            (leader, Way::Follows(Box::new(following(flags, url, path, (&heard, health))?)))
        }
        (None, Some(key)) => {
            (Some(Leader::Unknown), Way::Elected(Box::new(elector(flags, key, path, (&heard, health))?)))
        }
    };
    Ok((Role { rights, leader, sync }, heard, way))
}

/// Does what has to be done about others, until `stop`.
pub(crate) async fn keep(way: Way, lander: Lander, hosts: Arc<Hosts>, stop: CancellationToken) {
    let published = lander.published.clone();
    let own = async {
        match way {
            Way::Alone => {}
            Way::Follows(following) => standby::run(*following, lander, stop.clone()).await,
            Way::Elected(elector) => election::run(*elector, lander, stop.clone()).await,
        }
    };
    let _ = tokio::join!(own, stop.run_until_cancelled(settle(published, hosts)));
}

/// Lets hosts report anew each time that this server begins to lead.
async fn settle(mut published: watch::Receiver<Arc<Published>>, hosts: Arc<Hosts>) {
    while published.wait_for(|now| now.leader.is_some()).await.is_ok()
        && published.wait_for(|now| now.leader.is_none()).await.is_ok()
    {
        hosts.settle_anew();
    }
}

fn following(
    flags: &ServeFlags,
    leader: &BaseUrl,
    path: &Path,
    (heard, health): (&Arc<Heard>, &Health),
) -> anyhow::Result<Following> {
    flags.standby.tls.warn_if_unused([leader.url().as_str()]);
    let servers = Upstreams::new(vec![leader.clone()], &credentials(flags)?)?;
    let name = own_name(flags)?;
    if store::is_standby(path) {
        info!(%leader, %name, "this conf-master is a standby");
    } else {
        warn!("--follow {leader} counts no more: this conf-master was promoted, and leads; leave it out");
    }
    let (repo, heard, health) = (path.to_owned(), heard.clone(), health.clone());
    Ok(Following { repo, servers, is_elected: false, name, heard, health })
}

fn elector(
    flags: &ServeFlags,
    key: &LeaderKey,
    path: &Path,
    (heard, health): (&Arc<Heard>, &Health),
) -> anyhow::Result<Elector> {
    let (common, listen) = (&flags.common, flags.listen);
    let scheme = if common.tls.has_tls() { "https" } else { "http" };
    let url = match &flags.standby.advertise {
        Some(url) => url.clone(),
        None if listen.ip().is_unspecified() || listen.port() == 0 => {
            bail!("say with --advertise at which URL the other conf-masters reach this one")
        }
        None => format!("{scheme}://{listen}").parse()?,
    };
    let variable = |name: &str| std::env::var(name).ok();
    let given: Vec<String> = flags.standby.consul.iter().map(|one| one.reveal().to_owned()).collect();
    let addresses = if given.is_empty() { vec![named_or_usual_address(variable)] } else { given };
    let (tls, certificates) = (common.tls.tls_min, &common.certificates);
    let proof = ConsulCredentials::from_variables(variable).over(&flags.standby.tls, &addresses, tls, certificates)?;
    let name = own_name(flags)?;
    let service = Service {
        name: SERVICE.to_owned(),
        id: format!("{SERVICE}-{name}"),
        address: url.url().host_str().map(|host| host.trim_matches(['[', ']']).to_owned()),
        port: url.url().port_or_known_default().unwrap_or_default(),
        meta: BTreeMap::from([("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
        ttl: Duration::from_secs(flags.standby.leader_ttl.into()),
        forgotten_after: FORGOTTEN,
    };
    let (office, requests) = LockOffice::new();
    Ok(Elector {
        consul: Arc::new(Consul::new(&addresses, proof)?),
        key: key.clone(),
        service,
        own: Own { name, url, repo: path.to_owned(), credentials: credentials(flags)? },
        office: Arc::new(office),
        requests,
        heard: heard.clone(),
        health: health.clone(),
    })
}

/// What is shown to a leader.
pub(crate) fn credentials(flags: &ServeFlags) -> anyhow::Result<Credentials> {
    let files = ClientFiles::of(&flags.standby.tls);
    let tls = ClientTls::load(files, flags.common.tls.tls_min, &flags.common.certificates)?;
    Ok(Credentials::from_file(flags.standby.token_file.clone()).over(tls))
}

fn own_name(flags: &ServeFlags) -> anyhow::Result<HostName> {
    if let Some(name) = &flags.standby.standby_name {
        return Ok(name.clone());
    }
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    name.parse()
        .with_context(|| format!("the name of this machine, {name:?}, is no name of a host; give --standby-name"))
}
