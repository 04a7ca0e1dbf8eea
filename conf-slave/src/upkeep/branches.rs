//! The branches and tags behind a snapshot, so that a plain `git clone` of a slave shows them. The
//! git executable fetches them after the change itself, since no host needs them.

use std::{
    collections::BTreeSet,
    io,
    path::PathBuf,
    process::{Output, Stdio},
    sync::Arc,
    time::Duration,
};

use conf_core::{
    api::Pin,
    daemon::chain,
    git,
    retry::{Backoff, with_jitter},
    snapshot::{SnapshotError, instance_manifest},
    upstream::Upstream,
};
use git2::Repository;
use libconf::name::{ComponentVersion, RefName, TagName};
use tokio::{
    io::AsyncWriteExt,
    process::Command,
    sync::watch,
    task::spawn_blocking,
    time::{Instant, timeout},
};

use crate::{
    mirror::{Mirror, ServedSnapshot},
    problems::Problems,
    upkeep::put_refs::PutRefs,
};

/// The longest time for one git program: a first fetch brings the history of everything.
const DEADLINE: Duration = Duration::from_secs(1800);
/// The time without a change that a fetch waits for. Hosts take a change within milliseconds of
/// each other, and a fetch at that moment would slow them down.
const QUIET: Duration = Duration::from_secs(1);
/// The longest delay of a fetch, however often something changes.
const MOST_PUT_OFF: Duration = Duration::from_secs(5);
/// The longest time between two looks at the refs.
const LOOK: Duration = Duration::from_secs(10);
/// Names on one command line.
const NAMES_AT_ONCE: usize = 500;

/// Keeps branches and tags equal to the served snapshot. One fetch serves all changes that came
/// meanwhile.
///
/// Cancel: kills a running git.
pub(crate) async fn run(mirror: Arc<Mirror>, problems: Arc<Problems>) {
    let mut served = mirror.subscribe();
    served.mark_changed();
    let mut done: Option<Arc<ServedSnapshot>> = None;
    // Where the refs were put, and what the system says of them since they were last right.
    let mut put = PutRefs::default();
    let mut again: Option<Instant> = None;
    let mut tried = false;
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    loop {
        let at = again.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            changed = served.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(at), if again.is_some() => {}
            () = tokio::time::sleep(with_jitter(LOOK)), if again.is_none() && done.is_some() => {
                let (looked, repo) = (put, mirror.repo());
                let looked = spawn_blocking(move || looked.look(&repo)).await.expect("looking does not panic");
                let is_right = looked.1.is_none();
                put = looked.0;
                if is_right {
                    continue;
                }
                problems.report("branches", looked.1, "branches and tags are up to date");
                done = None;
            }
        }
        // The first fetch does not wait: until it ends, a clone has no branch to show.
        if tried {
            // A new snapshot is no reason to ask a server in trouble sooner.
            if let Some(again) = again {
                tokio::time::sleep_until(again).await;
            }
            quiet(&mut served).await;
        }
        let Some(now) = served.borrow_and_update().clone() else { continue };
        tried = true;
        // If the same snapshot is served again, the repository was cloned anew and has no branches.
        let before = done.take().filter(|done| done.snapshot.commit != now.snapshot.commit);
        let failed = update(&mirror, before.as_deref(), &now).await.err();
        if failed.is_none() {
            backoff.reset();
            let repo = mirror.repo();
            put = spawn_blocking(move || PutRefs::read(&repo)).await.expect("reading refs does not panic");
            (done, again) = (Some(now), None);
        } else {
            (done, again) = (before, Some(Instant::now() + backoff.next_wait()));
        }
        let problem =
            failed.map(|reason| format!("branches and tags are not up to date, which no host needs: {reason}"));
        problems.report("branches", problem, "branches and tags are up to date");
    }
}

/// Waits until nothing has changed for a while.
async fn quiet(served: &mut watch::Receiver<Option<Arc<ServedSnapshot>>>) {
    let latest = Instant::now() + MOST_PUT_OFF;
    while Instant::now() < latest && matches!(timeout(with_jitter(QUIET), served.changed()).await, Ok(Ok(()))) {}
}

/// Fetches the new branches and tags, then removes those that nothing pins any more.
async fn update(
    mirror: &Arc<Mirror>,
    before: Option<&ServedSnapshot>,
    now: &Arc<ServedSnapshot>,
) -> Result<(), String> {
    let (moved, served) = (Arc::clone(mirror), Arc::clone(now));
    let own = spawn_blocking(move || {
        moved.move_head(&served).map_err(|error| chain(&error))?;
        own_refs(&moved, &served)
    });
    let own = own.await.expect("moving a ref does not panic")?;
    let is_new = |name: &ComponentVersion, pin: &Pin| before.is_none_or(|before| before.pins.get(name) != Some(pin));
    let new_pins = now.pins.iter().filter(|(name, pin)| is_new(name, pin));
    fetch(mirror, new_pins.flat_map(|(name, pin)| refs_of(name, pin)).chain(own.iter().cloned()).collect()).await?;
    let wanted: BTreeSet<RefName> = now.pins.iter().flat_map(|(name, pin)| refs_of(name, pin)).chain(own).collect();
    let (repo, head) = (mirror.repo(), mirror.head_branch());
    let removed = spawn_blocking(move || remove_others(repo, &wanted, head).map_err(message));
    removed.await.expect("removing does not panic")
}

fn refs_of(name: &ComponentVersion, pin: &Pin) -> Vec<RefName> {
    let branch = RefName::Branch(name.component.clone(), pin.branch.clone());
    match name.version.as_str().parse::<TagName>() {
        Ok(tag) if !name.version.is_latest() => vec![branch, RefName::Tag(name.component.clone(), tag)],
        _ => vec![branch],
    }
}

/// Returns the datacenter's branch, and its class's branch or tag.
fn own_refs(mirror: &Mirror, served: &ServedSnapshot) -> Result<Vec<RefName>, String> {
    let repo = Repository::open_bare(mirror.repo()).map_err(message)?;
    let class = match instance_manifest(&repo, &served.snapshot) {
        Ok(manifest) => Some(manifest.class_ref()),
        // One that this version cannot read costs one branch, which no host needs.
        Err(SnapshotError::Malformed { .. }) => None,
        Err(error) => return Err(error.to_string()),
    };
    Ok([RefName::Datacenter(mirror.datacenter().clone())].into_iter().chain(class).collect())
}

async fn fetch(mirror: &Mirror, refs: BTreeSet<RefName>) -> Result<(), String> {
    let mut refs: Vec<String> = refs.iter().map(RefName::to_string).collect();
    let mut last = "no central server was given".to_owned();
    for upstream in mirror.upstreams.in_order() {
        match fetch_present(mirror, &upstream, &mut refs).await {
            Ok(()) => return Ok(()),
            Err(reason) => last = reason,
        }
    }
    Err(last)
}

/// Fetches from one server. One ref that the server does not have fails the whole fetch, so it is
/// then repeated without those.
async fn fetch_present(mirror: &Mirror, upstream: &Upstream, refs: &mut Vec<String>) -> Result<(), String> {
    let Err(reason) = fetch_from(mirror, upstream, refs).await else { return Ok(()) };
    let present = present(mirror, upstream, refs).await?;
    if present.len() == refs.len() {
        return Err(reason);
    }
    *refs = present;
    fetch_from(mirror, upstream, refs).await
}

async fn fetch_from(mirror: &Mirror, upstream: &Upstream, refs: &[String]) -> Result<(), String> {
    let mut git = git_with(mirror, upstream)?;
    // A pack is written whole or not at all; of loose objects a crash may leave some without the
    // objects they name.
    git.args(["-c", "fetch.unpackLimit=1"]);
    git.args(["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--stdin"]);
    // The former commit of a branch tells the server which of its objects are here. Commits of
    // other branches would only make the request longer.
    if refs.len() <= 50 {
        let tips = refs.iter().filter(|name| name.starts_with("refs/heads/"));
        git.args(tips.map(|name| format!("--negotiation-tip={name}*")));
    }
    git.arg(address(upstream));
    let lines: Vec<String> = refs.iter().map(|name| format!("+{name}:{name}\n")).collect();
    run_git(git, lines.concat()).await.map(drop)
}

/// Returns those of the refs that the server has.
async fn present(mirror: &Mirror, upstream: &Upstream, refs: &[String]) -> Result<Vec<String>, String> {
    let mut present = BTreeSet::new();
    for names in refs.chunks(NAMES_AT_ONCE) {
        let mut git = git_with(mirror, upstream)?;
        git.args(["ls-remote", "--quiet", "--refs"]).arg(address(upstream)).args(names);
        let output = run_git(git, String::new()).await?;
        let text = String::from_utf8_lossy(&output.stdout);
        present.extend(text.lines().filter_map(|line| line.split_once('\t')).map(|(_, name)| name.to_owned()));
    }
    Ok(refs.iter().filter(|name| present.contains(*name)).cloned().collect())
}

fn git_with(mirror: &Mirror, upstream: &Upstream) -> Result<Command, String> {
    let mut git = git::command(&mirror.repo());
    if let Some(authorization) = upstream.git_authorization().map_err(|error| error.to_string())? {
        // Other users can read a command line, but not the environment.
        git.env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "http.extraHeader")
            .env("GIT_CONFIG_VALUE_0", format!("Authorization: {authorization}"));
    }
    Ok(Command::from(git))
}

fn address(upstream: &Upstream) -> String {
    format!("{}/conf.git", upstream.url().as_str().trim_end_matches('/'))
}

async fn run_git(mut git: Command, input: String) -> Result<Output, String> {
    git.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let failed = |error: io::Error| format!("cannot run git: {error}");
    let mut child = git.spawn().map_err(failed)?;
    let mut stdin = child.stdin.take().ok_or("git has no standard input")?;
    let feed = async move {
        // A git that ended early tells the reason by its exit code and its standard error.
        let _ = stdin.write_all(input.as_bytes()).await;
    };
    let both = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = timeout(DEADLINE, both).await.map_err(|_| "git took too long".to_owned())?;
    let output = output.map_err(failed)?;
    if output.status.success() {
        return Ok(output);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(words.lines().next_back().unwrap_or("git failed without a message").to_owned())
}

/// Removes branches and tags that nothing pins.
fn remove_others(repo: PathBuf, wanted: &BTreeSet<RefName>, head: String) -> Result<(), git2::Error> {
    let repo = Repository::open_bare(repo)?;
    let wanted: BTreeSet<String> = wanted.iter().map(RefName::to_string).chain([head]).collect();
    for pattern in ["refs/heads/*", "refs/tags/*"] {
        for reference in repo.references_glob(pattern)? {
            let mut reference = reference?;
            if reference.name().is_ok_and(|name| !wanted.contains(name)) {
                reference.delete()?;
            }
        }
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn message(error: git2::Error) -> String {
    error.message().to_owned()
}
