//! Follows the leader: asks what is newest, fetches it, and has the landing thread take it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use conf_core::daemon::{blocking, chain};
use conf_core::git::{Depth, RepositoryPool, Step};
use conf_core::http::Health;
use conf_core::upstream::{Upstream, Upstreams, fetch};
use git2::Repository;
use libconf::name::{CommitId, HostName, Sequence};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::delivery::Heard;
use crate::landing::Lander;
use crate::standby::call::{PATH, StandbyAnswer, StandbyCall};
use crate::standby::{records, succession};
use crate::store::ledger;

/// The pause after a question that failed.
const AGAIN: Duration = Duration::from_secs(1);
/// About what `/readyz` remarks.
pub(crate) const ABOUT: &str = "leader";

/// What a standby follows, and how.
pub(crate) struct Following {
    /// The repository.
    pub(crate) repo: PathBuf,
    /// Its leader.
    pub(crate) servers: Upstreams,
    /// The leader was elected among those that have all that was answered.
    pub(crate) is_elected: bool,
    /// Its own name.
    pub(crate) name: HostName,
    /// When the leader was heard last.
    pub(crate) heard: Arc<Heard>,
    /// Where it says that the leader is not heard.
    pub(crate) health: Health,
}

/// Follows until `stop`. From when this conf-master leads itself, it tells the one before so, until
/// that one knows.
pub(crate) async fn run(following: Following, lander: Lander, stop: CancellationToken) {
    let mut published = lander.published.clone();
    let leads = async { published.wait_for(|now| now.leader.is_none()).await.map(|_| ()) };
    let work = async {
        tokio::select! {
            _ = leads => {}
            () = follow(&following, &lander) => {}
        }
        following.health.remark(ABOUT, None);
        succession::tell(&following.servers, &lander).await;
    };
    let _ = stop.run_until_cancelled(work).await;
}

/// Follows for ever.
pub(crate) async fn follow(following: &Following, lander: &Lander) {
    tokio::join!(take_changes(following, lander), records::keep(&following.servers, lander));
}

async fn take_changes(following: &Following, lander: &Lander) {
    let mut said: Option<String> = None;
    let mut has = {
        let durable = lander.durable();
        (durable.ledger, durable.sequence)
    };
    loop {
        let asked = ask(following, lander, &mut has).await;
        let problem = asked.err().map(|cause| chain(&*cause));
        following.health.remark(ABOUT, problem.clone());
        match &problem {
            Some(words) if said.as_ref() != Some(words) => warn!("nothing comes from the leader: {words}"),
            None if said.is_some() => info!("the leader is heard again"),
            _ => {}
        }
        if problem.is_some() {
            tokio::time::sleep(AGAIN).await;
        }
        said = problem;
    }
}

/// Asks once, and takes what is new.
async fn ask(following: &Following, lander: &Lander, has: &mut (CommitId, Sequence)) -> anyhow::Result<()> {
    let server = following.servers.in_order().into_iter().next().context("it has no address")?;
    let call = StandbyCall { name: following.name.clone(), ledger: has.0, sequence: has.1 };
    let newest: StandbyAnswer = server.post_json(PATH, &call).await?;
    if newest.ledger != has.0 {
        get(&server, &following.repo, Some(has.0), newest.ledger).await?;
        lander.take(newest.ledger, following.is_elected).await?;
        *has = (newest.ledger, newest.sequence);
    }
    following.heard.note();
    Ok(())
}

/// Fetches the ledger up to an entry, and all that it names.
pub(crate) async fn get(
    server: &Upstream,
    repo: &std::path::Path,
    have: Option<CommitId>,
    want: CommitId,
) -> anyhow::Result<()> {
    fetch(server, repo.to_owned(), Step { have, want, depth: Depth::Full }).await?;
    if have.is_some() {
        return Ok(());
    }
    // What the first change made is named by the ledger, and not reached by it.
    let path = repo.to_owned();
    let missing = blocking(move || -> anyhow::Result<Vec<CommitId>> {
        let repo = Repository::open_bare(path)?;
        let state = ledger::replay(&repo, want).context("the ledger of the leader cannot be read")?;
        let tips = state.table.iter().map(|(_, target)| target.commit);
        Ok(tips.filter(|tip| repo.find_commit((*tip).into()).is_err()).collect())
    });
    let pool = RepositoryPool::at(repo);
    for want in missing.await? {
        fetch(server, pool.clone(), Step { have: None, want, depth: Depth::Full }).await?;
    }
    Ok(())
}
