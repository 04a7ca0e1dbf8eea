//! The pointer as Consul has it, and what it asks of this host.

use std::time::{Duration, Instant};

use conf_core::{api::Pointer, consul::Seen, daemon::chain, retry::Backoff};
use libconf::name::{CommitId, Sequence};
use rand::Rng;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::follow::{SOON, Sources};
use crate::{state::PointerSeen, transaction::Audience};

/// How long one question for the pointer waits for a change: one request a minute from an idle host.
const WAIT: Duration = Duration::from_secs(60);

/// A pointer as it was read, and when.
pub(crate) type Wanted = Option<(Pointer, Instant)>;

/// Sends every pointer that is read. An absent or damaged one is told, and never sent.
pub(crate) async fn watch(
    sources: &Sources,
    audience: &Audience,
    found: watch::Sender<Wanted>,
    stop: &CancellationToken,
) {
    let mut seen = Seen::default();
    let mut backoff = Backoff::new(Duration::from_millis(50), SOON);
    loop {
        let answer = tokio::select! {
            () = stop.cancelled() => return,
            answer = sources.consul.watch(&sources.key, &mut seen, WAIT) => answer,
        };
        let pause = match answer {
            Ok(Some(entry)) => {
                audience.back("consul");
                backoff.reset();
                match std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse::<Pointer>().ok()) {
                    Some(pointer) => {
                        audience.back("pointer");
                        let (sequence, commit) = (pointer.sequence, pointer.commit);
                        audience.agent.update(|view| view.status.pointer = Some(PointerSeen { sequence, commit }));
                        let now = Instant::now();
                        found.send_if_modified(|wanted| {
                            let modified = wanted.is_none_or(|(before, _)| before != pointer);
                            *wanted = if modified { Some((pointer, now)) } else { *wanted };
                            modified
                        });
                    }
                    None => audience.away("pointer", format!("the value of {} is not a pointer; ignored", sources.key)),
                }
                continue;
            }
            Ok(None) => {
                audience.back("consul");
                // Watching an absent key wakes at every write of anybody, so it is asked for now and then.
                audience.away("pointer", format!("Consul has no key {}; waiting for it", sources.key));
                SOON / 2 + rand::rng().random_range(Duration::ZERO..SOON / 2)
            }
            Err(error) => {
                audience.away("consul", chain(&error));
                backoff.next_wait()
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

/// What a pointer asks of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It is what is exported.
    Nothing,
    /// It is older than what this host has taken.
    Late(String),
    /// It is another one of the same number as what this host has taken.
    Refuse(String),
    /// It is newer, or taken already and not exported yet.
    Take,
}

/// Decides what to do about a pointer, by what is exported and by the newest snapshot that was ever taken.
pub(crate) fn decide(
    exported: Option<(Sequence, CommitId)>,
    known: Option<(Sequence, CommitId)>,
    pointer: Pointer,
) -> Decision {
    let wanted = (pointer.sequence, pointer.commit);
    match known {
        Some((sequence, _)) if wanted.0 < sequence => Decision::Late(format!(
            "the pointer names #{}, older than #{sequence}, which this host has taken already; ignored",
            wanted.0
        )),
        Some((sequence, commit)) if wanted.0 == sequence && wanted.1 != commit && !commit.is_zero() => {
            Decision::Refuse(format!(
                "the pointer names {} as #{sequence}, but this host has taken {} as #{sequence}; ignored",
                wanted.1.short(),
                commit.short()
            ))
        }
        _ if exported == Some(wanted) => Decision::Nothing,
        _ => Decision::Take,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(digit: char) -> CommitId {
        digit.to_string().repeat(40).parse().unwrap()
    }

    #[test]
    fn what_a_pointer_asks() {
        let at = |sequence, digit| Some((Sequence(sequence), commit(digit)));
        let pointer = |sequence, digit| Pointer { sequence: Sequence(sequence), commit: commit(digit) };
        let refused = |decision| matches!(decision, Decision::Refuse(_));
        let late = |decision| matches!(decision, Decision::Late(_));
        assert_eq!(decide(None, None, pointer(1, 'a')), Decision::Take);
        assert_eq!(decide(at(5, 'a'), at(5, 'a'), pointer(5, 'a')), Decision::Nothing);
        assert_eq!(decide(at(5, 'a'), at(5, 'a'), pointer(6, 'b')), Decision::Take);
        // Taken, but not exported yet: a restart in between, or a disk that was full.
        assert_eq!(decide(at(5, 'a'), at(6, 'b'), pointer(6, 'b')), Decision::Take);
        assert_eq!(decide(None, at(6, 'b'), pointer(6, 'b')), Decision::Take);
        assert!(late(decide(at(5, 'a'), at(5, 'a'), pointer(4, 'c'))));
        assert!(late(decide(at(5, 'a'), at(6, 'b'), pointer(5, 'a'))));
        assert!(refused(decide(at(5, 'a'), at(5, 'a'), pointer(5, 'c'))));
        // Its own commit was lost: the number alone must not bring another one back below it.
        assert!(late(decide(None, Some((Sequence(5), CommitId::ZERO)), pointer(4, 'a'))));
        assert_eq!(decide(None, Some((Sequence(5), CommitId::ZERO)), pointer(5, 'a')), Decision::Take);
    }
}
