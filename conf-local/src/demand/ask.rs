//! Asking servers which snapshot was the newest at a change: the conf-slaves, and soon the central server too.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use libconf::{
    name::Sequence,
    tier::{
        api::{At, SnapshotAt},
        daemon::chain,
        upstream::{Upstream, Upstreams},
    },
};
use tokio::{task::JoinSet, time::timeout};

use crate::state::Agent;

/// How long one question lets a conf-slave wait for its watermark; then it is asked again.
const WAIT: Duration = Duration::from_secs(10);
/// A server that has not answered by then is not waited for alone.
const PATIENCE: Duration = Duration::from_secs(1);

/// A server's answer that may be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) central: Sequence,
    pub(super) at: SnapshotAt,
    pub(super) next: Option<SnapshotAt>,
}

/// What came of it.
pub(super) enum Asked {
    /// The first good answer, and whose it is.
    Found(String, Found),
    /// The datacenter had none so old, say those who answer.
    TooOld,
    /// No good answer; what is missing.
    Nobody(String),
}

/// Asks one after the other, or several when one takes long, for the first answer that does not contradict what is
/// exported. Those of `liars` are passed over.
pub(super) async fn ask(
    surrogates: &Upstreams,
    central: &Upstreams,
    agent: &Agent,
    change: Sequence,
    exported: SnapshotAt,
    liars: &mut BTreeSet<String>,
) -> Asked {
    let datacenter = agent.view().status.datacenter.clone();
    let path = format!("api/v1/at?datacenter={datacenter}&sequence={change}&timeout={}", WAIT.as_secs());
    let mut servers: VecDeque<Arc<Upstream>> = surrogates.in_order().into_iter().chain(central.in_order()).collect();
    servers.retain(|server| !liars.contains(server.url().as_str()));
    let mut asked = JoinSet::new();
    let (mut missing, mut too_old) = (Vec::new(), false);
    loop {
        if let Some(server) = servers.pop_front() {
            let path = path.clone();
            asked.spawn(async move {
                let answer = timeout(WAIT + PATIENCE, server.get_json::<At>(&path)).await;
                (server.url().to_string(), answer)
            });
        } else if asked.is_empty() {
            break;
        }
        let answer = match servers.len() {
            0 => asked.join_next().await,
            _ => match timeout(PATIENCE, asked.join_next()).await {
                Ok(answer) => answer,
                Err(_) => continue,
            },
        };
        let Some(Ok((server, answer))) = answer else { continue };
        let answer = match answer {
            Err(_) => Err("no answer in time".to_owned()),
            Ok(Err(error)) => Err(chain(&error)),
            Ok(Ok(answer)) => Ok(answer),
        };
        match answer.map(|answer| judge(&answer, change, exported)) {
            Ok(Judged::Good(found)) => return Asked::Found(server, found),
            Ok(Judged::TooOld) => too_old = true,
            Ok(Judged::Early(known)) => missing.push(format!("{server} knows of changes up to {known} only")),
            Ok(Judged::Wrong(words)) => {
                tracing::warn!(server, %change, reason = words, "a server's answer contradicts what is signed; it is passed over");
                missing.push(format!("{server} answers wrongly: {words}"));
                liars.insert(server);
            }
            Err(words) => missing.push(words),
        }
    }
    if too_old {
        return Asked::TooOld;
    }
    if missing.is_empty() {
        return Asked::Nobody("no server gives an answer that is proven".to_owned());
    }
    Asked::Nobody(missing.join("; "))
}

/// What an answer is worth by itself.
#[derive(Debug, PartialEq, Eq)]
enum Judged {
    Good(Found),
    TooOld,
    /// It knows up to there.
    Early(Sequence),
    Wrong(&'static str),
}

/// Looks whether an answer can be right, beside what is exported: that one is signed, and a snapshot of this datacenter.
fn judge(answer: &At, change: Sequence, exported: SnapshotAt) -> Judged {
    let At { central, at, next } = *answer;
    if next.is_some_and(|next| next.sequence <= change) {
        return Judged::Wrong("it names a snapshot as the next one that is not above the change");
    }
    let Some(at) = at else {
        return match exported.sequence <= change {
            _ if central < change && next.is_none() => Judged::Early(central),
            true => Judged::Wrong("it knows none so old, and what is exported here is"),
            false => Judged::TooOld,
        };
    };
    let contradicts = |named: SnapshotAt| named.sequence == exported.sequence && named.commit != exported.commit;
    if at.sequence > change {
        return Judged::Wrong("it names a snapshot above the change");
    }
    if contradicts(at) || next.is_some_and(contradicts) {
        return Judged::Wrong("it names another snapshot of the number that is exported here");
    }
    let between = exported.sequence > at.sequence && next.is_none_or(|next| exported.sequence < next.sequence);
    if between {
        return Judged::Wrong("it passes over the snapshot that is exported here");
    }
    if next.is_none() && central < change {
        return Judged::Early(central);
    }
    Judged::Good(Found { central, at, next })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(sequence: u64) -> SnapshotAt {
        SnapshotAt { sequence: Sequence(sequence), commit: [u8::try_from(sequence).unwrap(); 20].into() }
    }

    #[test]
    fn what_an_answer_is_worth() {
        // What is exported is 20.
        let judge = |central, at: Option<u64>, next: Option<u64>, change| {
            let answer = At { central: Sequence(central), at: at.map(snapshot), next: next.map(snapshot) };
            super::judge(&answer, Sequence(change), snapshot(20))
        };
        let good = |judged| matches!(judged, Judged::Good(_));
        let wrong = |judged| matches!(judged, Judged::Wrong(_));
        // Older, with its proof.
        assert!(good(judge(30, Some(10), Some(15), 12)));
        assert!(good(judge(30, Some(10), Some(20), 19)));
        // Older than what is exported, which is not above the change either.
        assert!(wrong(judge(30, Some(10), Some(25), 22)));
        assert!(wrong(judge(30, Some(10), None, 22)));
        assert!(wrong(judge(30, None, None, 22)));
        // Nothing follows, though the exported one does.
        assert!(wrong(judge(30, Some(10), None, 12)));
        // Above the change, or a next one that is not.
        assert!(wrong(judge(30, Some(13), Some(15), 12)));
        assert!(wrong(judge(30, Some(10), Some(12), 12)));
        // What is exported, or newer.
        assert!(good(judge(30, Some(20), None, 25)));
        assert!(good(judge(30, Some(24), Some(27), 25)));
        assert_eq!(judge(22, None, None, 25), Judged::Early(Sequence(22)));
        assert_eq!(judge(22, Some(20), None, 25), Judged::Early(Sequence(22)));
        assert_eq!(judge(30, None, Some(10), 5), Judged::TooOld);
        let other =
            At { central: Sequence(30), at: Some(SnapshotAt { commit: [9; 20].into(), ..snapshot(20) }), next: None };
        assert!(wrong(super::judge(&other, Sequence(25), snapshot(20))));
    }
}
