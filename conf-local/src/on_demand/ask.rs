//! Asking servers which snapshot was the newest at a change: the conf-slaves, and soon the central server too.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use conf_core::{
    api::{At, Pointer, WatermarkEvent},
    daemon::chain,
    upstream::Hedge,
};
use libconf::name::Sequence;
use tokio::time::timeout;

use crate::on_demand::Demand;
use crate::state::central::Watermark;

/// How long one question lets a conf-slave wait for its watermark; then it is asked again.
const WAIT: Duration = Duration::from_secs(10);
/// A server that has not answered by then is not waited for alone.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is thought of servers while one change is looked for.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    /// Answered what is not so; not asked again. With the reason.
    refuted: BTreeMap<String, String>,
    /// What they named could not be brought, for whatever reason; asked after all others.
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
pub(crate) enum Found {
    /// The newest snapshot not above the change, and the one after it; none after the one that this very change made.
    At { at: Pointer, next: Option<Pointer> },
    /// The newest snapshot of all, of which conf-master has signed that nothing follows up to the change.
    Newest(Watermark),
    /// There was none yet: this one is the first.
    TooOld { first: Pointer },
}

/// What came of it.
pub(crate) enum Asked {
    /// The first good answer, and whose it is.
    Found(String, Found),
    /// No good answer; what is missing.
    Nobody(String),
}

impl Demand {
    /// Asks one after the other, or several when one takes long, for the first answer that does not contradict what is exported.
    pub(crate) async fn ask(&self, change: Sequence, exported: Pointer, doubts: &mut Doubts) -> Asked {
        let datacenter = self.agent.view().status.datacenter.clone();
        let path = format!("api/v1/at?datacenter={datacenter}&sequence={change}&timeout={}", WAIT.as_secs());
        let mut servers: Vec<_> = self.surrogates.in_order().into_iter().chain(self.central.in_order()).collect();
        servers.retain(|server| !doubts.refuted.contains_key(server.url().as_str()));
        servers.sort_by_key(|server| doubts.last.contains(server.url().as_str()));
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
            let proven = |event: &WatermarkEvent| Watermark::proven(event, &datacenter, &self.keys).ok();
            match answer.map(|answer| judge(&answer, change, exported, proven)) {
                Ok(Judged::Good(found)) => return Asked::Found(server, found),
                Ok(Judged::Early(known)) => missing.push(format!("{server} knows of changes up to {known} only")),
                Ok(Judged::Wrong(words)) => {
                    tracing::warn!(server, %change, reason = words, "a server's answer contradicts what is signed; it is passed over");
                    doubts.refute(server, words.to_owned());
                }
                Err(words) => missing.push(words),
            }
        }
        missing.extend(doubts.refuted.iter().map(|(server, words)| format!("{server} answers wrongly: {words}")));
        Asked::Nobody(missing.join("; "))
    }
}

/// What an answer is worth by itself.
#[derive(Debug, PartialEq, Eq)]
enum Judged {
    Good(Found),
    /// It knows up to there.
    Early(Sequence),
    Wrong(&'static str),
}

/// Looks whether an answer can be right, beside what is exported: that one is signed, and a snapshot of this datacenter.
/// `proven` takes a watermark that is signed for it.
fn judge(
    answer: &At,
    change: Sequence,
    exported: Pointer,
    proven: impl Fn(&WatermarkEvent) -> Option<Watermark>,
) -> Judged {
    let At { central, at, next, ref watermark } = *answer;
    let contradicts = |named: Pointer| named.sequence == exported.sequence && named.commit != exported.commit;
    if next.is_some_and(|next| next.sequence <= change) {
        return Judged::Wrong("it names a snapshot as the next one that is not above the change");
    }
    if at.is_some_and(|at| at.sequence > change) {
        return Judged::Wrong("it names a snapshot above the change");
    }
    if at.is_some_and(contradicts) || next.is_some_and(contradicts) {
        return Judged::Wrong("it names another snapshot of the number that is exported here");
    }
    // What it says is true as far as it knows, and it does not know the change, or what is exported here.
    let known = central.max(at.map_or(central, |at| at.sequence));
    if next.is_none() && known < change.max(exported.sequence) {
        return Judged::Early(known);
    }
    let between = |from: Option<Pointer>| {
        from.is_none_or(|at| at.sequence < exported.sequence)
            && next.is_none_or(|next| exported.sequence < next.sequence)
    };
    match (at, next) {
        _ if between(at) => Judged::Wrong("it passes over the snapshot that is exported here"),
        (Some(at), None) if at.sequence < change => {
            let tells = |watermark: &Watermark| watermark.snapshot == at && watermark.central >= change;
            match watermark.as_ref().and_then(proven).filter(tells) {
                Some(watermark) => Judged::Good(Found::Newest(watermark)),
                None => Judged::Wrong("no signed watermark says that nothing follows"),
            }
        }
        (Some(at), next) => Judged::Good(Found::At { at, next }),
        (None, Some(first)) => Judged::Good(Found::TooOld { first }),
        (None, None) => Judged::Wrong("it knows of no snapshot at all"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(sequence: u64) -> Pointer {
        Pointer { sequence: Sequence(sequence), commit: [u8::try_from(sequence).unwrap(); 20].into() }
    }

    #[test]
    fn what_an_answer_is_worth() {
        // What is exported is 20. What is signed says what is here.
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
        assert!(good(judge_with(30, Some(20), None, 25, Some((20, 25)))));
        assert!(wrong(judge(30, Some(20), None, 25)), "nobody has signed that nothing follows");
        assert!(wrong(judge_with(30, Some(20), None, 25, Some((20, 24)))), "it does not reach as far");
        assert!(wrong(judge_with(30, Some(20), None, 25, Some((21, 30)))), "it is another one's");
        assert!(good(judge(30, Some(20), None, 20)), "the change that made it");
        assert!(good(judge(30, Some(24), Some(27), 25)));
        assert_eq!(judge(22, None, None, 25), Judged::Early(Sequence(22)));
        assert_eq!(judge(22, Some(20), None, 25), Judged::Early(Sequence(22)));
        // It lags behind what is exported here, and says how far it knows.
        assert_eq!(judge(15, Some(10), None, 12), Judged::Early(Sequence(15)));
        assert_eq!(judge(3, None, None, 5), Judged::Early(Sequence(3)));
        // None so old, with the first one, which cannot be above what is exported; or without any.
        assert_eq!(judge(30, None, Some(10), 5), Judged::Good(Found::TooOld { first: snapshot(10) }));
        assert!(wrong(judge(30, None, Some(25), 5)));
        assert!(wrong(judge(30, None, None, 5)));
        let other = Some(Pointer { commit: [9; 20].into(), ..snapshot(20) });
        let other = At { central: Sequence(30), at: other, next: None, watermark: Some(event((20, 30))) };
        assert!(wrong(super::judge(&other, Sequence(25), snapshot(20), signed)));
        let unsigned = At { at: Some(snapshot(20)), ..other };
        assert!(wrong(super::judge(&unsigned, Sequence(25), snapshot(20), |_| None)));
    }
}
