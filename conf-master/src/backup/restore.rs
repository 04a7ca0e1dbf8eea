//! `conf-master restore`: makes a server's repository of a copy. Its history goes on in another
//! epoch, above every number that anybody has seen, so that conf-slaves and hosts follow.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use conf_core::access::{Principal, Token};
use conf_core::audit::AuditLog;
use conf_core::daemon::Metrics;
use conf_core::git::{self, Durability};
use conf_core::git_http::{UploadLimits, UploadPack};
use conf_core::http::{Health, Who};
use conf_core::secret::Identity;
use conf_core::sign::{SigningKey, TrustedKeys, public_path};
use conf_core::terminal::{note, print};
use git2::Repository;
use libconf::name::{CommitId, RefName, Sequence};
use serde_json::{Value, json};

use crate::access::AccessRequest;
use crate::backup::copy::{self, FIRST, KEYS, copied};
use crate::backup::flags::RestoreFlags;
use crate::backup::sealed_keys::{self, OpenedKeys};
use crate::backup::shown::{Restored, Shown};
use crate::judge::{ChangeLimits, Judge, ProposalOptions, ReportingHosts};
use crate::landing::{self, KeyRequest, Lander, Outcome, Push, Pusher, Role, Told};
use crate::secrets::SecretStore;
use crate::store::{self, Landed, LedgerEntry, LedgerState, ledger};

/// Restores, and says how to go on.
pub(crate) async fn run(flags: &RestoreFlags) -> anyhow::Result<ExitCode> {
    git::check_version()?;
    if flags.slaves.is_empty() && flags.above.is_none() {
        bail!(
            "name a conf-slave of each datacenter with --slave, so that what landed after the copy comes back; where none is \
             left, say with --above which is the highest number of a change that anybody has seen"
        );
    }
    let (fetched, _lock) = store::begin_restore(&flags.repo)?;
    let path = flags.repo.canonicalize()?;
    let newest = copy::fetch(&fetched, &flags.from)?;
    drop(fetched);
    put_keys(flags, &path)?;
    let repo = Repository::open_bare(&path)?;
    let newest = flags.at.map_or(Ok(newest), |at| find(&repo, newest, at))?;
    let state = ledger::replay(&repo, newest).context("the ledger of the copy cannot be read")?;
    let trusted = TrustedKeys::of(&SigningKey::load(&store::key_path(&path))?);
    trusted.follow(&store::keys::read(&repo, &state.table)?)?;
    // What is in the copy is about to be signed again.
    copy::signed(&repo, &state.table, &trusted)?;
    note(format_args!("conf-master: the copy goes up to #{}", state.sequence));
    let restored = Restored { path: &path, state: &state, trusted: &trusted };
    let shown = Shown::by(&flags.slaves, &flags.proof, &restored).await?;
    store::prepare(&path)?;
    store::move_ledger(&repo, None, newest)?;
    let done = land(flags, &path, &state, &shown).await?;
    forget_copy(&repo)?;
    store::end_restore(&path)?;
    say(flags, &path, &state, &done)
}

/// What landed in the new epoch.
struct Done {
    /// The first change.
    first: Sequence,
    /// The newest one.
    newest: Sequence,
    /// What was done, in words.
    notes: Vec<String>,
    /// What does not come back.
    lost: Vec<String>,
}

/// Puts the keys in their places beside the repository.
fn put_keys(flags: &RestoreFlags, path: &Path) -> anyhow::Result<()> {
    let (key, secrets) = (store::key_path(path), store::identity_path(path));
    match (&flags.identity, &flags.key) {
        (Some(identity), _) => {
            let repo = Repository::open_bare(path)?;
            let commit = repo.refname_to_id(&copied(KEYS)).context("the copy has no keys; give --key")?.into();
            let OpenedKeys { signing, secrets: own } = sealed_keys::open(&repo, commit, &Identity::load(identity)?)?;
            git::replace_file(&key, &signing, 0o600, Durability::Full)?;
            git::replace_file(&secrets, &own, 0o600, Durability::Full)?;
        }
        (None, Some(file)) => {
            git::replace_file(&key, &sealed_keys::read_key(file)?, 0o600, Durability::Full)?;
            if let Some(file) = &flags.secrets_key {
                git::replace_file(&secrets, &sealed_keys::read_key(file)?, 0o600, Durability::Full)?;
            }
        }
        (None, None) => bail!("the signing key is needed: name --identity, or --key"),
    }
    let line = format!("{}\n", SigningKey::load(&key)?.public_line());
    Ok(git::replace_file(&public_path(&key), line.as_bytes(), 0o644, Durability::Full)?)
}

/// Finds an earlier change in the ledger of the copy.
fn find(repo: &Repository, newest: CommitId, at: Sequence) -> anyhow::Result<CommitId> {
    let mut commit = newest;
    loop {
        let entry = LedgerEntry::read(repo, commit)?;
        if entry.sequence == at {
            return Ok(commit);
        }
        if entry.sequence < at {
            bail!("the copy has no change #{at}; the nearest one before it is #{}", entry.sequence);
        }
        let parents = repo.find_commit(commit.into())?;
        commit = parents.parent_id(0).with_context(|| format!("the copy begins after #{at}"))?.into();
    }
}

/// Begins the epoch, and lands what conf-slaves showed.
async fn land(flags: &RestoreFlags, path: &Path, state: &LedgerState, shown: &Shown) -> anyhow::Result<Done> {
    let (lander, thread) = lander(path)?;
    let who = Who::User(nix::unistd::getuid().as_raw());
    let pusher = Pusher { principal: Principal::Server, through: "restore".to_owned(), who };
    let above = flags.above.unwrap_or_default().max(shown.highest);
    let began = expect(lander.land(Push::keys(KeyRequest::Succeed { above }, &pusher)).await)?;
    let (mut notes, mut lost) = (began.notes, shown.lost.clone());
    let (first, mut newest) = (began.sequence.unwrap_or_default(), began.sequence);
    let updates = shown.updates(state);
    if !updates.is_empty() {
        let names: Vec<String> = updates.iter().map(|one| one.name.clone()).collect();
        let options = ProposalOptions { allow_shrink: true, ..ProposalOptions::default() };
        let outcome = lander.land(Push::commits(updates, false, &pusher, options)).await;
        let refused = names.iter().zip(&outcome.refusals).filter_map(|(name, why)| Some((name, why.as_ref()?)));
        lost.extend(refused.map(|(name, why)| format!("{name}: {}", why.reason)));
        notes.extend(outcome.notes);
        newest = outcome.sequence.or(newest);
    }
    let token = Token::generate();
    store::write_token(path, &token)?;
    let request = AccessRequest::Restore { administrator: token.hash(), shown: shown.readers.clone() };
    let suspended = expect(lander.land(Push::access(request, &pusher)).await)?;
    notes.extend(suspended.notes);
    newest = suspended.sequence.or(newest);
    drop(lander);
    let ended = tokio::task::spawn_blocking(move || thread.join()).await?;
    ended.map_err(|_| anyhow::anyhow!("landing ended badly"))?;
    Ok(Done { first, newest: newest.unwrap_or(first), notes, lost })
}

fn expect(outcome: Outcome) -> anyhow::Result<Outcome> {
    match outcome.refusals.iter().flatten().next() {
        Some(refusal) if outcome.sequence.is_none() => bail!("{}", refusal.reason),
        _ => Ok(outcome),
    }
}

/// Starts what lands, for nobody else.
fn lander(path: &Path) -> anyhow::Result<(Lander, std::thread::JoinHandle<()>)> {
    let metrics = Metrics::new("conf-master", env!("CARGO_PKG_VERSION"));
    let landed = Landed::new(path);
    let upload = UploadPack::checking(path.to_owned(), UploadLimits::default(), landed.wants());
    let secrets = SecretStore::open(path, &[]).context("conf-master's key for secrets cannot be used")?;
    let judge = Arc::new(Judge::new(ChangeLimits::default(), secrets, ReportingHosts::default()));
    let (told, health) = (Told::new(&metrics, AuditLog::default()), Health::new(metrics));
    landing::start(path, &judge, &landed, upload, told, health, Role::default())
}

/// Removes the refs of the copy; what they name has refs of its own.
fn forget_copy(repo: &Repository) -> anyhow::Result<()> {
    let names = FIRST.iter().map(|(_, name)| copied(name));
    for name in names.chain([copied(KEYS), copied(&RefName::Ledger.to_string())]) {
        if let Ok(mut reference) = repo.find_reference(&name) {
            reference.delete()?;
        }
    }
    Ok(())
}

fn say(flags: &RestoreFlags, path: &Path, state: &LedgerState, done: &Done) -> anyhow::Result<ExitCode> {
    let Done { first, newest, notes, lost } = done;
    let token: PathBuf = store::token_path(path);
    if flags.json {
        let told: Value = json!({
            "continues": state.sequence, "first": first, "sequence": newest, "notes": notes, "lost": lost,
            "token_file": token,
        });
        print(told)?;
        return Ok(ExitCode::SUCCESS);
    }
    for line in notes {
        note(format_args!("conf-master: {line}"));
    }
    for line in lost {
        note(format_args!("conf-master: not restored: {line}"));
    }
    let line = fs::read_to_string(public_path(&store::key_path(path))).unwrap_or_default();
    print(line.trim_end())?;
    note(format_args!(
        "the token of an administrator is in {}; `conf-master token list` shows the others",
        token.display()
    ));
    note(format_args!("next: conf-master serve --repo {}", flags.repo.display()));
    Ok(ExitCode::SUCCESS)
}
