//! Watching the pointer in Consul, and deciding what to do about it.

use std::time::{Duration, Instant};

use conf_core::{
    api::Pointer,
    consul::{Consul, WatchIndex},
    daemon::chain,
    retry::Backoff,
};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{clock::random_up_to, snapshot::SnapshotServers, state::Agent};

/// 1 s: a server that is back is found again within this.
pub(crate) const SOON: Duration = Duration::from_secs(1);
/// 60 s: one question for the pointer waits so long for a change, so that an idle host sends one
/// request a minute.
const WAIT: Duration = Duration::from_secs(60);

/// Where pointers and snapshots come from.
pub(crate) struct Sources {
    /// Has the pointer.
    pub(crate) consul: Consul,
    /// The datacenter's authoritative key.
    pub(crate) key: String,
    pub(crate) servers: SnapshotServers,
}

/// The snapshot that the pointer names, and the time at which it was read.
pub(crate) type Wanted = Option<(Pointer, Instant)>;

/// Sends every pointer that is read. A missing or damaged one is reported, and never sent.
pub(crate) async fn watch(sources: &Sources, agent: &Agent, found: watch::Sender<Wanted>, stop: &CancellationToken) {
    let mut seen = WatchIndex::default();
    let mut backoff = Backoff::new(Duration::from_millis(50), SOON);
    loop {
        let answer = tokio::select! {
            () = stop.cancelled() => return,
            answer = sources.consul.watch(&sources.key, &mut seen, WAIT) => answer,
        };
        let pause = match answer {
            Ok(Some(entry)) => {
                agent.set_back("consul");
                backoff.reset();
                match std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse::<Pointer>().ok()) {
                    Some(Pointer { sequence, commit }) => {
                        agent.set_back("pointer");
                        let pointer = Pointer { sequence, commit };
                        agent.update(|view| view.status.pointer = Some(pointer));
                        let now = Instant::now();
                        found.send_if_modified(|wanted| {
                            let modified = wanted.is_none_or(|(before, _)| before != pointer);
                            *wanted = if modified { Some((pointer, now)) } else { *wanted };
                            modified
                        });
                    }
                    None => {
                        agent.set_away("pointer", &format!("the value of {} is not a pointer; ignored", sources.key));
                    }
                }
                continue;
            }
            Ok(None) => {
                agent.set_back("consul");
                // Watching a missing key would wake at every write to Consul, so this asks again
                // after a pause.
                agent.set_away("pointer", &format!("Consul has no key {}; waiting for it", sources.key));
                SOON / 2 + random_up_to(SOON / 2)
            }
            Err(error) => {
                agent.set_away("consul", &chain(&error));
                backoff.next_wait()
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

/// What to do about a pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Its snapshot is exported.
    Nothing,
    /// It is older than a snapshot that this host has taken.
    Late(String),
    /// It has the number of a snapshot that this host has taken, but another commit.
    Refuse(String),
    /// It is newer, or was taken and is not exported yet.
    Take,
}

/// Decides what to do about a pointer, given the exported snapshot and the newest one that was ever
/// taken.
pub(crate) fn decide(exported: Option<Pointer>, known: Option<Pointer>, pointer: Pointer) -> Decision {
    let Pointer { sequence, commit } = pointer;
    match known {
        Some(known) if sequence < known.sequence => Decision::Late(format!(
            "the pointer names #{sequence}, older than #{}, which this host has taken already; ignored",
            known.sequence
        )),
        Some(known) if sequence == known.sequence && commit != known.commit && !known.commit.is_zero() => {
            Decision::Refuse(format!(
                "the pointer names {} as #{sequence}, but this host has taken {} as #{sequence}; ignored",
                commit.short(),
                known.commit.short()
            ))
        }
        _ if exported == Some(pointer) => Decision::Nothing,
        _ => Decision::Take,
    }
}

#[cfg(test)]
mod tests {
    use libconf::name::{CommitId, Sequence};

    use super::*;

    fn commit(digit: char) -> CommitId {
        digit.to_string().repeat(40).parse().unwrap()
    }

    #[test]
    fn only_a_newer_pointer_is_taken() {
        let pointer = |sequence, digit| Pointer { sequence: Sequence(sequence), commit: commit(digit) };
        let at = |sequence, digit| Some(pointer(sequence, digit));
        let without_commit = Some(Pointer { sequence: Sequence(5), commit: CommitId::ZERO });
        let refused = |decision| matches!(decision, Decision::Refuse(_));
        let late = |decision| matches!(decision, Decision::Late(_));
        assert_eq!(decide(None, None, pointer(1, 'a')), Decision::Take);
        assert_eq!(decide(at(5, 'a'), at(5, 'a'), pointer(5, 'a')), Decision::Nothing);
        assert_eq!(decide(at(5, 'a'), at(5, 'a'), pointer(6, 'b')), Decision::Take);
        // Taken, but not exported yet, because of a restart or a full disk.
        assert_eq!(decide(at(5, 'a'), at(6, 'b'), pointer(6, 'b')), Decision::Take);
        assert_eq!(decide(None, at(6, 'b'), pointer(6, 'b')), Decision::Take);
        assert!(late(decide(at(5, 'a'), at(5, 'a'), pointer(4, 'c'))));
        assert!(late(decide(at(5, 'a'), at(6, 'b'), pointer(5, 'a'))));
        assert!(refused(decide(at(5, 'a'), at(5, 'a'), pointer(5, 'c'))));
        // The commit was lost: the number alone still keeps older snapshots out.
        assert!(late(decide(None, without_commit, pointer(4, 'a'))));
        assert_eq!(decide(None, without_commit, pointer(5, 'a')), Decision::Take);
    }
}
