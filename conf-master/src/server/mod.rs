//! `conf-master serve`: opens everything that can fail, says that it is ready, serves until told to
//! stop.

mod conditions;
pub(crate) mod flags;
mod keyring;
mod prune;
mod renew;
mod standing;
mod token_uses;
mod upkeep;

pub(crate) use crate::server::flags::{LimitFlags, ServeFlags};

use std::{os::unix::fs::MetadataExt as _, path::Path, sync::Arc, time::Duration};

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
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::delivery::{AccessStatements, FreshnessStatements, Hosts, Watermarks};
use crate::hooks::{Pushers, server as hooks, ssh::OverSsh};
use crate::http::leader::LeaderClient;
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
    let (role, heard, way) = standing::role(&flags, &path, rights, &health)?;
    let (lander, landing) = landing::start(&path, &judge, &landed, upload.clone(), told, health.clone(), role)?;
    upload.show_parts(routes::parts::of(path.clone(), &lander));
    // It is written to the end of the last landing.
    let written = CancellationToken::new();
    let writing = tokio::spawn(writer.run(written.clone()));
    let pushers = Pushers::default();
    let (authenticator, joiner, of_hosts) = prove_hosts(&flags, &path, &lander, (audit.clone(), &stop));
    let tls = ServerTls::load(&flags.common.tls, &flags.common.certificates)?;
    let gate = Gate::new(&flags.common.allowed_hosts).guarded(authenticator.clone());
    let listener = http::bind_tcp(flags.listen, gate).await?.over(tls);
    let address = listener.address().context("a TCP listener has an address")?;
    let upkeep =
        tokio::spawn(upkeep::run(path.clone(), lander.clone(), Duration::from_secs(flags.prune_every), stop.clone()));
    let renewal = tokio::spawn(renew::run(lander.clone(), flags.renew_ahead, stop.clone()));
    let conditions =
        tokio::spawn(conditions::run(path.clone(), lander.clone(), health.clone(), identity, stop.clone()));
    let freshness = FreshnessStatements::new(Duration::from_secs(flags.freshness_every), heard);
    let following = tokio::spawn(standing::keep(way, lander.clone(), hosts.clone(), stop.clone()));
    let signed = (Watermarks::default(), AccessStatements::new(), freshness);
    let examination = tokio::task::spawn_blocking({
        let (path, table, stop) = (path.clone(), lander.durable().table.clone(), stop.clone());
        move || examine(&path, &table, &stop)
    });
    let spools = upload.spools().clone();
    let uses = tokio::spawn(token_uses::keep(path.clone(), authenticator.clone(), stop.clone()));
    let server = routes::server(
        path.clone(),
        (authenticator.clone(), joiner),
        lander.clone(),
        signed,
        pushers.clone(),
        upload,
        (hosts, LeaderClient::new(standing::credentials(&flags)?), stop.clone()),
    );
    let over_ssh =
        OverSsh::new(server.receive.clone(), server.upload.clone(), lander.published.clone(), speaker, audit);
    let calls = tokio::spawn(hooks::serve(hooks::bind(&path)?, lander, pushers, over_ssh, authenticator, stop.clone()));
    health.set_ready();
    info!(%address, repo = %path.display(), "serving");
    ready(listener.scheme(), address);
    http::serve_spooling(listener, routes::routes(&server, health), spools, stop.clone()).await;
    drop(server);
    stop.cancel();
    let _ = tokio::join!(calls, upkeep, renewal, conditions, examination, uses, of_hosts, beside, following);
    // Nobody can send a job to the landing thread now: it ends after its current step.
    let ended = tokio::task::spawn_blocking(move || landing.join()).await?;
    written.cancel();
    let _ = writing.await;
    ended.map_err(|_| anyhow::anyhow!("landing ended badly"))?;
    store::superseded(&path).map_or(Ok(()), |(words, _)| Err(anyhow::Error::msg(words)))
}

/// Refuses an address that other machines reach without what keeps strangers out, tokens where
/// whoever is on the way can read them, and a repository that is not whole yet.
fn guard(flags: &ServeFlags) -> anyhow::Result<()> {
    expect_own(&flags.repo)?;
    standing::guard(flags)?;
    if store::is_restoring(&flags.repo) {
        let repo = flags.repo.display();
        bail!(
            "{repo} is what `conf-master restore` or `init --follow` has left that was cut short; run that again with --repo {repo}"
        );
    }
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

/// Refuses a repository that another user has made, such as root by `init`.
fn expect_own(repo: &Path) -> anyhow::Result<()> {
    let Ok(found) = std::fs::metadata(repo) else { return Ok(()) };
    let (own, owner) = (nix::unistd::getuid(), nix::unistd::Uid::from_raw(found.uid()));
    if own.is_root() || own == owner {
        return Ok(());
    }
    let name = |user| match nix::unistd::User::from_uid(user) {
        Ok(Some(user)) => user.name,
        _ => user.to_string(),
    };
    let (repo, own, owner) = (repo.display(), name(own), name(owner));
    bail!(
        "{repo} belongs to {owner}, and this conf-master runs as {own}. Run it as {owner}; or, as root, give {own} the \
         repository with its keys: chown -R {own}: {repo}*"
    );
}

/// Finds a user of this machine.
fn user_id(name: &str) -> anyhow::Result<u32> {
    let found = nix::unistd::User::from_name(name).with_context(|| format!("cannot look up the user {name}"))?;
    Ok(found.with_context(|| format!("--ssh-user: this machine has no user {name}"))?.uid.as_raw())
}

/// Makes what proves names and the way in for hosts that join, and starts what keeps the keys of
/// hosts.
fn prove_hosts(
    flags: &ServeFlags,
    path: &Path,
    lander: &Lander,
    (audit, stop): (AuditLog, &CancellationToken),
) -> (Authenticator, Joiner, JoinHandle<()>) {
    let (keyring, keys) = watch::channel(Arc::default());
    let (joiner, waiting) = Joiner::new(lander.access.clone(), keys.clone());
    let sessions = Sessions::new(keys, lander.access.clone());
    let authenticator = authenticator(flags, path, lander, (sessions, joiner.clone(), audit));
    let follow = keyring::follow(path.to_owned(), lander.published.clone(), keyring, stop.clone());
    let joining = tokens::run(lander.clone(), waiting, stop.clone());
    // An open server asks nobody who they are.
    let is_open = flags.open;
    let task = tokio::spawn(async move {
        if !is_open {
            tokio::join!(follow, joining);
        }
    });
    (authenticator, joiner, task)
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
