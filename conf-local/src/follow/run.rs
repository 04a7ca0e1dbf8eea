//! Puts the parts of this folder together.

use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    follow::{
        candidates::Candidates,
        pointer::{self, Sources},
        stream,
        worker::Worker,
    },
    state::WriterRequest,
    transaction::{Audience, Host},
};

/// Follows the pointer until `stop`. Puts the disk of `host` in order first, without asking a
/// server.
pub(crate) async fn run(
    host: Host,
    sources: Sources,
    audience: Audience,
    requests: mpsc::Receiver<WriterRequest>,
    stop: CancellationToken,
) {
    let (agent, candidates) = (&audience.agent, Candidates::new(audience.agent.clone()));
    let worker = Worker::new(host, &sources, &audience, &candidates);
    let mut trusted = sources.keys.subscribe();
    let keys = async {
        // The sender lives as long as the sources.
        while trusted.changed().await.is_ok() {
            candidates.try_refused_again();
        }
    };
    let found = join_all(sources.finders.iter().filter_map(|one| Some(one.find(sources.consul.first()?, agent))));
    let revived = sources.servers.revive(|server| agent.set_back(server.url().as_str()));
    tokio::join!(
        pointer::watch(&sources, &candidates, agent, &stop),
        stream::listen(&sources, &candidates, agent, &stop),
        stop.run_until_cancelled(revived),
        stop.run_until_cancelled(found),
        stop.run_until_cancelled(keys),
        worker.run(requests, &stop)
    );
}
