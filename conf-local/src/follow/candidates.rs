//! The pointers that Consul and conf-slaves name, and which of them is wanted.
//!
//! The newest one is wanted. None is believed: a snapshot is verified when it is here. So one that
//! cannot be taken must not hold back the others, whoever names it, and however many of them: the
//! sources have turns, and one whose words came to nothing is the last.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use conf_core::api::Pointer;
use libconf::name::Sequence;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    follow::rivals::{Rival, Rivals},
    state::Agent,
};

/// The snapshot that a pointer names, and the time at which it was first heard of.
pub(crate) type Wanted = Option<(Pointer, Instant)>;

/// Who names a pointer that is to be tried, and the pointer.
type Open = (String, Pointer);

/// The pointers that are named now.
pub(crate) struct Candidates {
    agent: Agent,
    named: Mutex<Named>,
    wanted: watch::Sender<Wanted>,
    newest: watch::Sender<Sequence>,
    /// What is newer than the export and may be taken.
    open: watch::Sender<Vec<Rival>>,
    /// The sources that are in touch now.
    heard: watch::Sender<BTreeSet<String>>,
    /// Who named what is tried now, and since when it is tried.
    trying: watch::Sender<Option<(String, Instant)>>,
}

#[derive(Default)]
struct Named {
    by: BTreeMap<String, Word>,
    /// Sources that have gone after a word that came to nothing, and the number of that attempt.
    gone: BTreeMap<String, u64>,
    /// The number of attempts that came to nothing.
    attempts: u64,
    /// The wanted pointer, and who named it first.
    chosen: Option<Open>,
    /// The pointer that is tried now.
    tried: Option<Open>,
    /// Attempts in a row that ended for another pointer.
    overtaken: u32,
}

/// What a source names.
struct Word {
    pointer: Pointer,
    since: Instant,
    /// What is wrong with it.
    problem: Option<String>,
    trial: Trial,
    /// The number of the last attempt at a pointer of this source, if it came to nothing.
    in_vain: u64,
    /// The same, without attempts that failed for a reason that passes: those say nothing of the
    /// source.
    doubted: u64,
    /// What this source named last was nowhere, or could never be taken.
    is_doubtful: bool,
    /// The source names nothing any more.
    is_over: bool,
}

/// What came of the attempts to take a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trial {
    Not,
    /// It may work the next time.
    Failed,
    /// No server has it.
    Nowhere,
    /// It can never be taken.
    Refused,
}

/// What an attempt says of those who named its pointer, and the number of one that came to nothing.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Taken,
    /// It may work the next time.
    Failed(u64),
    /// Another pointer took its turn.
    Overtaken(u64),
    /// No server has it, or it can never be taken.
    Wrong(u64),
}

/// Why a pointer could not be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It may work the next time.
    Passing,
    /// No server has it.
    Nowhere,
    /// It can never be taken.
    Never,
}

impl Candidates {
    pub(crate) fn new(agent: Agent) -> Self {
        let (wanted, newest) = (watch::Sender::new(None), watch::Sender::default());
        Candidates {
            agent,
            named: Mutex::default(),
            wanted,
            newest,
            open: watch::Sender::default(),
            heard: watch::Sender::default(),
            trying: watch::Sender::default(),
        }
    }

    /// Subscribes to the wanted pointer.
    pub(crate) fn wanted(&self) -> watch::Receiver<Wanted> {
        self.wanted.subscribe()
    }

    /// Subscribes to the highest sequence that a source names whose words were good so far.
    pub(crate) fn newest(&self) -> watch::Receiver<Sequence> {
        self.newest.subscribe()
    }

    /// Takes what a source names now in place of what it named before.
    pub(crate) fn name(&self, source: &str, pointer: Pointer) {
        self.heard.send_if_modified(|heard| heard.insert(source.to_owned()));
        let mut named = self.named.lock();
        // What had gone could not be taken.
        let (mut in_vain, mut problem) = (named.gone.get(source).copied().unwrap_or_default(), None);
        let (mut doubted, mut is_doubtful) = (in_vain, in_vain > 0);
        if let Some(before) = named.by.get_mut(source) {
            before.is_over = false;
            if before.pointer == pointer {
                return;
            }
            (in_vain, doubted, is_doubtful) = (before.in_vain, before.doubted, before.is_doubtful);
            problem = (before.pointer.sequence > pointer.sequence).then(|| {
                format!(
                    "it names #{} after #{}, and no host goes back; was it put back to an older state? The next change \
                     ends this",
                    pointer.sequence, before.pointer.sequence
                )
            });
        }
        let trial = named.by.values().find(|word| word.pointer == pointer).map_or(Trial::Not, |word| word.trial);
        let word =
            Word { pointer, since: Instant::now(), problem, trial, in_vain, doubted, is_doubtful, is_over: false };
        named.gone.remove(source);
        named.by.insert(source.to_owned(), word);
        self.choose(&mut named, false);
    }

    /// Notes that a source is not in touch now.
    pub(crate) fn lost(&self, source: &str) {
        self.heard.send_if_modified(|heard| heard.remove(source));
    }

    /// Tells whether another source than this one is in touch.
    pub(crate) fn is_heard_beside(&self, source: &str) -> bool {
        self.heard.borrow().iter().any(|heard| heard != source)
    }

    /// Waits until no other source than this one is in touch.
    pub(crate) async fn alone(&self, source: &str) {
        let mut heard = self.heard.subscribe();
        // The sender lives as long as this.
        let _ = heard.wait_for(|heard| heard.iter().all(|heard| heard == source)).await;
    }

    /// Returns the number of the last attempt at a word of this source, if it came to nothing, and
    /// not for a reason that passes.
    pub(crate) fn doubted(&self, source: &str) -> u64 {
        let named = self.named.lock();
        let word = named.by.get(source).map(|word| word.doubted);
        word.or(named.gone.get(source).copied()).unwrap_or_default()
    }

    /// Waits until a source is [doubted](Candidates::doubted) for a later attempt than this one.
    pub(crate) async fn until_doubted(&self, source: &str, since: u64) {
        let mut open = self.open.subscribe();
        while self.doubted(source) <= since {
            // The sender lives as long as this.
            let _ = open.changed().await;
        }
    }

    /// Notes that a source has gone. Its word stays only while it may still be of use.
    pub(crate) fn gone(&self, source: &str) {
        self.lost(source);
        let mut named = self.named.lock();
        if let Some(word) = named.by.get_mut(source) {
            word.is_over = true;
            self.choose(&mut named, false);
        }
    }

    /// Notes that the wanted pointer is tried now.
    pub(crate) fn begin(&self) -> Wanted {
        let Named { tried, chosen, .. } = &mut *self.named.lock();
        tried.clone_from(chosen);
        self.trying.send_replace(chosen.as_ref().map(|(source, _)| (source.clone(), Instant::now())));
        *self.wanted.borrow()
    }

    /// Waits until what this source named has been tried for so long, and no other one is in touch.
    pub(crate) async fn until_slow_and_alone(&self, source: &str, after: Duration) {
        let mut trying = self.trying.subscribe();
        loop {
            let of = trying.wait_for(|of| of.as_ref().is_some_and(|(of, _)| of == source)).await;
            // The sender lives as long as this.
            let Some((_, since)) = of.ok().and_then(|of| of.clone()) else { continue };
            tokio::select! {
                _ = trying.changed() => {}
                () = async {
                    tokio::time::sleep_until((since + after).into()).await;
                    self.alone(source).await;
                } => return,
            }
        }
    }

    /// Notes that a pointer was dealt with; chooses what comes next.
    pub(crate) fn took(&self, pointer: Pointer) {
        self.ended();
        let mut named = self.named.lock();
        named.overtaken = 0;
        named.blame(pointer, Trial::Not, Outcome::Taken);
        // What failed for a while and was not needed in the end is no reason against anybody.
        let behind = |word: &&mut Word| word.trial == Trial::Failed && word.pointer.sequence <= pointer.sequence;
        named.by.values_mut().filter(behind).for_each(|word| word.in_vain = word.doubted);
        self.choose(&mut named, true);
    }

    /// Notes that a pointer could not be taken; chooses another one, if there is one that was not
    /// tried.
    pub(crate) fn failed(&self, pointer: Pointer, reason: Reason, words: &str) {
        self.ended();
        let mut named = self.named.lock();
        let trial = match reason {
            Reason::Passing => Trial::Failed,
            Reason::Nowhere => Trial::Nowhere,
            Reason::Never => Trial::Refused,
        };
        named.attempts += 1;
        let attempt = named.attempts;
        let outcome = if reason == Reason::Passing { Outcome::Failed(attempt) } else { Outcome::Wrong(attempt) };
        named.blame(pointer, trial, outcome);
        if reason == Reason::Never {
            for word in named.by.values_mut().filter(|word| word.pointer == pointer) {
                word.problem = Some(words.to_owned());
            }
        }
        self.choose(&mut named, false);
    }

    /// Notes that an attempt ended since another pointer is named.
    pub(crate) fn overtaken(&self, pointer: Pointer) {
        self.ended();
        let mut named = self.named.lock();
        named.overtaken = named.overtaken.saturating_add(1);
        named.attempts += 1;
        let attempt = named.attempts;
        named.blame(pointer, Trial::Not, Outcome::Overtaken(attempt));
        self.choose(&mut named, false);
    }

    /// Chooses the pointer whose turn it is to be tried again.
    pub(crate) fn again(&self) {
        self.choose(&mut self.named.lock(), true);
    }

    /// Has what was refused tried again: another key is trusted now.
    pub(crate) fn try_refused_again(&self) {
        let mut named = self.named.lock();
        for word in named.by.values_mut().filter(|word| word.trial == Trial::Refused) {
            (word.trial, word.problem) = (Trial::Not, None);
        }
        self.choose(&mut named, false);
        // It may be the very one that was wanted before.
        self.wanted.send_modify(|_| ());
    }

    /// Tells whether a pointer waits to be tried again.
    pub(crate) fn is_any_left(&self) -> bool {
        let exported = self.exported().map_or(Sequence::default(), |exported| exported.sequence);
        self.named.lock().newer(exported).next().is_some()
    }

    /// Tells whether a source names what is exported.
    pub(crate) fn is_export_named(&self) -> bool {
        let exported = self.exported();
        self.named.lock().by.values().any(|word| Some(word.pointer) == exported)
    }

    /// The others beside the pointer that is tried now.
    pub(crate) fn rivals(&self) -> Rivals {
        let named = self.named.lock();
        let tried = named.tried.clone();
        let source = tried.as_ref().and_then(|(source, _)| named.by.get(source));
        let is_doubtful = source.is_some_and(|word| word.is_doubtful);
        Rivals { open: self.open.subscribe(), tried, is_doubtful, times: named.overtaken }
    }

    /// Notes that the attempt is over.
    fn ended(&self) {
        self.trying.send_if_modified(|trying| trying.take().is_some());
    }

    fn exported(&self) -> Option<Pointer> {
        self.agent.view().exported.as_ref().map(|exported| exported.snapshot())
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
    fn choose(&self, named: &mut Named, again: bool) {
        let Named { by, gone, .. } = &mut *named;
        by.retain(|source, word| {
            let is_left = !word.is_over || matches!(word.trial, Trial::Not | Trial::Failed);
            if !is_left {
                gone.insert(source.clone(), word.in_vain);
                self.agent.set_back(&topic_of(source));
            }
            is_left
        });
        let exported = self.exported();
        self.show_problems(named, exported);
        let sequence = exported.map_or(Sequence::default(), |exported| exported.sequence);
        let good = named.by.values().filter(|word| word.in_vain == 0).map(|word| word.pointer.sequence);
        let newest = good.max().unwrap_or_default();
        self.newest.send_if_modified(|now| std::mem::replace(now, newest) != newest);
        self.open.send_replace(named.open(sequence));
        let present = (*self.wanted.borrow()).map(|(pointer, _)| pointer);
        let Some(pointer) = choose(named, sequence, present, again) else { return };
        let of = named.by.iter().filter(|(_, word)| word.pointer == pointer);
        let Some((source, Word { since, .. })) = of.min_by_key(|(_, word)| word.since) else { return };
        self.agent.update(|view| {
            view.status.pointer = Some(pointer);
            view.status.pointer_from = Some(source.clone());
        });
        let (source, since) = (source.clone(), *since);
        named.chosen = Some((source, pointer));
        self.wanted.send_if_modified(|wanted| {
            let modified = present != Some(pointer);
            if modified {
                *wanted = Some((pointer, since));
            }
            modified
        });
    }
}

impl Named {
    /// Notes what came of an attempt, also for the source that has replaced its word meanwhile.
    fn blame(&mut self, pointer: Pointer, trial: Trial, outcome: Outcome) {
        let tried = self.tried.take().filter(|(_, tried)| *tried == pointer).map(|(source, _)| source);
        for (source, word) in &mut self.by {
            let is_named = word.pointer == pointer;
            if is_named {
                word.trial = trial;
            }
            if is_named || tried.as_ref() == Some(source) {
                (word.in_vain, word.doubted, word.is_doubtful) = match outcome {
                    Outcome::Taken => (0, 0, false),
                    Outcome::Failed(attempt) => (attempt, word.doubted, word.is_doubtful),
                    Outcome::Overtaken(attempt) => (attempt, attempt, word.is_doubtful),
                    Outcome::Wrong(attempt) => (attempt, attempt, true),
                };
            }
        }
    }

    /// What can be taken and is newer than the export.
    fn newer(&self, exported: Sequence) -> impl Iterator<Item = (&String, &Word)> {
        self.by.iter().filter(move |(_, word)| word.trial != Trial::Refused && word.pointer.sequence > exported)
    }

    fn open(&self, exported: Sequence) -> Vec<Rival> {
        let rival = |(source, word): (&String, &Word)| Rival {
            source: source.clone(),
            pointer: word.pointer,
            is_untried: word.trial == Trial::Not,
            is_doubtful: word.is_doubtful,
        };
        self.newer(exported).map(rival).collect()
    }
}

/// Says that a pointer names another snapshot of the exported number.
pub(crate) fn fork(pointer: Pointer, exported: Option<Pointer>) -> Option<String> {
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

/// Chooses among the pointers that are newer than the export: of the sources whose words came to
/// nothing longest ago, the newest one. Those that failed have their turn only `again`. Without a
/// newer one, what is exported stays.
fn choose(named: &Named, exported: Sequence, present: Option<Pointer>, again: bool) -> Option<Pointer> {
    // Of two with one number the present one stays, so that both are not tried in turns.
    let turn = |word: &&Word| (word.in_vain, Reverse(word.pointer.sequence), present != Some(word.pointer));
    let newer = || named.newer(exported).map(|(_, word)| word);
    let untried = newer().filter(|word| word.trial == Trial::Not).min_by_key(turn);
    let present_stays = present.filter(|present| named.by.values().any(|word| word.pointer == *present));
    let chosen = match newer().min_by_key(turn) {
        Some(first) if again => Some(first.pointer),
        Some(first) => untried.map(|word| word.pointer).or(present_stays).or(Some(first.pointer)),
        None => None,
    };
    let age = |word: &&Word| (word.trial != Trial::Refused, word.pointer.sequence, present == Some(word.pointer));
    chosen.or_else(|| {
        let newest = named.by.values().filter(|word| word.pointer.sequence <= exported).max_by_key(age);
        let good = newest.filter(|word| word.trial != Trial::Refused).map(|word| word.pointer);
        good.or(present_stays).or_else(|| named.by.values().max_by_key(age).map(|word| word.pointer))
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::{
        follow::rivals::Worth,
        state::{Status, View},
    };

    fn pointer(sequence: u64, digit: u8) -> Pointer {
        Pointer { sequence: Sequence(sequence), commit: [digit; 20].into() }
    }

    /// Each source names one pointer; `failed` says in order what came of which.
    fn named(by: &[Pointer], failed: &[(Pointer, Trial)]) -> Named {
        let word = |pointer: Pointer| {
            let at = failed.iter().position(|(failed, _)| *failed == pointer);
            let (trial, in_vain) = at.map_or((Trial::Not, 0), |at| (failed[at].1, at as u64 + 1));
            let is_doubtful = matches!(trial, Trial::Nowhere | Trial::Refused);
            let (doubted, since) = (if is_doubtful { in_vain } else { 0 }, Instant::now());
            Word { pointer, since, problem: None, trial, in_vain, doubted, is_doubtful, is_over: false }
        };
        let by = by.iter().enumerate().map(|(source, pointer)| (source.to_string(), word(*pointer))).collect();
        Named { by, ..Named::default() }
    }

    #[test]
    fn the_newest_is_wanted_and_one_that_cannot_be_taken_holds_back_nobody() {
        let (six, seven, bogus) = (pointer(6, 6), pointer(7, 7), pointer(999, 9));
        let choose = |by: &[Pointer], failed: &[Pointer], exported, present, again| {
            let failed: Vec<_> = failed.iter().map(|pointer| (*pointer, Trial::Failed)).collect();
            super::choose(&named(by, &failed), Sequence(exported), present, again)
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
        // The exported one lacks content, whose fetch failed, and Consul lags behind.
        assert_eq!(choose(&[six, seven], &[seven], 7, Some(seven), true), Some(seven));
    }

    #[test]
    fn a_pointer_that_was_refused_has_no_turn_beside_one_that_failed_for_a_moment() {
        let (seven, bogus, fork) = (pointer(7, 7), pointer(999, 9), pointer(7, 8));
        let (good, refused) = ((seven, Trial::Failed), (bogus, Trial::Refused));
        for failed in [[refused, good], [good, refused]] {
            let named = named(&[seven, bogus], &failed);
            assert_eq!(choose(&named, Sequence(6), Some(seven), true), Some(seven));
            assert_eq!(choose(&named, Sequence(6), Some(bogus), true), Some(seven));
        }
        // A fork of what is exported is refused once.
        let forked = named(&[seven, fork], &[(fork, Trial::Refused)]);
        assert_eq!(choose(&forked, Sequence(7), Some(fork), false), Some(seven));
        let forked = named(&[fork], &[(fork, Trial::Refused)]);
        assert_eq!(choose(&forked, Sequence(7), Some(fork), false), Some(fork));
        assert_eq!(forked.newer(Sequence(6)).count(), 0, "nothing is left to try");
    }

    fn candidates() -> Candidates {
        let status = Status::new("us-west/v1".parse().unwrap(), "web-1".parse().unwrap(), Path::new("export"));
        Candidates::new(Agent::new(View::new(status), Vec::new()).0)
    }

    fn wanted(candidates: &Candidates) -> Option<Pointer> {
        candidates.begin().map(|(pointer, _)| pointer)
    }

    #[test]
    fn a_flood_of_numbers_of_one_source_takes_no_turn_of_another() {
        for reason in [Some(Reason::Nowhere), Some(Reason::Never), None] {
            let candidates = candidates();
            candidates.name("liar", pointer(1000, 1));
            let forged = wanted(&candidates).unwrap();
            candidates.name("consul", pointer(8, 8));
            assert_eq!(wanted(&candidates), Some(forged), "nobody is believed");
            // The word is another one by the time at which the attempt ends.
            candidates.name("liar", pointer(1001, 2));
            candidates.name("liar", pointer(1002, 3));
            let tried = wanted(&candidates).unwrap();
            candidates.name("liar", pointer(1003, 4));
            match reason {
                Some(reason) => candidates.failed(tried, reason, "no"),
                None => candidates.overtaken(tried),
            }
            assert_eq!(wanted(&candidates), Some(pointer(8, 8)));
            candidates.name("liar", pointer(1004, 5));
            assert_eq!(wanted(&candidates), Some(pointer(8, 8)), "it is tried now");
            candidates.failed(pointer(8, 8), Reason::Passing, "away");
            let forged = wanted(&candidates).unwrap();
            assert_eq!(forged, pointer(1004, 5), "each has its turn");
            candidates.failed(forged, Reason::Nowhere, "no");
            candidates.name("liar", pointer(1005, 6));
            candidates.again();
            assert_eq!(wanted(&candidates), Some(pointer(8, 8)), "and again");
            assert_eq!(*candidates.newest().borrow(), Sequence(0), "whoever failed is no reason to ask Consul");
            assert!(candidates.doubted("liar") > 0);
            assert_eq!(candidates.doubted("consul"), 0, "what passes says nothing of a source");
            candidates.took(pointer(8, 8));
            assert_eq!(*candidates.newest().borrow(), Sequence(8));
        }
    }

    #[test]
    fn what_a_source_named_is_forgotten_with_it_unless_it_may_be_taken() {
        let candidates = candidates();
        candidates.name("consul", pointer(8, 8));
        candidates.name("liar", pointer(999, 9));
        candidates.failed(pointer(999, 9), Reason::Passing, "away");
        candidates.gone("liar");
        candidates.failed(pointer(8, 8), Reason::Passing, "away");
        candidates.again();
        assert_eq!(wanted(&candidates), Some(pointer(999, 9)), "it may be elsewhere");
        candidates.failed(pointer(999, 9), Reason::Nowhere, "no");
        candidates.again();
        assert_eq!(wanted(&candidates), Some(pointer(8, 8)));
        assert_eq!(candidates.agent.view().status.pointer, Some(pointer(8, 8)));
        assert_eq!(candidates.named.lock().by.len(), 1);
        candidates.name("liar", pointer(1000, 1));
        assert_eq!(wanted(&candidates), Some(pointer(1000, 1)), "what is new has a turn");
        candidates.again();
        assert_eq!(wanted(&candidates), Some(pointer(8, 8)), "the last one");
    }

    #[tokio::test]
    async fn what_contradicts_is_told_from_what_follows() {
        let candidates = candidates();
        candidates.name("liar", pointer(999, 9));
        let bogus = wanted(&candidates).unwrap();
        let rivals = candidates.rivals();
        assert!(rivals.any(bogus.commit).now_or_never().is_none());
        candidates.name("liar", pointer(1000, 1));
        assert!(rivals.any(bogus.commit).now_or_never().is_some());
        let is_foreign = |rivals: &Rivals, want: Pointer| {
            [Worth::More, Worth::AsMuch, Worth::Any]
                .map(|worth| !rivals.foreign_of(&rivals.open.borrow(), want.commit, worth).is_empty())
        };
        assert_eq!(is_foreign(&rivals, bogus), [false; 3], "it follows its own word");
        candidates.name("consul", pointer(8, 8));
        assert_eq!(is_foreign(&rivals, bogus), [false, true, true], "nobody was wrong yet");
        candidates.overtaken(bogus);
        let good = wanted(&candidates).unwrap();
        candidates.name("liar", pointer(1001, 2));
        assert_eq!(good, pointer(8, 8));
        assert_eq!(is_foreign(&candidates.rivals(), good), [false, true, true], "still nobody was wrong");
        // It failed for a moment, and waits for its next turn while the liar has one.
        candidates.failed(good, Reason::Passing, "away");
        let forged = wanted(&candidates).unwrap();
        assert_eq!(forged, pointer(1001, 2));
        assert_eq!(is_foreign(&candidates.rivals(), forged), [false, false, true], "a turn ends");
        candidates.name("consul", pointer(9, 3));
        assert_eq!(is_foreign(&candidates.rivals(), forged), [false, true, true]);
        candidates.failed(forged, Reason::Nowhere, "no");
        candidates.name("liar", pointer(1002, 5));
        assert_eq!(wanted(&candidates), Some(pointer(9, 3)));
        assert_eq!(is_foreign(&candidates.rivals(), pointer(9, 3)), [false, false, true], "the liar is worth less");
        candidates.failed(pointer(9, 3), Reason::Passing, "away");
        candidates.name("consul", pointer(10, 4));
        assert_eq!(wanted(&candidates), Some(pointer(1002, 5)));
        assert_eq!(is_foreign(&candidates.rivals(), pointer(1002, 5)), [true; 3], "and does not keep its turn");
    }
}
