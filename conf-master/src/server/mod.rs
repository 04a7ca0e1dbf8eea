//! `conf-master serve`: opens everything that can fail, says that it is ready, serves until told to
//! stop.

mod conditions;
pub(crate) mod flags;
mod keyring;
mod prune;
mod renew;
mod token_uses;
mod upkeep;

pub(crate) use crate::server::flags::{LimitFlags, ServeFlags};

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use conf_core::audit::{AuditLog, AuditTarget};
use conf_core::git;
use conf_core::git_http::UploadPack;
use conf_core::http::{self, Authenticator, Gate, Health};
use conf_core::session::Sessions;
use conf_core::tls::ServerTls;
use conf_core::{
    daemon::{Metrics, chain, listen_guard, no_core_files, ready},
    git_http,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::delivery::{AccessStatements, FreshnessStatements, Hosts, Watermarks};
use crate::hooks::{Pushers, server as hooks, ssh::OverSsh};
use crate::http::rights;
use crate::judge::{Judge, ReportingHosts, Rights};
use crate::landing::{Lander, Told};
use crate::secrets::{SecretStore, SecretsFor};
use crate::store::{Landed, Table, damage};
use crate::text::now;
use crate::tokens::Joiner;
use crate::{http as routes, landing, store, tokens};

/// Serves until `stop`.
pub(crate) async fn run(flags: ServeFlags, stop: CancellationToken) -> anyhow::Result<()> {
    guard(&flags)?;
    let speaker = flags.ssh_user.as_deref().map(user_id).transpose()?;
    SecretsFor::check(&flags.secrets_for).map_err(anyhow::Error::msg)?;
    no_core_files();
    git::check_version()?;
    store::open(&flags.repo)?;
    let path = flags.repo.canonicalize()?;
    let lock_path = path.clone();
    let _lock = tokio::task::spawn_blocking(move || git::lock(&lock_path)).await??;
    store::prepare(&path)?;
    let metrics = Metrics::new("conf-master", env!("CARGO_PKG_VERSION"));
    let target = flags.audit_log.clone().unwrap_or_else(|| AuditTarget::File(path.join("audit.jsonl")));
    let (audit, writer) = AuditLog::open(target, &metrics)?;
    let health = Health::new(metrics.clone());
    let beside = http::bind_health(flags.common.metrics_listen, &flags.common.allowed_hosts).await?;
    let beside = tokio::spawn(http::serve_health(beside, health.clone(), stop.clone()));
    let landed = Landed::new(&path);
    let upload = UploadPack::checking(path.clone(), git_http::UploadLimits::default(), landed.wants());
    let secrets =
        SecretStore::open(&path, &flags.secrets_for).context("conf-master's key for secrets cannot be used")?;
    let identity = secrets.identity();
    let hosts = Arc::new(Hosts::new(Duration::from_secs(flags.hosts_within)));
    let reports = hosts.clone();
    let reporting = ReportingHosts::new(move |datacenter| reports.reporting(datacenter));
    let judge = Arc::new(Judge::new(flags.limits.limits(), secrets, reporting));
    let rights = Rights { is_open: flags.open, ..Rights::default() };
    let told = Told::new(&metrics, audit.clone());
    let (lander, landing) = landing::start(&path, &judge, &landed, upload.clone(), told, health.clone(), rights)?;
    upload.show_parts(routes::parts::of(path.clone(), &lander));
    // It is written to the end of the last landing.
    let written = CancellationToken::new();
    let writing = tokio::spawn(writer.run(written.clone()));
    let pushers = Pushers::default();
    let (keyring, keys_of_hosts) = watch::channel(Arc::default());
    let (joiner, waiting) = Joiner::new(lander.access.clone(), keys_of_hosts.clone());
    let joining = tokio::spawn(tokens::run(lander.clone(), waiting, stop.clone()));
    let sessions = Sessions::new(keys_of_hosts, lander.access.clone());
    let authenticator = authenticator(&flags, &path, &lander, (sessions, joiner.clone(), audit.clone()));
    let tls = ServerTls::load(&flags.common.tls, &flags.common.certificates)?;
    let gate = Gate::new(&flags.common.allowed_hosts).guarded(authenticator.clone());
    let listener = http::bind_tcp(flags.listen, gate).await?.over(tls);
    let address = listener.address().context("a TCP listener has an address")?;
    let upkeep =
        tokio::spawn(upkeep::run(path.clone(), lander.clone(), Duration::from_secs(flags.prune_every), stop.clone()));
    let renewal = tokio::spawn(renew::run(lander.clone(), flags.renew_ahead, stop.clone()));
    let conditions =
        tokio::spawn(conditions::run(path.clone(), lander.clone(), health.clone(), identity, stop.clone()));
    let freshness = FreshnessStatements::new(Duration::from_secs(flags.freshness_every));
    let signed = (Watermarks::default(), AccessStatements::new(), freshness);
    let examination = tokio::task::spawn_blocking({
        let (path, table, stop) = (path.clone(), lander.durable().table.clone(), stop.clone());
        move || examine(&path, &table, &stop)
    });
    let spools = upload.spools().clone();
    // An open server asks nobody who they are.
    let keyring = (!flags.open).then(|| keyring::follow(path.clone(), lander.published.clone(), keyring, stop.clone()));
    let keyring = tokio::spawn(async move {
        if let Some(keyring) = keyring {
            keyring.await;
        }
    });
    let uses = tokio::spawn(token_uses::keep(path.clone(), authenticator.clone(), stop.clone()));
    let server =
        routes::server(path.clone(), (authenticator.clone(), joiner), lander.clone(), signed, pushers.clone(), upload, hosts);
    let over_ssh =
        OverSsh::new(server.receive.clone(), server.upload.clone(), lander.published.clone(), speaker, audit);
    let calls = tokio::spawn(hooks::serve(hooks::bind(&path)?, lander, pushers, over_ssh, authenticator, stop.clone()));
    health.set_ready();
    info!(%address, repo = %path.display(), "serving");
    ready(listener.scheme(), address);
    http::serve_spooling(listener, routes::routes(&server, health), spools, stop.clone()).await;
    drop(server);
    stop.cancel();
    let _ = tokio::join!(calls, upkeep, renewal, conditions, examination, uses, keyring, joining, beside);
    // Nobody can send a job to the landing thread now: it ends after its current step.
    let ended = tokio::task::spawn_blocking(move || landing.join()).await?;
    written.cancel();
    let _ = writing.await;
    ended.map_err(|_| anyhow::anyhow!("landing ended badly"))
}

/// Refuses an address that other machines reach without what keeps strangers out, and tokens where
/// whoever is on the way can read them.
fn guard(flags: &ServeFlags) -> anyhow::Result<()> {
    let (common, has_tls) = (&flags.common, flags.common.tls.has_tls());
    let asks = !flags.open || common.tls.tls_client_ca.is_some();
    if !flags.listen.ip().is_loopback() && has_tls && !asks && !common.insecure {
        bail!(
            "--open would let whoever reaches {} do everything; leave it out, give --tls-client-ca, or say --insecure",
            flags.listen
        );
    }
    listen_guard(flags.listen, common.insecure || has_tls && asks)?;
    if !flags.listen.ip().is_loopback() && !has_tls && !flags.open && !flags.tokens_in_clear {
        bail!(
            "tokens would cross the network to {} unencrypted; give --tls-cert and --tls-key, or say --tokens-in-clear \
             if the network itself is trusted",
            flags.listen
        );
    }
    Ok(())
}

/// Finds a user of this machine.
fn user_id(name: &str) -> anyhow::Result<u32> {
    let found = nix::unistd::User::from_name(name).with_context(|| format!("cannot look up the user {name}"))?;
    Ok(found.with_context(|| format!("--ssh-user: this machine has no user {name}"))?.uid.as_raw())
}

/// Makes what proves names, and says who is let in.
fn authenticator(
    flags: &ServeFlags,
    path: &Path,
    lander: &Lander,
    (sessions, joiner, audit): (Sessions, Joiner, AuditLog),
) -> Authenticator {
    let tokens = lander.access.clone();
    let is_empty = tokens.borrow().tokens().all(|one| one.fault(now()).is_some());
    let authenticator = if flags.open {
        warn!("--open: whoever reaches {} may do everything, without a token", flags.listen);
        Authenticator::open(tokens)
    } else {
        if is_empty {
            let repo = path.display();
            warn!(
                "no token is good here, so nobody is let in; make one: \
                 conf-master token add NAME --group administrators --repo {repo}"
            );
        }
        let published = lander.published.clone();
        Authenticator::with_sessions(tokens, sessions, move |who, method, uri| {
            let policy = published.borrow().rights.policy.clone();
            rights::objection(&policy, who, method, uri)
        })
        .joining(move |one| {
            let joiner = joiner.clone();
            Box::pin(async move { joiner.join(one).await })
        })
    };
    let published = lander.published.clone();
    let policy = move || published.borrow().rights.version().map(|version| version.to_string());
    authenticator.remembering(token_uses::read(path)).audited(audit, policy)
}

/// Looks for lost objects of what is served, and says how to mend them. Whatever can be served goes
/// on to be served.
fn examine(path: &Path, table: &Table, stop: &CancellationToken) {
    match damage::missing(path, table, &|| stop.is_cancelled()) {
        Ok(None) => {}
        Ok(Some(object)) => {
            error!(%object, "the repository is damaged: an object cannot be read. {}", damage::advice(path));
        }
        Err(error) => error!(error = chain(&error), "the repository cannot be searched for damage"),
    }
}
