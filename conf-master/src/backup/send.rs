//! `conf-master backup`: sends what is new to a copy. It reads the repository alone, so it may run
//! at any time.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use conf_core::terminal::{note, print};
use git2::Repository;
use libconf::name::{CommitId, RefName, Sequence};
use serde_json::json;

use crate::backup::copy::{self, CopyPlace, FIRST, KEYS};
use crate::backup::flags::BackupFlags;
use crate::backup::sealed_keys;
use crate::store::{self, LedgerEntry, ledger};
use crate::text::now;

/// What a copy has.
struct Held {
    ledger: Option<CommitId>,
    keys: Option<CommitId>,
}

/// Sends what is new, and says what the copy has then.
pub(crate) fn run(flags: &BackupFlags) -> anyhow::Result<ExitCode> {
    let BackupFlags { repo: Some(path), to: Some(to), recipients, .. } = flags else {
        bail!("name --repo and --to");
    };
    if recipients.is_empty() && !flags.without_keys {
        bail!(
            "the copy needs the keys, or no host follows a server that is restored: seal them to your own key with \
             --recipient (`age-keygen` makes one), or say --without-keys and keep {} and {} elsewhere",
            store::key_path(path).display(),
            store::identity_path(path).display()
        );
    }
    let central = store::open(path)?;
    let newest: CommitId = central.refname_to_id(&RefName::Ledger.to_string())?.into();
    let sequence = LedgerEntry::read(&central, newest)?.sequence;
    to.make()?;
    let scratch = Scratch::over(&central)?;
    let held = held(&scratch.repo, to)?;
    let before = held.ledger.map(|held| known(&central, held, newest, to)).transpose()?;
    let keys = sealed_keys::write(&scratch.repo, path, recipients, held.keys, now())?;
    send(&scratch.repo, to, &refs(&central, newest, keys)?)?;
    to.sync()?;
    let sent = before.map_or(sequence.0 + 1, |before| sequence.0 - before.0);
    if flags.json {
        let keys = recipients.iter().map(ToString::to_string).collect::<Vec<_>>();
        print(json!({"sequence": sequence, "commit": newest, "before": before, "recipients": keys}))?;
    } else {
        let how = if recipients.is_empty() { "without the keys" } else { "with the keys, sealed" };
        note(format_args!("conf-master: {to} has everything up to #{sequence} ({sent} changes are new), {how}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// A repository for what is made for the copy alone, over the objects of another one.
struct Scratch {
    repo: Repository,
    /// Removes it.
    _folder: tempfile::TempDir,
}

impl Scratch {
    fn over(central: &Repository) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder for temporary files")?;
        let repo = Repository::init_bare(folder.path())?;
        let objects = central.path().canonicalize()?.join("objects");
        let line = [objects.as_os_str().as_encoded_bytes(), b"\n"].concat();
        std::fs::write(folder.path().join("objects/info/alternates"), line)?;
        // It is read when a repository is opened.
        Ok(Scratch { repo: Repository::open_bare(repo.path())?, _folder: folder })
    }
}

/// Asks what a copy has, and fetches its keys.
fn held(scratch: &Repository, to: &CopyPlace) -> anyhow::Result<Held> {
    let name = to.name()?;
    let mut list = copy::remote_git(scratch.path(), &["ls-remote", "--refs", "--end-of-options", &name]);
    list.arg("refs/conf/*");
    let listed = copy::output(list).with_context(|| format!("cannot ask what the copy {to} has"))?;
    let find = |wanted: &str| {
        let lines = listed.lines().filter_map(|line| line.split_once('\t'));
        lines.filter(|(_, name)| *name == wanted).find_map(|(id, _)| id.parse::<CommitId>().ok())
    };
    let held = Held { ledger: find(&RefName::Ledger.to_string()), keys: find(KEYS) };
    if held.keys.is_some() {
        let mut fetch = copy::remote_git(scratch.path(), &["fetch", "--quiet", "--no-tags", "--end-of-options", &name]);
        fetch.arg(format!("+{KEYS}:{KEYS}"));
        copy::output(fetch).with_context(|| format!("cannot fetch the keys of the copy {to}"))?;
    }
    Ok(held)
}

/// The change up to which a copy has this very history; an error where it has another one.
fn known(central: &Repository, held: CommitId, newest: CommitId, to: &CopyPlace) -> anyhow::Result<Sequence> {
    let is_before = held == newest || central.graph_descendant_of(newest.into(), held.into()).unwrap_or(false);
    if !is_before {
        bail!(
            "{to} holds another history: its newest change ({}) is none of this repository. Nothing was sent; name another \
             place, and keep this copy until you know which of the two histories counts",
            held.short()
        );
    }
    Ok(LedgerEntry::read(central, held)?.sequence)
}

/// What is pushed: objects, and the refs of the copy.
fn refs(central: &Repository, newest: CommitId, keys: CommitId) -> anyhow::Result<Vec<String>> {
    let table = ledger::replay(central, newest)?.table;
    let first = FIRST.iter().filter_map(|(name, copy)| Some(format!("+{}:{copy}", table.target(name)?.commit)));
    Ok(first.chain([format!("+{keys}:{KEYS}"), format!("{newest}:{}", RefName::Ledger)]).collect())
}

fn send(scratch: &Repository, to: &CopyPlace, refs: &[String]) -> anyhow::Result<()> {
    let name = to.name()?;
    let git = |arguments: &[&str]| {
        let mut git = copy::remote_git(scratch.path(), arguments);
        git.args(["--quiet", "--no-verify", "--end-of-options", &name]).args(refs);
        copy::output(git)
    };
    let sent = match git(&["push", "--atomic"]) {
        // A server that cannot do all at once: the ledger is the last one.
        Err(cause) if cause.to_string().contains("does not support --atomic") => git(&["push"]),
        sent => sent,
    };
    sent.map(drop).with_context(|| format!("cannot send to {to}"))
}
