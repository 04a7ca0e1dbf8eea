//! The branches and tags behind a snapshot, so that a plain `git clone` of a slave shows them: fetched with the git
//! executable, off the way of a change, since no host needs them.

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
    manifest::{self, InstanceManifest, Strictness},
    retry::Backoff,
    upstream::{Upstream, Upstreams},
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
use tokio_util::sync::CancellationToken;

use crate::{
    mirror::{Mirror, Serving},
    problems::Problems,
    publish::with_jitter,
};

/// A first fetch brings the history of everything.
const DEADLINE: Duration = Duration::from_secs(1800);
/// Hosts take a change within milliseconds of each other, and what Git does here would be in their way: it waits until nothing
/// has changed for so long.
const QUIET: Duration = Duration::from_secs(1);
/// But no longer than this.
const MOST_PUT_OFF: Duration = Duration::from_secs(5);
/// So many names stand on one command line.
const NAMES_AT_ONCE: usize = 500;

/// Keeps branches and tags equal to what is served, until `stop`; what changed meanwhile is done in one go.
pub async fn run(mirror: Arc<Mirror>, upstreams: Arc<Upstreams>, problems: Arc<Problems>, stop: CancellationToken) {
    const TOPIC: &str = "branches";
    let mut serving = mirror.subscribe();
    serving.mark_changed();
    let mut done: Option<Arc<Serving>> = None;
    let mut again: Option<Instant> = None;
    let mut tried = false;
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    loop {
        let at = again.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            () = stop.cancelled() => return,
            changed = serving.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(at), if again.is_some() => {}
        }
        // The first time a clone has nothing to show until then.
        if tried {
            let calm = async {
                // News are no reason to ask a server in trouble sooner.
                if let Some(again) = again {
                    tokio::time::sleep_until(again).await;
                }
                quiet(&mut serving).await;
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = calm => {}
            }
        }
        let Some(now) = serving.borrow_and_update().clone() else { continue };
        tried = true;
        // The same snapshot served again is a repository cloned anew, without branches.
        let before = done.take().filter(|done| done.snapshot.commit != now.snapshot.commit);
        let outcome = tokio::select! {
            () = stop.cancelled() => return,
            outcome = follow(&mirror, &upstreams, before.as_deref(), &now) => outcome,
        };
        match outcome {
            Ok(()) => {
                problems.clear(TOPIC, "branches and tags are up to date");
                backoff.reset();
                (done, again) = (Some(now), None);
            }
            Err(reason) => {
                problems.set(TOPIC, format!("branches and tags are not up to date, which no host needs: {reason}"));
                // What was fetched before is there.
                (done, again) = (before, Some(Instant::now() + backoff.next_wait()));
            }
        }
    }
}

/// Waits until nothing changes any more, for a while.
async fn quiet(serving: &mut watch::Receiver<Option<Arc<Serving>>>) {
    let latest = Instant::now() + MOST_PUT_OFF;
    while Instant::now() < latest && matches!(timeout(with_jitter(QUIET), serving.changed()).await, Ok(Ok(()))) {}
}

/// Fetches what is new, then removes what nothing pins any more.
async fn follow(
    mirror: &Arc<Mirror>,
    upstreams: &Upstreams,
    before: Option<&Serving>,
    now: &Arc<Serving>,
) -> Result<(), String> {
    let (of, serving) = (Arc::clone(mirror), Arc::clone(now));
    let own = spawn_blocking(move || {
        of.move_head(&serving).map_err(|error| chain(&error))?;
        own_refs(&of, &serving)
    });
    let own = own.await.expect("moving a ref does not panic")?;
    let is_new = |name: &ComponentVersion, pin: &Pin| before.is_none_or(|before| before.pins.get(name) != Some(pin));
    let fetched: BTreeSet<RefName> = now
        .pins
        .iter()
        .filter(|(name, pin)| is_new(name, pin))
        .flat_map(|(name, pin)| refs_of(name, pin))
        .chain(own.iter().cloned())
        .collect();
    fetch(mirror, upstreams, fetched).await?;
    let wanted: BTreeSet<RefName> = now.pins.iter().flat_map(|(name, pin)| refs_of(name, pin)).chain(own).collect();
    let (repo, head) = (mirror.repo(), mirror.head_branch());
    spawn_blocking(move || remove_others(repo, &wanted, head)).await.expect("removing does not panic")
}

fn refs_of(name: &ComponentVersion, pin: &Pin) -> Vec<RefName> {
    let branch = RefName::Branch(name.component.clone(), pin.branch.clone());
    match name.version.as_str().parse::<TagName>() {
        Ok(tag) if !name.version.is_latest() => vec![branch, RefName::Tag(name.component.clone(), tag)],
        _ => vec![branch],
    }
}

/// The datacenter's branch, and its class's branch or tag.
fn own_refs(mirror: &Mirror, serving: &Serving) -> Result<Vec<RefName>, String> {
    let read = |error: git2::Error| error.message().to_owned();
    let repo = Repository::open_bare(mirror.repo()).map_err(read)?;
    let tree = serving.snapshot.datacenter_tree(&repo).map_err(|error| error.to_string())?;
    let mut refs = vec![RefName::Datacenter(mirror.datacenter().clone())];
    let tree = repo.find_tree(tree.into()).map_err(read)?;
    let file = tree.get_name(manifest::FILE).and_then(|entry| repo.find_blob(entry.id()).ok());
    let text = file.and_then(|blob| String::from_utf8(blob.content().to_vec()).ok());
    // What this version cannot read is passed over: it is about one branch that nobody needs.
    if let Some(Ok(manifest)) = text.map(|text| InstanceManifest::parse(&text, Strictness::Lenient)) {
        refs.push(manifest.class_ref());
    }
    Ok(refs)
}

async fn fetch(mirror: &Mirror, upstreams: &Upstreams, refs: BTreeSet<RefName>) -> Result<(), String> {
    let mut refs: Vec<String> = refs.iter().map(RefName::to_string).collect();
    let mut last = "no central server was given".to_owned();
    for upstream in upstreams.in_order() {
        match fetch_from(mirror, &upstream, &refs).await {
            Ok(()) => return Ok(()),
            Err(words) => last = words,
        }
        // One that is gone there fails them all.
        match present(mirror, &upstream, &refs).await {
            Ok(there) if there.len() < refs.len() => {
                refs = there;
                match fetch_from(mirror, &upstream, &refs).await {
                    Ok(()) => return Ok(()),
                    Err(words) => last = words,
                }
            }
            Ok(_) => {}
            Err(words) => last = words,
        }
    }
    Err(last)
}

async fn fetch_from(mirror: &Mirror, upstream: &Upstream, refs: &[String]) -> Result<(), String> {
    let mut git = git_with(mirror, upstream)?;
    // A pack is there whole or not at all; of loose objects a crash leaves some without those that they lead to.
    git.args(["-c", "fetch.unpackLimit=1"]);
    git.args(["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--stdin"]);
    // What a branch was is all that says what is here of it; other branches would only make the question longer.
    if refs.len() <= 50 {
        let tips = refs.iter().filter(|name| name.starts_with("refs/heads/"));
        git.args(tips.map(|name| format!("--negotiation-tip={name}*")));
    }
    git.arg(address(upstream));
    let lines: Vec<String> = refs.iter().map(|name| format!("+{name}:{name}\n")).collect();
    run_git(git, lines.concat()).await.map(drop)
}

/// Those of the refs that the server has.
async fn present(mirror: &Mirror, upstream: &Upstream, refs: &[String]) -> Result<Vec<String>, String> {
    let mut there = BTreeSet::new();
    for names in refs.chunks(NAMES_AT_ONCE) {
        let mut git = git_with(mirror, upstream)?;
        git.args(["ls-remote", "--quiet", "--refs"]).arg(address(upstream)).args(names);
        let output = run_git(git, String::new()).await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        there.extend(text.lines().filter_map(|line| line.split_once('\t')).map(|(_, name)| name.to_owned()));
    }
    Ok(refs.iter().filter(|name| there.contains(*name)).cloned().collect())
}

fn git_with(mirror: &Mirror, upstream: &Upstream) -> Result<Command, String> {
    let mut git = git::command(&mirror.repo());
    if let Some(authorization) = upstream.git_authorization().map_err(|error| error.to_string())? {
        // In the environment, which other users cannot read, as they can a command line.
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
        // A git that ended early says why by its exit.
        let _ = stdin.write_all(input.as_bytes()).await;
    };
    let both = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = timeout(DEADLINE, both).await.map_err(|_| "git took too long".to_owned())?;
    let output = output.map_err(failed)?;
    if output.status.success() {
        return Ok(output);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(words.lines().next_back().unwrap_or("git failed without words").to_owned())
}

/// Removes branches and tags that nothing pins.
fn remove_others(repo: PathBuf, wanted: &BTreeSet<RefName>, head: String) -> Result<(), String> {
    let words = |error: git2::Error| error.message().to_owned();
    let repo = Repository::open_bare(repo).map_err(words)?;
    let wanted: BTreeSet<String> = wanted.iter().map(RefName::to_string).chain([head]).collect();
    for pattern in ["refs/heads/*", "refs/tags/*"] {
        for reference in repo.references_glob(pattern).map_err(words)? {
            let mut reference = reference.map_err(words)?;
            if reference.name().is_ok_and(|name| !wanted.contains(name)) {
                reference.delete().map_err(words)?;
            }
        }
    }
    Ok(())
}
