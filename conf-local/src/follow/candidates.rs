//! The pointers that Consul and conf-slaves name, and which of them is wanted.
//!
//! The newest one is wanted. None is believed: a snapshot is verified when it is here. So one that
//! cannot be taken must not hold back the others, whoever names it.

use std::{collections::BTreeMap, time::Instant};

use conf_core::api::Pointer;
use libconf::name::Sequence;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::state::Agent;

/// The snapshot that a pointer names, and the time at which it was first heard of.
pub(crate) type Wanted = Option<(Pointer, Instant)>;

/// The pointers that are named now.
pub(crate) struct Candidates {
    agent: Agent,
    named: Mutex<Named>,
    wanted: watch::Sender<Wanted>,
    newest: watch::Sender<Sequence>,
}

#[derive(Default)]
struct Named {
    by: BTreeMap<String, Word>,
    /// Those that could not be taken, the one that failed last at the end. Each is named by a
    /// source.
    failed: Vec<Pointer>,
}

/// What a source names.
struct Word {
    pointer: Pointer,
    since: Instant,
    /// What is wrong with it.
    problem: Option<String>,
}

impl Candidates {
    pub(crate) fn new(agent: Agent) -> Self {
        let (wanted, newest) = (watch::Sender::new(None), watch::Sender::default());
        Candidates { agent, named: Mutex::default(), wanted, newest }
    }

    /// Subscribes to the wanted pointer.
    pub(crate) fn wanted(&self) -> watch::Receiver<Wanted> {
        self.wanted.subscribe()
    }

    /// Subscribes to the highest sequence that a source names.
    pub(crate) fn newest(&self) -> watch::Receiver<Sequence> {
        self.newest.subscribe()
    }

    /// Takes what a source names now in place of what it named before.
    pub(crate) fn name(&self, source: &str, pointer: Pointer) {
        let mut named = self.named.lock();
        let before = named.by.get(source).map(|word| word.pointer);
        if before == Some(pointer) {
            return;
        }
        let backwards = before.filter(|before| before.sequence > pointer.sequence);
        let problem = backwards.map(|before| {
            format!(
                "it names #{} after #{}, and no host goes back; was it put back to an older state? The next change ends \
                 this",
                pointer.sequence, before.sequence
            )
        });
        named.by.insert(source.to_owned(), Word { pointer, since: Instant::now(), problem });
        let Named { by, failed } = &mut *named;
        failed.retain(|failed| by.values().any(|word| word.pointer == *failed));
        let newest = by.values().map(|word| word.pointer.sequence).max().unwrap_or_default();
        self.newest.send_if_modified(|now| std::mem::replace(now, newest) != newest);
        self.choose(&named, false);
    }

    /// Notes that a pointer was dealt with; chooses what comes next.
    pub(crate) fn took(&self, pointer: Pointer) {
        let mut named = self.named.lock();
        named.failed.retain(|failed| *failed != pointer);
        self.choose(&named, true);
    }

    /// Notes that a pointer could not be taken; chooses another one, if there is one that was not
    /// tried. `refused` says why it can never be taken.
    pub(crate) fn failed(&self, pointer: Pointer, refused: Option<&str>) {
        let mut named = self.named.lock();
        named.failed.retain(|failed| *failed != pointer);
        let mut is_named = false;
        for word in named.by.values_mut().filter(|word| word.pointer == pointer) {
            is_named = true;
            word.problem = refused.map(str::to_owned).or_else(|| word.problem.take());
        }
        if is_named {
            named.failed.push(pointer);
        }
        self.choose(&named, false);
    }

    /// Chooses the pointer whose turn it is to be tried again.
    pub(crate) fn again(&self) {
        self.choose(&self.named.lock(), true);
    }

    /// Shows what is wrong with each source's word, while it says it.
    fn show_problems(&self, named: &Named, exported: Option<Pointer>) {
        for (source, word) in &named.by {
            match fork(word.pointer, exported).or_else(|| word.problem.clone()) {
                Some(problem) => self.agent.set_away(&topic_of(source), &problem),
                None => self.agent.set_back(&topic_of(source)),
            }
        }
    }

    /// Sends the wanted pointer if it is another one.
    fn choose(&self, named: &Named, again: bool) {
        let exported = self.agent.view().exported.as_ref().map(|exported| exported.snapshot());
        self.show_problems(named, exported);
        let present = (*self.wanted.borrow()).map(|(pointer, _)| pointer);
        let sequence = exported.map_or(Sequence::default(), |exported| exported.sequence);
        let Some(pointer) = choose(named, sequence, present, again) else { return };
        let of = named.by.iter().filter(|(_, word)| word.pointer == pointer);
        let Some((source, Word { since, .. })) = of.min_by_key(|(_, word)| word.since) else { return };
        self.agent.update(|view| {
            view.status.pointer = Some(pointer);
            view.status.pointer_from = Some(source.clone());
        });
        self.wanted.send_if_modified(|wanted| {
            let modified = present != Some(pointer);
            if modified {
                *wanted = Some((pointer, *since));
            }
            modified
        });
    }
}

/// Says that a pointer names another snapshot of the exported number.
fn fork(pointer: Pointer, exported: Option<Pointer>) -> Option<String> {
    let exported = exported.filter(|exported| exported.sequence == pointer.sequence && *exported != pointer)?;
    Some(format!(
        "it names {} as #{}, but this host has taken {} as #{}; ignored. Are there two central repositories with one key?",
        pointer.commit.short(),
        pointer.sequence,
        exported.commit.short(),
        exported.sequence
    ))
}

/// The name under which the status shows what is wrong with a source's pointer.
fn topic_of(source: &str) -> String {
    format!("pointer of {source}")
}

/// Chooses the newest pointer that did not fail. Without one that is newer than the export, those
/// that failed have their turn `again`, the one that failed longest ago first.
fn choose(named: &Named, exported: Sequence, present: Option<Pointer>, again: bool) -> Option<Pointer> {
    let all = || named.by.values().map(|word| word.pointer);
    // Of two with one number the present one stays, so that both are not tried in turns.
    let untried = all()
        .filter(|pointer| !named.failed.contains(pointer))
        .max_by_key(|pointer| (pointer.sequence, present == Some(*pointer)));
    if let Some(untried) = untried.filter(|pointer| pointer.sequence > exported) {
        return Some(untried);
    }
    let failed = named.failed.iter().copied().find(|pointer| pointer.sequence > exported);
    let present = present.filter(|present| all().any(|pointer| pointer == *present));
    match failed {
        Some(failed) if again || present.is_none() => Some(failed),
        Some(_) => present,
        None => untried.or(present).or_else(|| named.failed.last().copied()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointer(sequence: u64, digit: u8) -> Pointer {
        Pointer { sequence: Sequence(sequence), commit: [digit; 20].into() }
    }

    fn named(by: &[Pointer], failed: &[Pointer]) -> Named {
        let by = by.iter().enumerate().map(|(source, pointer)| (source.to_string(), *pointer));
        let by = by.map(|(source, pointer)| (source, Word { pointer, since: Instant::now(), problem: None }));
        Named { by: by.collect(), failed: failed.to_vec() }
    }

    #[test]
    fn the_newest_is_wanted_and_one_that_cannot_be_taken_holds_back_nobody() {
        let (six, seven, bogus) = (pointer(6, 6), pointer(7, 7), pointer(999, 9));
        let choose = |by: &[Pointer], failed: &[Pointer], exported, present, again| {
            super::choose(&named(by, failed), Sequence(exported), present, again)
        };
        assert_eq!(choose(&[], &[], 0, None, false), None);
        assert_eq!(choose(&[six, seven], &[], 6, Some(six), false), Some(seven));
        // Consul lags behind: nothing to do.
        assert_eq!(choose(&[six, seven], &[], 7, Some(seven), false), Some(seven));
        // Consul alone was put back: the worker says so.
        assert_eq!(choose(&[six], &[], 7, Some(seven), false), Some(six));
        // A hostile conf-slave names what is not there.
        assert_eq!(choose(&[six, bogus], &[], 6, Some(six), false), Some(bogus));
        assert_eq!(choose(&[seven, bogus], &[bogus], 6, Some(bogus), false), Some(seven), "the other one's turn");
        assert_eq!(choose(&[seven, bogus], &[bogus], 7, Some(seven), true), Some(bogus), "it may be there now");
        assert_eq!(choose(&[seven, bogus], &[bogus], 7, Some(seven), false), Some(seven));
        // Both failed, perhaps for a moment: each has its turn.
        assert_eq!(choose(&[seven, bogus], &[seven, bogus], 6, Some(bogus), false), Some(bogus));
        assert_eq!(choose(&[seven, bogus], &[seven, bogus], 6, Some(bogus), true), Some(seven));
        assert_eq!(choose(&[seven, bogus], &[bogus, seven], 6, Some(seven), true), Some(bogus));
        // A fork of what is exported is refused once.
        let fork = pointer(7, 8);
        assert_eq!(choose(&[seven, fork], &[fork], 7, Some(fork), false), Some(seven));
        assert_eq!(choose(&[fork], &[fork], 7, Some(fork), false), Some(fork));
    }
}
