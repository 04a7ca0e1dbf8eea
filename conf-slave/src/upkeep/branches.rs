//! The branches and tags behind a snapshot, so that a plain `git clone` of a slave shows them. They
//! are fetched after the change itself, since no host needs them: a few by the commits that the
//! snapshot names, and many, or all of them, by the git executable.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use conf_core::{
    daemon::{self, chain},
    git,
    retry::{Backoff, with_jitter},
    snapshot::{SnapshotError, instance_manifest},
    upstream::Upstream,
};
use git2::Repository;
use libconf::name::RefName;
use tokio::{
    process::Command,
    sync::watch,
    time::{Instant, timeout},
};

use crate::{
    above::Above,
    mirror::{Mirror, ServedSnapshot},
    problems::Problems,
    upkeep::{
        moves::{self, Moved, Moves, refs_of},
        programs::Programs,
        put_refs::PutRefs,
    },
};

/// The name of a folder in the repository that stays empty.
const NO_AUTHORITIES: &str = "no-authorities";

/// The time without a change that a fetch waits for. Hosts take a change within milliseconds of
/// each other, and a fetch at that moment would slow them down.
const QUIET: Duration = Duration::from_secs(1);
/// The longest delay of a fetch, however often something changes.
const MOST_PUT_OFF: Duration = Duration::from_secs(5);
/// The longest time between two looks at the refs.
const LOOK: Duration = Duration::from_secs(10);
/// Files of refs above which they are packed into one: a program that lists the refs reads each.
const MOST_LOOSE: usize = 200;
/// Names on one command line.
const NAMES_AT_ONCE: usize = 500;

/// Keeps branches and tags equal to the served snapshot. One fetch serves all changes that came
/// meanwhile.
///
/// Cancel: kills a running git.
pub(crate) async fn run(mirror: Arc<Mirror>, above: Arc<Above>, problems: Arc<Problems>, programs: Arc<Programs>) {
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
                let looked = daemon::blocking(move || looked.look(&repo)).await;
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
            quiet(&mut served, above.tiers()).await;
        }
        let Some(now) = served.borrow_and_update().clone() else { continue };
        tried = true;
        // If the same snapshot is served again, the repository was cloned anew and has no branches.
        let before = done.take().filter(|done| done.snapshot.commit != now.snapshot.commit);
        let moves = before.and_then(|before| moves::between(&before, &now));
        let updated = match moves {
            Some(moves) => follow((&mirror, &above), &programs, &now, moves).await.map(Some),
            None => update((&mirror, &above), &programs, &now).await.map(|()| None),
        };
        let problem = match updated {
            Ok(moved) => {
                backoff.reset();
                put = noted(put, &mirror, moved).await;
                (done, again) = (Some(now), None);
                None
            }
            // The next attempt fetches all of them.
            Err(reason) => {
                mirror.opened.forget();
                again = Some(Instant::now() + backoff.next_wait());
                Some(format!("branches and tags are not up to date, which no host needs: {reason}"))
            }
        };
        problems.report("branches", problem, "branches and tags are up to date");
    }
}

/// Waits until nothing has changed for a while; behind another conf-slave so much longer that it
/// has them.
async fn quiet(served: &mut watch::Receiver<Option<Arc<ServedSnapshot>>>, tiers: u32) {
    let latest = Instant::now() + MOST_PUT_OFF * tiers;
    let pause = || QUIET * (tiers - 1) + with_jitter(QUIET);
    while Instant::now() < latest && matches!(timeout(pause(), served.changed()).await, Ok(Ok(()))) {}
}

/// Takes down where the refs are now: all of them, unless it is known which ones moved.
async fn noted(put: PutRefs, mirror: &Mirror, moved: Option<Moved>) -> PutRefs {
    let repo = mirror.repo();
    let noted = daemon::blocking(move || match moved {
        Some(moved) => put.moved(&repo, moved),
        None => PutRefs::read(&repo),
    });
    noted.await
}

/// Makes the changes of one step. Returns the refs that moved.
async fn follow(
    (mirror, above): (&Arc<Mirror>, &Above),
    programs: &Programs,
    now: &Arc<ServedSnapshot>,
    moves: Moves,
) -> Result<Moved, String> {
    let head = move_head(mirror, now).await?;
    moves::fetch(mirror, &moves).await?;
    let missing = moves::missing(mirror, &moves).await?;
    if !missing.is_empty() {
        fetch((mirror, above), programs, missing.clone()).await?;
    }
    let mut moved = moves::put(mirror, moves).await?;
    moved.push(head);
    moved.extend(moves::targets(mirror, missing).await?);
    Ok(moved)
}

async fn move_head(mirror: &Arc<Mirror>, now: &Arc<ServedSnapshot>) -> Result<(String, Option<git2::Oid>), String> {
    let (moved, served) = (Arc::clone(mirror), Arc::clone(now));
    let head = daemon::blocking(move || moved.move_head(&served).map_err(|error| chain(&error)));
    head.await?;
    Ok((mirror.head_branch(), Some(now.snapshot.commit.into())))
}

/// Fetches all branches and tags, then removes those that nothing pins.
async fn update(
    (mirror, above): (&Arc<Mirror>, &Above),
    programs: &Programs,
    now: &Arc<ServedSnapshot>,
) -> Result<(), String> {
    move_head(mirror, now).await?;
    let (moved, served) = (Arc::clone(mirror), Arc::clone(now));
    let own = daemon::blocking(move || own_refs(&moved, &served)).await?;
    let wanted: BTreeSet<RefName> = now.pins.iter().flat_map(|(name, pin)| refs_of(name, pin)).chain(own).collect();
    fetch((mirror, above), programs, wanted.clone()).await?;
    let (repo, head) = (mirror.repo(), mirror.head_branch());
    let removed = daemon::blocking(move || remove_others(&repo, &wanted, head).map_err(message));
    if removed.await? > MOST_LOOSE {
        let mut git = Command::from(git::command(&mirror.repo()));
        git.args(["pack-refs", "--all"]);
        programs.fetch(git, String::new(), &mirror.repo()).await?;
    }
    // Those of another conf-slave may be behind its snapshot.
    match if above.tiers() > 1 { moves::lacking(mirror, now).await? } else { 0 } {
        0 => Ok(()),
        some => Err(format!("{some} of their commits are not on the conf-slave above yet")),
    }
}

/// Returns the datacenter's branch, and its class's branch or tag.
fn own_refs(mirror: &Mirror, served: &ServedSnapshot) -> Result<Vec<RefName>, String> {
    let repo = mirror.opened.lend().map_err(message)?;
    let class = match instance_manifest(&repo, &served.snapshot) {
        Ok(manifest) => Some(manifest.class_ref()),
        // One that this version cannot read costs one branch, which no host needs.
        Err(SnapshotError::Malformed { .. }) => None,
        Err(error) => return Err(error.to_string()),
    };
    Ok([RefName::Datacenter(mirror.datacenter().clone())].into_iter().chain(class).collect())
}

/// Fetches from the first server that answers what it has of these.
async fn fetch((mirror, above): (&Mirror, &Above), programs: &Programs, refs: BTreeSet<RefName>) -> Result<(), String> {
    let mut refs: Vec<String> = refs.iter().map(RefName::to_string).collect();
    let all = refs.len();
    let mut last = "no central server was given".to_owned();
    for upstream in mirror.upstreams.in_order() {
        match fetch_present(mirror, programs, &upstream, &mut refs).await {
            // What conf-master does not have is gone. Another conf-slave may not have it yet.
            Ok(()) if above.tiers() > 1 && refs.len() < all => {
                return Err(format!("{} has {} of {all} yet", upstream.url(), refs.len()));
            }
            Ok(()) => return Ok(()),
            Err(reason) => last = reason,
        }
    }
    Err(last)
}

/// Fetches from one server. One ref that the server does not have fails the whole fetch, so it is
/// then repeated without those.
async fn fetch_present(
    mirror: &Mirror,
    programs: &Programs,
    upstream: &Upstream,
    refs: &mut Vec<String>,
) -> Result<(), String> {
    let Err(reason) = fetch_from(mirror, programs, upstream, refs).await else { return Ok(()) };
    let present = present(mirror, programs, upstream, refs).await?;
    if present.len() == refs.len() {
        return Err(reason);
    }
    *refs = present;
    fetch_from(mirror, programs, upstream, refs).await
}

async fn fetch_from(mirror: &Mirror, programs: &Programs, upstream: &Upstream, refs: &[String]) -> Result<(), String> {
    let mut git = git_with(&mirror.repo(), upstream)?;
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
    programs.fetch(git, lines.concat(), &mirror.repo()).await.map(drop)
}

/// Returns those of the refs that the server has.
async fn present(
    mirror: &Mirror,
    programs: &Programs,
    upstream: &Upstream,
    refs: &[String],
) -> Result<Vec<String>, String> {
    let mut present = BTreeSet::new();
    for names in refs.chunks(NAMES_AT_ONCE) {
        let mut git = git_with(&mirror.repo(), upstream)?;
        git.args(["ls-remote", "--quiet", "--refs"]).arg(address(upstream)).args(names);
        let output = programs.fetch(git, String::new(), &mirror.repo()).await?;
        let text = String::from_utf8_lossy(&output.stdout);
        present.extend(text.lines().filter_map(|line| line.split_once('\t')).map(|(_, name)| name.to_owned()));
    }
    Ok(refs.iter().filter(|name| present.contains(*name)).cloned().collect())
}

/// Git in a repository, for questions to a server and to no other.
fn git_with(repo: &Path, upstream: &Upstream) -> Result<Command, String> {
    let mut git = git::command(repo);
    let mut settings = upstream.git_settings().map_err(|error| error.to_string())?;
    if settings.iter().any(|(name, _)| *name == "http.sslCAInfo") {
        // Besides that file Git trusts the authorities of a folder, and without one the system's.
        let nobody = repo.join(NO_AUTHORITIES);
        std::fs::create_dir_all(&nobody).map_err(|error| format!("cannot make {}: {error}", nobody.display()))?;
        settings.push(("http.sslCAPath", nobody.into()));
    }
    // Other users can read a command line, but not the environment.
    git.env("GIT_CONFIG_COUNT", settings.len().to_string());
    for (at, (name, value)) in settings.into_iter().enumerate() {
        git.env(format!("GIT_CONFIG_KEY_{at}"), name).env(format!("GIT_CONFIG_VALUE_{at}"), value);
    }
    Ok(Command::from(git))
}

fn address(upstream: &Upstream) -> String {
    format!("{}/conf.git", upstream.url().as_str().trim_end_matches('/'))
}

/// Removes branches and tags that nothing pins. Returns the number of those that have a file of
/// their own.
fn remove_others(path: &Path, wanted: &BTreeSet<RefName>, head: String) -> Result<usize, git2::Error> {
    let repo = Repository::open_bare(path)?;
    let mut loose = 0;
    let wanted: BTreeSet<String> = wanted.iter().map(RefName::to_string).chain([head]).collect();
    for pattern in ["refs/heads/*", "refs/tags/*"] {
        for reference in repo.references_glob(pattern)? {
            let mut reference = reference?;
            let Ok(name) = reference.name() else { continue };
            if wanted.contains(name) {
                loose += usize::from(path.join(name).exists());
            } else {
                reference.delete()?;
            }
        }
    }
    Ok(loose)
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn message(error: git2::Error) -> String {
    error.message().to_owned()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read as _, Write as _},
        net::TcpListener,
        thread,
    };

    use conf_core::{
        tls::{Certificates, ClientFiles, ClientFlags, ClientTls, OldestTls},
        upstream::{Credentials, Upstreams},
    };

    use super::*;

    fn upstream(url: &str, credentials: &Credentials) -> Arc<Upstream> {
        Upstreams::new(vec![url.parse().unwrap()], credentials).unwrap().in_order().remove(0)
    }

    #[tokio::test]
    async fn git_takes_the_token_to_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        git2::Repository::init_bare(folder.path()).unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, "secret").unwrap();
        let [central, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [at, elsewhere] = [&central, &other].map(|one| format!("http://{}", one.local_addr().unwrap()));
        let answering = thread::spawn(move || {
            let (mut client, _) = central.accept().unwrap();
            let mut head = [0; 4096];
            let count = client.read(&mut head).unwrap();
            let path = "/conf.git/info/refs?service=git-upload-pack";
            let answer = format!("HTTP/1.1 302 Found\r\nLocation: {elsewhere}{path}\r\nContent-Length: 0\r\n\r\n");
            client.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&head[..count]).into_owned()
        });
        let upstream = upstream(&at, &Credentials::from_file(Some(token)));
        let mut git = git_with(folder.path(), &upstream).unwrap();
        let asked = git.arg("ls-remote").arg(address(&upstream)).kill_on_drop(true).output();
        let output = timeout(Duration::from_secs(60), asked).await.expect("it waits for nobody else").unwrap();
        assert!(answering.join().unwrap().contains("Authorization: Basic "), "it was asked with the token");
        assert!(!output.status.success(), "{output:?}");
        other.set_nonblocking(true).unwrap();
        assert_eq!(other.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "it was asked");
    }

    #[test]
    fn git_trusts_the_named_authorities_alone() {
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let authority = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let ca = folder.path().join("ca.crt");
        std::fs::write(&ca, authority.pem()).unwrap();
        let files = ClientFiles::of(&ClientFlags { ca: Some(ca.clone()), ..ClientFlags::default() });
        let tls = ClientTls::load(files, OldestTls::default(), &Certificates::default()).unwrap();
        let settings = |credentials: &Credentials| {
            let git = git_with(folder.path(), &upstream("https://central", credentials)).unwrap();
            let values = git.as_std().get_envs().filter_map(|(_, value)| Some(value?.to_os_string()));
            values.collect::<Vec<_>>()
        };
        let named = settings(&Credentials::none().over(tls));
        let nobody = folder.path().join(NO_AUTHORITIES);
        assert!(named.contains(&"http.sslCAPath".into()) && named.contains(&nobody.clone().into()), "{named:?}");
        assert_eq!(std::fs::read_dir(nobody).unwrap().count(), 0);
        assert!(named.contains(&ca.clone().into()));
        // Without it those of the system count, which a variable may name.
        let system = settings(&Credentials::none());
        let names_others = std::env::var_os("SSL_CERT_FILE").is_some_and(|file| !file.is_empty());
        assert_eq!(system.contains(&"http.sslCAPath".into()), names_others, "{system:?}");
        assert!(!system.contains(&ca.into()));
    }
}
