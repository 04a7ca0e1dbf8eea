//! Follows the central server: listens to its events, and has the mirror fetch the snapshots that
//! they name.

use std::{mem, sync::Arc, time::Duration};

use conf_core::{
    access::AccessEvent,
    api::{
        AbsentEvent, DatacenterStatus, DeletedEvent, FreshnessEvent, KeysEvent, Pointer, RelayEvent, SnapshotEvent,
        WatermarkEvent,
    },
    daemon::{self, chain},
    retry::Backoff,
    sign::KeptKeys,
    upstream::{Event, Events, UpstreamError},
};
use tokio::time::{Instant, timeout};

use crate::{
    above::{Above, Absence},
    access::Access,
    freshness::Heard,
    mirror::Mirror,
    problems::{CENTRAL_HISTORY, Problems, REFUSED_SNAPSHOT},
    reports::HostReports,
};

/// The topic of a damaged repository.
const REPOSITORY: &str = "repository";

/// The topic of a datacenter that the central server does not have.
pub(crate) const DATACENTER: &str = "datacenter";

/// 2.5 s, a heartbeat and some: a stream that said nothing for so long since it was opened is
/// helped by a question for the newest snapshot. A proxy may hold the events back.
const QUIET: Duration = Duration::from_millis(2500);
/// 2 s for the answer to it.
const ASKING: Duration = Duration::from_secs(2);
/// Fetches in a row that a newer snapshot may replace: one that is slow must come to an end.
const MOST_OVERTAKEN: u32 = 3;

/// 5 s until the next look at a server that leads back here.
const CIRCLE: Duration = Duration::from_secs(5);

/// The topic of the connection to the central server.
const CENTRAL: &str = "central";
/// The topic of the list of who may ask.
const ACCESS: &str = "access";
/// What is said where conf-master does not send it.
const UNTOLD: &str = "the central server does not say who may ask this slave, so that no host may: the token of \
                      --token-file must be one for a conf-slave, which `conf-master token add NAME --slave ID/VERSION` makes; \
                      with another one in the file, start this slave again. An earlier conf-master tells no slave: upgrade it \
                      first";
/// The topic of statements about keys.
const KEYS: &str = "keys";
/// The topic of a stream of events that is silent.
const EVENTS: &str = "events";

/// The topic of a central server that is a conf-slave, and too far from conf-master.
const RELAY: &str = "relay";

/// Where the words of conf-master go, most of which it has signed.
#[derive(Clone, Debug)]
pub(crate) struct Statements {
    /// Who may ask this slave.
    pub(crate) access: Arc<Access>,
    /// The keys that are trusted.
    pub(crate) keys: Arc<KeptKeys>,
    /// When conf-master was heard.
    pub(crate) heard: Arc<Heard>,
    /// What is known of the servers above.
    pub(crate) above: Arc<Above>,
}

/// Listens to the central server's events, which tell the mirror the newest pointer and watermark.
pub(crate) async fn listen(
    mirror: Arc<Mirror>,
    reports: Arc<HostReports>,
    statements: Statements,
    problems: Arc<Problems>,
) {
    // conf-master passes over the last word, which is for a conf-slave in its place.
    let path = format!("api/v1/events?datacenter={}&relay=true", mirror.datacenter());
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    loop {
        // Not even the number of the served snapshot is named: another history may have it too.
        let failed = match mirror.upstreams.events(&path, None).await {
            Ok(events) => {
                match read(events.with_lists(), &mirror, (&reports, &statements), &problems, &mut backoff).await {
                    Ended::Broken(error) => error,
                    Ended::TooFar => {
                        tokio::time::sleep(backoff.after(Some(CIRCLE))).await;
                        continue;
                    }
                }
            }
            // A proxy may hold back even the head of the answer.
            Err(error @ UpstreamError::Silent { .. }) => {
                let path = newest_path(&mirror);
                if take_answer(mirror.upstreams.get_json(&path), (&mirror, &statements), &problems).await {
                    problems.clear(CENTRAL, "the central server is back");
                    continue;
                }
                error
            }
            Err(error) => error,
        };
        problems.set(CENTRAL, chain(&failed));
        tokio::time::sleep(backoff.after(failed.retry_after())).await;
    }
}

/// Why a stream of events is read no more.
enum Ended {
    Broken(UpstreamError),
    /// Its server is a conf-slave, and too far from conf-master.
    TooFar,
}

/// Takes the events of one stream until it breaks. While it is silent, asks for the newest
/// snapshot.
async fn read(
    mut events: Events,
    mirror: &Mirror,
    (reports, statements): (&HostReports, &Statements),
    problems: &Problems,
    backoff: &mut Backoff,
) -> Ended {
    let (mut is_first, mut is_way_known) = (true, false);
    loop {
        let heard = match events.next_within(QUIET).await {
            Ok(Some(event)) => {
                problems.clear(EVENTS, "the events of the central server arrive");
                if let Some(through) = conf_slaves_above(&event, is_way_known) {
                    is_way_known = true;
                    if let Err(error) = statements.above.open(through) {
                        problems.clear(CENTRAL, "the central server is back");
                        problems.set(RELAY, format!("{} is no way to conf-master: {error}", events.upstream().url()));
                        events.upstream().report_late();
                        return Ended::TooFar;
                    }
                    problems.clear(RELAY, "there is a way to conf-master");
                    // conf-master may have started again without them.
                    reports.resend_all();
                }
                take(&event, mirror, statements, problems).await;
                true
            }
            Err(error) => return Ended::Broken(error),
            Ok(None) => take_answer(events.ask(&newest_path(mirror)), (mirror, statements), problems).await,
        };
        if heard {
            if mem::take(&mut is_first) {
                reports.resend_all();
            }
            backoff.reset();
            problems.clear(CENTRAL, "the central server is back");
        }
    }
}

/// The number of conf-slaves on the way that a stream comes, where an event says it: its server, if
/// that is one, says so before all else.
fn conf_slaves_above(event: &Event, is_way_known: bool) -> Option<u32> {
    match event.name.as_str() {
        // What cannot be read is of a later version, and too far.
        "relay" => Some(serde_json::from_str(&event.data).map_or(u32::MAX, |RelayEvent { tiers }| tiers)),
        "heartbeat" => None,
        _ => (!is_way_known).then_some(0),
    }
}

fn newest_path(mirror: &Mirror) -> String {
    format!("api/v1/datacenters/{}", mirror.datacenter())
}

/// Takes the answer to a question for the newest snapshot, which was asked since the stream of
/// events is silent. Tells whether there is one.
async fn take_answer(
    question: impl Future<Output = Result<DatacenterStatus, UpstreamError>>,
    (mirror, statements): (&Mirror, &Statements),
    problems: &Problems,
) -> bool {
    let Ok(Ok(newest)) = timeout(ASKING, question).await else { return false };
    let words = format!(
        "the central server answers, but its stream of events is silent; it is asked every {} s. Does a proxy on the \
         way hold answers back? Switch its buffering off",
        QUIET.as_secs_f32()
    );
    problems.set(EVENTS, words);
    ask_for_keys(mirror, &statements.keys, problems).await;
    let path = format!("{}/access", newest_path(mirror));
    // An older central server says nothing of it.
    if let Ok(Ok(statement)) = timeout(ASKING, mirror.upstreams.get_json(&path)).await {
        problems.report(
            ACCESS,
            ignored(&statements.access, statement).await,
            "the central server says who may ask this slave",
        );
    }
    let path = format!("{}/freshness", newest_path(mirror));
    if let Ok(Ok(statement)) = timeout(ASKING, mirror.upstreams.get_json(&path)).await {
        take_freshness(&statements.heard, Ok(statement), problems);
    }
    take_newest(Pointer { sequence: newest.sequence, commit: newest.commit }, mirror, (statements, problems));
    true
}

async fn take(event: &Event, mirror: &Mirror, statements: &Statements, problems: &Problems) {
    match event.name.as_str() {
        "snapshot" => match serde_json::from_str(&event.data) {
            Ok(event) => take_snapshot(&event, mirror, (statements, problems)),
            Err(error) => tracing::warn!(%error, "an unreadable event is ignored"),
        },
        "deleted" => match serde_json::from_str::<DeletedEvent>(&event.data) {
            Ok(event) if event.datacenter == *mirror.datacenter() => {
                set_absence(Some(Absence::Deleted(event)), statements, problems);
            }
            _ => tracing::warn!("an unreadable event is ignored"),
        },
        "absent" => match serde_json::from_str::<AbsentEvent>(&event.data) {
            Ok(event) if event.datacenter == *mirror.datacenter() => {
                set_absence(Some(Absence::Unknown(event)), statements, problems);
            }
            _ => tracing::warn!("an unreadable event is ignored"),
        },
        "access" => {
            let problem = match serde_json::from_str(&event.data) {
                Ok(statement) => ignored(&statements.access, statement).await,
                Err(error) => Some(format!("the central server says unreadably who may ask this slave: {error}")),
            };
            problems.report(ACCESS, problem, "the central server says who may ask this slave");
        }
        "keys" => match serde_json::from_str(&event.data) {
            Ok(keys) => {
                take_keys(&statements.keys, keys, problems).await;
            }
            Err(error) => {
                problems.set(KEYS, format!("the central server sends unreadable statements about keys: {error}"));
            }
        },
        "watermark" => {
            set_absence(None, statements, problems);
            // The list comes before the first watermark.
            if statements.access.newest().is_none() {
                problems.set(ACCESS, UNTOLD.to_owned());
            }
            let problem = match serde_json::from_str(&event.data) {
                Ok(watermark) => {
                    let served = mirror.served().map(|served| served.pointer());
                    let forked = forked(&watermark, served);
                    let ignored = mirror.take_watermark(watermark).err();
                    let ignored =
                        ignored.map(|error| format!("a watermark of the central server is ignored: {}", chain(&error)));
                    ignored.or(forked)
                }
                Err(error) => Some(format!("the central server sends unreadable watermarks: {error}")),
            };
            problems.report("watermarks", problem, "the central server sends good watermarks");
        }
        "freshness" => take_freshness(&statements.heard, serde_json::from_str(&event.data), problems),
        // Heartbeats, what was read already, and events of later versions.
        _ => {}
    }
}

fn take_freshness(heard: &Heard, statement: serde_json::Result<FreshnessEvent>, problems: &Problems) {
    let problem = match statement {
        Ok(statement) => heard
            .take(statement)
            .err()
            .map(|error| format!("a freshness statement of the central server is ignored: {}", chain(&error))),
        Err(error) => Some(format!("the central server sends unreadable freshness statements: {error}")),
    };
    problems.report("freshness statements", problem, "the central server sends good freshness statements");
}

/// Says that a watermark names another snapshot under the number of the served one.
fn forked(watermark: &WatermarkEvent, served: Option<Pointer>) -> Option<String> {
    let newest = watermark.newest();
    let served = served.filter(|served| served.sequence == newest.sequence && served.commit != newest.commit)?;
    Some(format!(
        "the central server has signed {} as #{}, and this slave serves {}; are there two central repositories with one key?",
        newest.commit.short(),
        newest.sequence,
        served.commit.short()
    ))
}

/// Takes who may ask this slave, and says why that is ignored, if it is.
async fn ignored(access: &Arc<Access>, statement: AccessEvent) -> Option<String> {
    let access = Arc::clone(access);
    let refused = daemon::blocking(move || access.take(statement)).await.err();
    refused.map(|error| format!("who may ask this slave, as the central server says, is ignored: {}", chain(&error)))
}

/// Asks the central servers for the statements about keys. Tells whether there was a new one.
async fn ask_for_keys(mirror: &Mirror, keys: &Arc<KeptKeys>, problems: &Problems) -> bool {
    // An older central server has none.
    match timeout(ASKING, mirror.upstreams.get_json("api/v1/keys")).await {
        Ok(Ok(offered)) => take_keys(keys, offered, problems).await,
        _ => false,
    }
}

/// Follows statements about keys. Tells whether there was a new one.
async fn take_keys(keys: &Arc<KeptKeys>, offered: KeysEvent, problems: &Problems) -> bool {
    let keys = Arc::clone(keys);
    let taken = daemon::blocking(move || keys.take(&offered.statements)).await;
    let problem = taken.as_ref().err().map(|error| {
        format!(
            "what the central server says of its keys is not followed, nor anything that a new one signs: {}",
            chain(error)
        )
    });
    problems.report(KEYS, problem, "the central server says good things of its keys");
    taken.unwrap_or_default()
}

/// Says that the central server has no such datacenter, and which it has.
fn words_of(event: &AbsentEvent) -> String {
    let mut known: Vec<String> = event.known.iter().map(ToString::to_string).collect();
    if event.more > 0 {
        known.push(format!("{} more", event.more));
    }
    let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
    format!(
        "the central server has no datacenter {0}; it has: {known}. Name one of them with --datacenter, or push the branch \
         datacenters/{0}: this slave waits for it",
        event.datacenter
    )
}

/// Notes whether the central server has the datacenter. Nothing else follows from it: this slave
/// and its hosts keep the last snapshot.
fn set_absence(absence: Option<Absence>, statements: &Statements, problems: &Problems) {
    let problem = absence.as_ref().map(|absence| match absence {
        Absence::Unknown(event) => words_of(event),
        Absence::Deleted(DeletedEvent { datacenter, .. }) => format!(
            "datacenter {datacenter} was deleted on the central server; this slave goes on to serve its last snapshot, and \
             hosts keep their files. Push the branch datacenters/{datacenter} again, or retire this slave and its hosts"
        ),
    });
    statements.above.set_absence(absence);
    problems.report(DATACENTER, problem, "the central server has the datacenter again");
}

fn take_snapshot(event: &SnapshotEvent, mirror: &Mirror, (statements, problems): (&Statements, &Problems)) {
    if event.datacenter != *mirror.datacenter() {
        tracing::warn!(datacenter = %event.datacenter, "an event of another datacenter is ignored");
        return;
    }
    take_newest(Pointer { sequence: event.sequence, commit: event.commit }, mirror, (statements, problems));
}

/// Has the mirror fetch the newest snapshot of the central server, unless it is older than what
/// this slave serves.
fn take_newest(offered: Pointer, mirror: &Mirror, (statements, problems): (&Statements, &Problems)) {
    set_absence(None, statements, problems);
    let highest = mirror.highest();
    let is_behind = offered.sequence < highest;
    if !is_behind {
        mirror.want(offered);
    }
    let problem = is_behind.then(|| {
        format!(
            "the central server's newest snapshot is {offered}, this slave has served {highest} already and keeps it; \
             was the central repository put back to an older state?"
        )
    });
    problems.report(CENTRAL_HISTORY, problem, "the central server has caught up with this slave");
}

/// Fetches every wanted snapshot. After a suspicion it examines the mirror, and clones a damaged
/// one anew.
pub(crate) async fn fetch_wanted(mirror: Arc<Mirror>, statements: Statements, problems: Arc<Problems>) {
    const TOPIC: &str = "mirror";
    let mut wanted = mirror.subscribe_wanted();
    wanted.mark_changed();
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    let mut damaged = false;
    let mut overtaken = 0;
    let mut again: Option<Instant> = None;
    loop {
        let at = again.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(at), if again.is_some() => {}
            () = mirror.suspicion.notified() => damaged = damaged || is_damaged(&mirror, &problems).await,
        }
        let newest = *wanted.borrow_and_update();
        let may_end = overtaken < MOST_OVERTAKEN;
        let work = async {
            if damaged {
                mirror.clone_anew().await?;
            }
            match newest {
                Some(pointer) if pointer.sequence >= mirror.highest() => mirror.advance(pointer, may_end).await,
                _ => Ok(()),
            }
        };
        let done = work.await;
        overtaken = if done.is_err() && wanted.has_changed().unwrap_or_default() { overtaken + 1 } else { 0 };
        match done {
            Ok(()) => {
                (damaged, again) = (false, None);
                backoff.reset();
                problems.clear(REFUSED_SNAPSHOT, "a snapshot of the central server is served again");
                problems.clear(TOPIC, "the mirror is whole and up to date");
                problems.clear(REPOSITORY, "the local repository is whole again");
            }
            Err(error) => {
                mirror.opened.forget();
                if error.is_refusal() {
                    problems.set(REFUSED_SNAPSHOT, chain(&error));
                } else {
                    problems.set(TOPIC, chain(&error));
                }
                // It may be signed by a key of which this slave has not heard.
                let is_key_new = error.is_refusal() && ask_for_keys(&mirror, &statements.keys, &problems).await;
                let wait = if is_key_new { Duration::ZERO } else { backoff.next_wait() };
                again = Some(Instant::now() + wait);
                damaged = damaged || error.may_be_damage() && is_damaged(&mirror, &problems).await;
            }
        }
    }
}

async fn is_damaged(mirror: &Arc<Mirror>, problems: &Problems) -> bool {
    mirror.opened.forget();
    let examined = Arc::clone(mirror);
    let reason = daemon::blocking(move || examined.examine()).await.err();
    if let Some(reason) = &reason {
        problems.set(REPOSITORY, format!("the local repository is damaged and is cloned anew: {reason}"));
    }
    reason.is_some()
}

#[cfg(test)]
mod tests {
    use libconf::name::Sequence;

    use super::*;

    #[test]
    fn two_snapshots_of_one_number_are_said() {
        let at = |sequence: u64, digit: u8| Pointer { sequence: Sequence(sequence), commit: [digit; 20].into() };
        let watermark = WatermarkEvent {
            central: Sequence(9),
            datacenter: "us-west/v1".parse().unwrap(),
            snapshot: Sequence(5),
            commit: [5; 20].into(),
            signature: String::new(),
        };
        assert_eq!(forked(&watermark, None), None);
        assert_eq!(forked(&watermark, Some(at(5, 5))), None);
        assert_eq!(forked(&watermark, Some(at(4, 4))), None);
        let words = forked(&watermark, Some(at(5, 4))).unwrap();
        assert!(words.contains("0505050") && words.contains("serves 0404040"), "{words}");
    }
}
