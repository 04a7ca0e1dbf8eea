//! Asking servers which snapshot was the newest at a change: the conf-slaves, and soon conf-master
//! too.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use conf_core::{
    api::{At, Pointer, WatermarkEvent},
    daemon::chain,
    sign::TrustedKeys,
    upstream::Hedge,
};
use libconf::name::{DatacenterName, Sequence};
use tokio::time::timeout;

use crate::{snapshot::SnapshotServers, state::Watermark};

/// 10 s: one question lets a conf-slave wait so long for its watermark. Then it is asked again.
const WAIT: Duration = Duration::from_secs(10);
/// 1 s: if a server has not answered by then, the next one is asked too.
const PATIENCE: Duration = Duration::from_secs(1);

/// Doubts about servers while one change is looked for.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    /// Servers that gave a wrong answer, with the reason. They are not asked again.
    refuted: BTreeMap<String, String>,
    /// Servers whose snapshot could not be brought, for whatever reason. They are asked after all
    /// others.
    last: BTreeSet<String>,
}

impl Doubts {
    pub(crate) fn refute(&mut self, server: String, reason: String) {
        self.refuted.insert(server, reason);
    }

    pub(crate) fn put_last(&mut self, server: String) {
        self.last.insert(server);
    }
}

/// A server's answer that may be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The newest snapshot not above the change, and the one after it. `next` is `None` if this
    /// very change made the snapshot.
    At { at: Pointer, next: Option<Pointer> },
    /// The newest snapshot of all. conf-master has signed that none follows up to the change.
    Newest(Watermark),
    /// There was none yet. `first` is the first snapshot.
    TooOld { first: Pointer },
}

impl Doubts {
    /// Asks one server after the other, or several if one is slow. Returns the server and the first
    /// answer that does not contradict the exported snapshot; or, if there is none, what is
    /// missing.
    pub(crate) async fn ask(
        &mut self,
        servers: &SnapshotServers,
        (datacenter, keys): (&DatacenterName, &TrustedKeys),
        change: Sequence,
        exported: Pointer,
    ) -> Result<(String, Answer), String> {
        let path = format!("api/v1/at?datacenter={datacenter}&sequence={change}&timeout={}", WAIT.as_secs());
        let mut servers = servers.in_order();
        servers.retain(|server| !self.refuted.contains_key(server.url().as_str()));
        servers.sort_by_key(|server| self.last.contains(server.url().as_str()));
        let mut hedge = Hedge::new(servers, PATIENCE, move |server| {
            let path = path.clone();
            async move { timeout(WAIT + PATIENCE, server.get_json::<At>(&path)).await }
        });
        let mut missing = Vec::new();
        while let Some((server, answer)) = hedge.next().await {
            let server = server.url().to_string();
            let answer = match answer {
                Err(_) => Err(format!("{server} gave no answer within {} s", (WAIT + PATIENCE).as_secs())),
                Ok(Err(error)) => Err(chain(&error)),
                Ok(Ok(answer)) => Ok(answer),
            };
            let proven = |event: &WatermarkEvent| Watermark::proven(event, datacenter, keys).ok();
            match answer.map(|answer| judge(&answer, change, exported, proven)) {
                Ok(Verdict::Good(answer)) => return Ok((server, answer)),
                Ok(Verdict::Early(known)) => missing.push(format!("{server} knows of changes up to {known} only")),
                Ok(Verdict::Wrong(words)) => {
                    tracing::warn!(server, %change, reason = words, "a server's answer contradicts signed data; it is ignored");
                    self.refute(server, words.to_owned());
                }
                Err(words) => missing.push(words),
            }
        }
        missing.extend(self.refuted.iter().map(|(server, words)| format!("{server} answers wrongly: {words}")));
        Err(missing.join("; "))
    }
}

/// The result of judging one answer.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Good(Answer),
    /// The server knows only this change and earlier ones.
    Early(Sequence),
    Wrong(&'static str),
}

/// Judges whether an answer can be right, given the exported snapshot, which is signed and this
/// datacenter's. `proven` verifies a watermark for the datacenter.
fn judge(
    answer: &At,
    change: Sequence,
    exported: Pointer,
    proven: impl Fn(&WatermarkEvent) -> Option<Watermark>,
) -> Verdict {
    let At { central, at, next, ref watermark } = *answer;
    let contradicts = |named: Pointer| named.sequence == exported.sequence && named.commit != exported.commit;
    if next.is_some_and(|next| next.sequence <= change) {
        return Verdict::Wrong("it names a snapshot as the next one that is not above the change");
    }
    if at.is_some_and(|at| at.sequence > change) {
        return Verdict::Wrong("it names a snapshot above the change");
    }
    if at.is_some_and(contradicts) || next.is_some_and(contradicts) {
        return Verdict::Wrong("it names another snapshot of the number that is exported here");
    }
    // The answer is true as far as the server knows, but it does not know the change, or the
    // exported snapshot.
    let known = central.max(at.map_or(central, |at| at.sequence));
    if next.is_none() && known < change.max(exported.sequence) {
        return Verdict::Early(known);
    }
    let between = |from: Option<Pointer>| {
        from.is_none_or(|at| at.sequence < exported.sequence)
            && next.is_none_or(|next| exported.sequence < next.sequence)
    };
    match (at, next) {
        _ if between(at) => Verdict::Wrong("it passes over the snapshot that is exported here"),
        (Some(at), None) if at.sequence < change => {
            let tells = |watermark: &Watermark| watermark.snapshot == at && watermark.central >= change;
            match watermark.as_ref().and_then(proven).filter(tells) {
                Some(watermark) => Verdict::Good(Answer::Newest(watermark)),
                None => Verdict::Wrong("no signed watermark says that nothing follows"),
            }
        }
        (Some(at), next) => Verdict::Good(Answer::At { at, next }),
        (None, Some(first)) => Verdict::Good(Answer::TooOld { first }),
        (None, None) => Verdict::Wrong("it knows of no snapshot at all"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(sequence: u64) -> Pointer {
        Pointer { sequence: Sequence(sequence), commit: [u8::try_from(sequence).unwrap(); 20].into() }
    }

    #[test]
    fn an_answer_is_judged_by_the_exported_snapshot() {
        // Snapshot 20 is exported. `signed` takes every watermark for a signed one.
        let event = |(newest, central): (u64, u64)| {
            let Pointer { sequence, commit } = snapshot(newest);
            let (central, datacenter) = (Sequence(central), "us-west/v1".parse().unwrap());
            WatermarkEvent { central, datacenter, snapshot: sequence, commit, signature: String::new() }
        };
        let signed = |event: &WatermarkEvent| Some(Watermark { snapshot: event.newest(), central: event.central });
        let judge_with = |central, at: Option<u64>, next: Option<u64>, change, watermark: Option<(u64, u64)>| {
            let (at, next, watermark) = (at.map(snapshot), next.map(snapshot), watermark.map(event));
            let answer = At { central: Sequence(central), at, next, watermark };
            super::judge(&answer, Sequence(change), snapshot(20), signed)
        };
        let judge = |central, at, next, change| judge_with(central, at, next, change, None);
        let good = |judged| matches!(judged, Verdict::Good(_));
        let wrong = |judged| matches!(judged, Verdict::Wrong(_));
        // Older, with its proof.
        assert!(good(judge(30, Some(10), Some(15), 12)));
        assert!(good(judge(30, Some(10), Some(20), 19)));
        // Older than the exported snapshot, which is not above the change either.
        assert!(wrong(judge(30, Some(10), Some(25), 22)));
        assert!(wrong(judge(30, Some(10), None, 22)));
        assert!(wrong(judge(30, None, None, 22)));
        // No snapshot follows, though the exported one does.
        assert!(wrong(judge(30, Some(10), None, 12)));
        // Above the change, or with a next one that is not.
        assert!(wrong(judge(30, Some(13), Some(15), 12)));
        assert!(wrong(judge(30, Some(10), Some(12), 12)));
        // The exported snapshot, or a newer one.
        assert!(good(judge_with(30, Some(20), None, 25, Some((20, 25)))));
        assert!(wrong(judge(30, Some(20), None, 25)), "no watermark says that none follows");
        assert!(wrong(judge_with(30, Some(20), None, 25, Some((20, 24)))), "the watermark does not reach the change");
        assert!(wrong(judge_with(30, Some(20), None, 25, Some((21, 30)))), "the watermark is about another snapshot");
        assert!(good(judge(30, Some(20), None, 20)), "the very change that made it needs no watermark");
        assert!(good(judge(30, Some(24), Some(27), 25)));
        assert_eq!(judge(22, None, None, 25), Verdict::Early(Sequence(22)));
        assert_eq!(judge(22, Some(20), None, 25), Verdict::Early(Sequence(22)));
        // It lags behind the exported snapshot, and says how far it knows.
        assert_eq!(judge(15, Some(10), None, 12), Verdict::Early(Sequence(15)));
        assert_eq!(judge(3, None, None, 5), Verdict::Early(Sequence(3)));
        // `TooOld`: the answer names the first snapshot, which cannot be above the exported one.
        assert_eq!(judge(30, None, Some(10), 5), Verdict::Good(Answer::TooOld { first: snapshot(10) }));
        assert!(wrong(judge(30, None, Some(25), 5)));
        assert!(wrong(judge(30, None, None, 5)));
        let other = Some(Pointer { commit: [9; 20].into(), ..snapshot(20) });
        let other = At { central: Sequence(30), at: other, next: None, watermark: Some(event((20, 30))) };
        assert!(wrong(super::judge(&other, Sequence(25), snapshot(20), signed)));
        let unsigned = At { at: Some(snapshot(20)), ..other };
        assert!(wrong(super::judge(&unsigned, Sequence(25), snapshot(20), |_| None)));
    }
}
