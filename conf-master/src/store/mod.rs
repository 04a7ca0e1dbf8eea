//! The central repository on disk: `init` makes it, `serve` opens it, landings alone move its refs.

pub(crate) mod access;
pub(crate) mod commit;
pub(crate) mod damage;
pub(crate) mod history;
pub(crate) mod idempotency;
pub(crate) mod journal;
pub(crate) mod keys;
pub(crate) mod landed;
pub(crate) mod layers;
pub(crate) mod ledger;
pub(crate) mod lock;
mod paths;
pub(crate) mod ref_files;
pub(crate) mod refs;
pub(crate) mod signer;
mod standby;
pub(crate) mod tip;
pub(crate) mod unreachable;

pub(crate) use crate::store::history::{Durable, Moment, PastBranch, entries};
pub(crate) use crate::store::idempotency::{LandedRef, LandedRequest, LandedRequests, RequestKey};
pub(crate) use crate::store::landed::Landed;
pub(crate) use crate::store::layers::LayerChanges;
pub(crate) use crate::store::ledger::{LedgerEntry, LedgerState, Move, Proven, Tables, previous};
pub(crate) use crate::store::paths::{beside, identity_path, key_path, token_path};
pub(crate) use crate::store::ref_files::{RefFiles, Wanted};
pub(crate) use crate::store::refs::{NONE_REFUSED, Place, Proposed, RefChanges, RefTarget, Table, version_after};
pub(crate) use crate::store::standby::{begin_standby, end_standby, is_standby, note_superseded, superseded};

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Not as _;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use conf_core::{
    access::{AccessTable, Token, TokenEntry},
    daemon::chain,
    daemon::make_folder,
    git::{self, Durability, RepositoryLock},
    secret::Identity,
    sign::{SigningKey, public_path},
};
use git2::Repository;
use libconf::name::{CommitId, ObjectId, RefName, Sequence};
use tracing::warn;
use zeroize::Zeroizing;

use crate::store::lock::patiently;
use crate::store::tip::{Standing, standing};
use crate::text::now;

/// The settings of Git in the central repository.
const SETTINGS: [(&str, &str); 13] = [
    // conf-master decides about every ref; unfinished pushes stay in quarantine, and a push stays
    // one pack.
    ("receive.procReceiveRefs", "refs/"),
    ("receive.fsckObjects", "true"),
    ("receive.unpackLimit", "1"),
    ("receive.advertisePushOptions", "true"),
    ("receive.autogc", "false"),
    // More bytes in one push than any configuration needs; the inflated size is limited apart.
    ("receive.maxInputSize", "1073741824"),
    // Only conf-master prunes: Git refuses `prune` and `repack -d` here, and `gc` drops no object.
    ("extensions.preciousObjects", "true"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("core.fsync", "all"),
    ("core.logAllRefUpdates", "false"),
    // With a bitmap Git leaves out objects that a host may not have.
    ("pack.useBitmaps", "false"),
    ("uploadpack.allowAnySHA1InWant", "true"),
];

/// The hooks that hand every push to this server.
const HOOKS: [&str; 2] = ["pre-receive", "proc-receive"];

/// The size of what is written to see whether anything can be: most changes are smaller.
const TRIED_BYTES: usize = 64 << 10;

const README: &str = include_str!("layout.md");

/// Makes the repository, the signing key and the first administrator's token; returns the line of
/// the public key.
pub(crate) fn init(path: &Path) -> anyhow::Result<String> {
    if fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{} is not empty; name a folder that does not exist yet", path.display());
    }
    let key_path = key_path(path);
    if key_path.exists() {
        bail!("{} exists, and a key is never replaced; move it away or name another folder", key_path.display());
    }
    let token_path = token_path(path);
    if token_path.exists() {
        bail!("{} exists; move it away or name another folder", token_path.display());
    }
    make_folder(path, 0o755).with_context(|| format!("cannot make {}", path.display()))?;
    let path = path.canonicalize()?;
    let repo = git::init(&path, &SETTINGS)?;
    // The ledger is written last: without it `init` was cut short.
    let key = SigningKey::generate(&key_path, "conf-master")?;
    Identity::load_or_create(&identity_path(&path))?;
    let main = readme_commit(&repo)?;
    let mut table = Table::default();
    let target = RefTarget { value: main, commit: main };
    table.set(RefName::Main, Some(target));
    let token = Token::generate();
    let tokens = first_token(&repo, &token)?;
    table.set(RefName::Access, Some(tokens));
    let entry = LedgerEntry {
        sequence: Sequence(0),
        moves: vec![
            Move { name: RefName::Main, old: ObjectId::ZERO, new: Some(target) },
            Move { name: RefName::Access, old: ObjectId::ZERO, new: Some(tokens) },
        ],
        by: "conf-master".to_owned(),
        through: "init".to_owned(),
        request: "init".to_owned(),
        proven: Some(Proven::Yes),
        token: None,
        policy: None,
        key: None,
        continues: None,
        time: now(),
    };
    let (requests, layers) = (LandedRequests::default(), LayerChanges::default());
    let genesis = ledger::write(&repo, None, &entry, Tables { table: &table, requests: &requests, layers: &layers })?;
    repo.reference(&RefName::Main.to_string(), main.into(), false, "")?;
    repo.reference(&RefName::Access.to_string(), tokens.commit.into(), false, "")?;
    write_token(&path, &token)?;
    move_ledger(&repo, None, genesis)?;
    Ok(key.public_line())
}

/// The file in a repository that is being restored.
const RESTORING: &str = "restoring";

/// Tells whether a restore into this folder has not come to its end.
pub(crate) fn is_restoring(path: &Path) -> bool {
    path.join(RESTORING).try_exists().unwrap_or(true)
}

/// Makes an empty repository for a restore, and locks it: until [`end_restore`] nobody serves it.
pub(crate) fn begin_restore(path: &Path) -> anyhow::Result<(Repository, RepositoryLock)> {
    let (key, identity, token) = (key_path(path), identity_path(path), token_path(path));
    if is_restoring(path) {
        // What an earlier try has left, keys and token too; unless that one is still at work.
        let _lock = git::lock(path)?;
        for file in [&key, &public_path(&key), &identity, &token] {
            let _ = fs::remove_file(file);
        }
        fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    if fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{} is not empty; name a folder that does not exist yet", path.display());
    }
    for file in [&key, &identity, &token] {
        if file.exists() {
            bail!("{} exists, and is never replaced; move it away or name another folder", file.display());
        }
    }
    make_folder(path, 0o755).with_context(|| format!("cannot make {}", path.display()))?;
    git::replace_file(&path.join(RESTORING), b"", 0o644, Durability::Full)?;
    let lock = git::lock(path)?;
    Ok((git::init(&path.canonicalize()?, &SETTINGS)?, lock))
}

/// Lets a restored repository be served.
pub(crate) fn end_restore(path: &Path) -> anyhow::Result<()> {
    fs::remove_file(path.join(RESTORING))?;
    Ok(git::sync_folder(path)?)
}

/// Writes an administrator's token beside the repository.
pub(crate) fn write_token(path: &Path, token: &Token) -> anyhow::Result<()> {
    let token_path = token_path(path);
    let line = Zeroizing::new(format!("{}\n", token.reveal()));
    git::replace_file(&token_path, line.as_bytes(), 0o600, Durability::Full)
        .with_context(|| format!("cannot write {}", token_path.display()))
}

/// Writes the list that holds the first administrator's token.
fn first_token(repo: &Repository, token: &Token) -> anyhow::Result<RefTarget> {
    let entry = TokenEntry::of_administrator(token.hash(), (now(), "init".to_owned()));
    let mut table = AccessTable::default();
    table.put(entry, now())?;
    access::write(repo, None, (&AccessTable::default(), &table), now())
}

fn readme_commit(repo: &Repository) -> Result<CommitId, git2::Error> {
    let mut tree = repo.treebuilder(None)?;
    tree.insert("README.md", repo.blob(README.as_bytes())?, 0o100_644)?;
    commit::write(repo, tree.write()?, [], now(), "The layout of this repository\n")
}

/// Opens an existing central repository; the error says what to do.
pub(crate) fn open(path: &Path) -> anyhow::Result<Repository> {
    let missing =
        || format!("{} is not a central repository; make one with `conf-master init --repo DIR`", path.display());
    let opened = Repository::open_bare(path).and_then(|repo| {
        repo.refname_to_id(&RefName::Ledger.to_string())?;
        Ok(repo)
    });
    if opened.is_err() && journal::read(path).is_ok_and(|lines| !lines.is_empty()) {
        let damaged = || format!("the repository is damaged, and nothing was changed in it. {}", damage::advice(path));
        return opened.with_context(damaged);
    }
    opened.with_context(missing)
}

/// Says what in the repository is not as [`prepare`] has left it: without that, Git does not work
/// there, or not as conf-master needs it.
pub(crate) fn unprepared(path: &Path) -> Option<String> {
    if let Some(fault) = fault_in_head(path) {
        return Some(fault);
    }
    let file = path.join("config");
    let config = match git2::Config::open(&file) {
        Ok(config) => config,
        Err(error) => return Some(format!("{} cannot be read: {}", file.display(), error.message())),
    };
    let hooks = path.join("hooks");
    let lost = |(name, value): &(&str, &str)| config.get_string(name).is_ok_and(|found| found == *value).not();
    let hooks_path = hooks.to_string_lossy();
    if let Some((name, value)) = SETTINGS.into_iter().chain([("core.hooksPath", &*hooks_path)]).find(lost) {
        let file = file.display();
        return Some(format!("{file} has lost a setting of conf-master: `{name}` must be `{value}`"));
    }
    HOOKS.iter().find_map(|hook| fault_in_hook(&hooks.join(hook), hook))
}

fn fault_in_hook(path: &Path, hook: &str) -> Option<String> {
    let shown = path.display();
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(format!("the hook {shown} is gone")),
        Err(error) => return Some(format!("the hook {shown} cannot be read: {error}")),
    };
    if hook_text(hook).is_ok_and(|wanted| wanted != text) {
        return Some(format!("the hook {shown} is not the one of conf-master"));
    }
    let runs = fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o111 == 0o111);
    (!runs).then(|| format!("not everybody who pushes may run the hook {shown}: its mode must be 755"))
}

/// Makes the text of a hook, which runs this program.
fn hook_text(hook: &str) -> anyhow::Result<String> {
    let program = std::env::current_exe().context("cannot find this program's own path")?;
    let program = program.to_string_lossy();
    // Linux says so where a newer program took the place of this one. The hooks run the newer one.
    let program = program.strip_suffix(" (deleted)").unwrap_or(&program).replace('\'', r"'\''");
    Ok(format!("#!/bin/sh\nexec '{program}' hook {hook}\n"))
}

/// Without a good HEAD, Git takes the folder for no repository.
fn fault_in_head(path: &Path) -> Option<String> {
    let head = fs::read_to_string(path.join("HEAD"));
    match head.as_deref().map(str::trim_end) {
        Ok(head) if head.starts_with("ref: refs/") || head.parse::<CommitId>().is_ok() => None,
        Ok(_) => Some(format!("{}/HEAD names no branch, so Git does not know the repository", path.display())),
        Err(error) => Some(format!("{}/HEAD cannot be read: {error}", path.display())),
    }
}

/// Writes a HEAD that was lost, the settings of Git, and the hooks that hand every push to this
/// server.
pub(crate) fn prepare(path: &Path) -> anyhow::Result<()> {
    if fault_in_head(path).is_some() {
        let (head, content) = (path.join("HEAD"), format!("ref: {}\n", RefName::Main));
        git::replace_file(&head, content.as_bytes(), 0o644, Durability::Full)
            .with_context(|| format!("cannot write {}", head.display()))?;
    }
    git::init(path, &SETTINGS)?;
    let hooks = path.join("hooks");
    fs::create_dir_all(&hooks).with_context(|| format!("cannot make {}", hooks.display()))?;
    // A pusher's own core.hooksPath must not bypass these hooks.
    git::init(path, &[("core.hooksPath", &hooks.to_string_lossy())])?;
    for hook in HOOKS {
        let hook_path = hooks.join(hook);
        git::replace_file(&hook_path, hook_text(hook)?.as_bytes(), 0o644, Durability::Full)?;
        fs::set_permissions(&hook_path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Makes all objects written so far durable, with their folders, and every ref moved before.
///
/// `syncfs` is one journal commit for any number of files; a sync of each file costs one commit for
/// each.
pub(crate) fn sync_objects(repo: &Repository) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(repo.path())?)?)
}

/// Moves `refs/conf/ledger` from `old` to `new`, durably, and makes all objects durable before: the
/// one commit point of a landing.
///
/// This is Git's own protocol (a lock file made exclusively, then renamed), with the syncs that
/// neither Git nor libgit2 does: before the rename the file and everything written before it, after
/// the rename its folder.
pub(crate) fn move_ledger(repo: &Repository, old: Option<CommitId>, new: CommitId) -> anyhow::Result<()> {
    let reference = repo.path().join(RefName::Ledger.to_string());
    let folder = reference.parent().context("a ref has a folder")?;
    let (lock, mut file) = lock_ledger(&reference, folder)?;
    let moved = (|| {
        // A ref that is lost, or fell back to an earlier change, is put right with the move.
        let now = old.map_or(Standing::Here, |old| standing(repo, old));
        if let Standing::Elsewhere(found) | Standing::Later(found) = now {
            bail!("{} was moved behind this server's back, to {found}", RefName::Ledger);
        }
        file.write_all(format!("{new}\n").as_bytes())?;
        // The lock file is on the same file system: one sync covers it and the objects.
        sync_objects(repo).context("cannot make the objects durable")?;
        fs::rename(&lock, &reference)?;
        // It names only what was the ledger. A change does not fail for it: it is read only when
        // the ledger is damaged.
        if let Err(error) = journal::append(repo, old, new) {
            warn!(error = chain(&*error), "the ledger's journal cannot be written");
        }
        Ok(File::open(folder)?.sync_all()?)
    })();
    if moved.is_err() {
        // Best effort: the next start removes a stale lock as well.
        let _ = fs::remove_file(&lock);
    }
    moved
}

/// Takes Git's lock of the ledger's ref: a file that is made exclusively.
fn lock_ledger(reference: &Path, folder: &Path) -> anyhow::Result<(PathBuf, File)> {
    let lock = reference.with_extension("lock");
    // A foreign `git gc` or `git pack-refs` locks the ref for a moment, and removes empty folders.
    let file = patiently(
        || {
            fs::create_dir_all(folder)?;
            OpenOptions::new().write(true).create_new(true).mode(0o664).open(&lock)
        },
        |error: &io::Error| matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound),
    );
    let held = || format!("cannot lock the ledger ({}); if no program of Git runs here, remove it", lock.display());
    Ok((lock.clone(), file.with_context(held)?))
}

/// Tries all that a landing needs besides its own content: writes a file among the objects and
/// makes it durable, and takes the ledger's lock for a moment. Leaves nothing behind.
pub(crate) fn try_to_write(repo: &Repository) -> anyhow::Result<()> {
    let objects = repo.path().join("objects");
    let cannot = || format!("cannot write into {}", objects.display());
    let mut file = tempfile::Builder::new().prefix("tmp_try_").tempfile_in(&objects).with_context(cannot)?;
    file.write_all(&vec![0; TRIED_BYTES]).and_then(|()| file.as_file().sync_all()).with_context(cannot)?;
    let reference = repo.path().join(RefName::Ledger.to_string());
    let (lock, _) = lock_ledger(&reference, reference.parent().context("a ref has a folder")?)?;
    fs::remove_file(&lock).with_context(|| format!("cannot remove {}", lock.display()))
}
