//! From a pinned change to the snapshot that it means on this host.
//!
//! Looked for in this order: what is held in memory, the folders that the agent keeps (each names its parent, so two
//! neighbours prove what lies between them), the agent. Concurrent questions for one change are one question.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Waker},
    thread,
    time::{Duration, Instant},
};

use event_listener::{Event, EventListener, Listener};

use super::{
    super::{
        Error,
        agent::{self, Agent, Answer, Refused},
        follow::{Known, central_of, let_go, wake},
        snapshot::{Header, Snapshot},
    },
    clock::Clock,
};
use crate::name::Sequence;

/// Snapshots held beyond the newest one, so that operations that follow each other need not look for them again.
const MOST_HELD: usize = 8;

/// One that no operation asked for in so long is let go.
const HELD_IDLE: Duration = Duration::from_secs(60);

/// Questions to the agent at one time; who comes later waits for a place.
const MOST_QUESTIONS: usize = 32;

/// The waits between two questions when the agent is away or says "not now": from this, doubled, up to that.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Finds snapshots; one for each client.
#[derive(Debug)]
pub(in crate::client) struct Resolver {
    export_dir: PathBuf,
    socket: Option<PathBuf>,
    /// What is known for ever of snapshots that are held, by their own sequence.
    ranges: Mutex<BTreeMap<Sequence, Range>>,
    questions: Mutex<HashMap<Sequence, Arc<Question>>>,
    /// A question has ended, and its place is free.
    place: Arc<Event>,
    clock: Clock,
    #[cfg(feature = "tokio")]
    runtime: Option<tokio::runtime::Handle>,
    stop: AtomicBool,
}

/// `snapshot` is the datacenter's newest for every change from its own through `through`.
#[derive(Debug)]
struct Range {
    through: Sequence,
    snapshot: Arc<Snapshot>,
    used: Instant,
}

/// One question under way.
#[derive(Debug)]
struct Question {
    state: Mutex<Asking>,
    news: Arc<Event>,
}

#[derive(Clone, Debug)]
struct Asking {
    /// The latest of those who wait.
    deadline: Instant,
    /// What the last answer said is missing.
    missing: Option<String>,
    /// How it ended.
    ended: Option<Result<Arc<Snapshot>, Refused>>,
}

/// Whose answer one who waits is waiting for.
enum Asked {
    Nobody,
    This(Arc<Question>),
}

/// What one look comes to.
enum Look {
    Done(Result<Arc<Snapshot>, Error>),
    /// Look again when this is told, or at the deadline.
    Wait(EventListener, Arc<Event>),
}

impl Resolver {
    pub(in crate::client) fn new(export_dir: PathBuf, agent: &Agent) -> Arc<Self> {
        Arc::new(Resolver {
            export_dir,
            socket: agent.socket.clone(),
            #[cfg(feature = "tokio")]
            runtime: agent.runtime.clone(),
            ranges: Mutex::default(),
            questions: Mutex::default(),
            place: Arc::default(),
            clock: Clock::default(),
            stop: AtomicBool::new(false),
        })
    }

    /// What memory alone can say: an atomic load, or one lookup.
    pub(in crate::client) fn at_hand(&self, known: &Known, sequence: Sequence) -> Option<Arc<Snapshot>> {
        if (known.snapshot.sequence..=known.central).contains(&sequence) {
            return Some(Arc::clone(&known.snapshot));
        }
        let mut ranges = lock(&self.ranges);
        let (_, range) = ranges.range_mut(..=sequence).next_back().filter(|(_, range)| sequence <= range.through)?;
        range.used = Instant::now();
        Some(Arc::clone(&range.snapshot))
    }

    /// The snapshot for `sequence`, until `deadline`. Dropping the future leaves a question to the agent to those who
    /// ask for the same, or to its deadline.
    pub(super) async fn find(
        self: &Arc<Self>,
        known: impl Fn() -> Arc<Known>,
        sequence: Sequence,
        deadline: Instant,
    ) -> Result<Arc<Snapshot>, Error> {
        let mut asked = Asked::Nobody;
        loop {
            match self.look(&known, sequence, deadline, &mut asked) {
                Look::Done(found) => return found,
                Look::Wait(news, event) => {
                    #[cfg(feature = "tokio")]
                    if let Some(runtime) = &self.runtime {
                        let limited = {
                            let _inside = runtime.enter();
                            tokio::time::timeout_at(deadline.into(), news)
                        };
                        let _ = limited.await;
                        continue;
                    }
                    let _alarm = self.clock.wake_at(deadline, event);
                    news.await;
                }
            }
        }
    }

    /// As [`Resolver::find`], on this thread.
    pub(super) fn find_blocking(
        self: &Arc<Self>,
        known: impl Fn() -> Arc<Known>,
        sequence: Sequence,
        deadline: Instant,
    ) -> Result<Arc<Snapshot>, Error> {
        let mut asked = Asked::Nobody;
        loop {
            match self.look(&known, sequence, deadline, &mut asked) {
                Look::Done(found) => return found,
                Look::Wait(news, _) => drop(news.wait_deadline(deadline)),
            }
        }
    }

    fn look(
        self: &Arc<Self>,
        known: impl Fn() -> Arc<Known>,
        sequence: Sequence,
        deadline: Instant,
        asked: &mut Asked,
    ) -> Look {
        loop {
            if let Some(found) = self.at_hand(&known(), sequence) {
                return Look::Done(Ok(found));
            }
            let in_time = Instant::now() < deadline;
            let question = match asked {
                // Its end is what was waited for, also when it is no longer listed.
                Asked::This(question) => Some(Arc::clone(question)),
                Asked::Nobody => {
                    if let Some(found) = self.kept(sequence) {
                        return Look::Done(Ok(found));
                    }
                    self.question(sequence, deadline, in_time && self.socket.is_some())
                }
            };
            let event = question.as_ref().map_or(&self.place, |question| &question.news);
            let (event, listener) = (Arc::clone(event), event.listen());
            // Looked at once more after listening began, so that nothing is missed in between.
            let held = known();
            if let Some(found) = self.at_hand(&held, sequence) {
                return Look::Done(Ok(found));
            }
            let missing = match question.as_ref().map(|question| lock(&question.state).clone()) {
                Some(Asking { ended: Some(Ok(snapshot)), .. }) => return Look::Done(Ok(snapshot)),
                Some(Asking { ended: Some(Err(Refused::NoneSoOld)), .. }) => {
                    return Look::Done(Err(Error::NoneSoOld { sequence }));
                }
                Some(Asking { ended: Some(Err(Refused::Never(missing))), .. }) => {
                    return Look::Done(Err(Error::NotHere { sequence, missing }));
                }
                // It was given up at an earlier deadline than ours: asked again.
                Some(Asking { ended: Some(Err(Refused::NotNow(_))), .. }) if in_time => {
                    *asked = Asked::Nobody;
                    continue;
                }
                Some(Asking { ended: Some(Err(Refused::NotNow(missing))), .. }) => Some(missing),
                Some(Asking { ended: None, missing, .. }) => missing,
                None if self.socket.is_none() => Some("no agent was named to ask for it".to_owned()),
                None if in_time && !self.questions_full() => continue,
                None => None,
            };
            // Without an agent only the export can bring it, and that goes forward.
            let hopeless = self.socket.is_none() && sequence <= held.central;
            if in_time && !hopeless {
                *asked = question.map_or(Asked::Nobody, Asked::This);
                return Look::Wait(listener, event);
            }
            let missing = missing.unwrap_or_else(|| "the agent of this host has not answered".to_owned());
            let missing = format!(
                "{missing}; the files here are of change {}, known to be the newest up to change {}",
                held.snapshot.sequence, held.central
            );
            return Look::Done(Err(Error::NotHere { sequence, missing }));
        }
    }

    /// Looks through the folders that the agent keeps.
    fn kept(&self, sequence: Sequence) -> Option<Arc<Snapshot>> {
        let (current, dir) = Snapshot::named(&self.export_dir).ok()?;
        let snapshots = dir.parent()?.to_owned();
        let (mut at, mut next) = (None::<Sequence>, None::<Sequence>);
        for entry in fs::read_dir(&snapshots).ok()?.flatten() {
            let Some(found) = entry.file_name().to_str().and_then(|name| name.parse::<Sequence>().ok()) else {
                continue;
            };
            // A folder above `current` may be of a snapshot that this host's checks refuse: nobody reads it.
            if found > current {
                continue;
            }
            if found <= sequence {
                at = at.max(Some(found));
            } else {
                next = Some(next.map_or(found, |next| next.min(found)));
            }
        }
        let at = at?;
        let snapshot = Arc::new(Snapshot::open(at, snapshots.join(at.to_string())).ok()?);
        let through = match next {
            None => central_of(&self.export_dir, &snapshot),
            Some(next) => {
                let parent = Header::read(&snapshots.join(next.to_string())).ok()?.parent?;
                (Some(parent) == snapshot.header.commit).then(|| Sequence(next.0 - 1))?
            }
        };
        (sequence <= through).then(|| self.learn(through, snapshot))
    }

    /// Keeps a fact, and the snapshot for a while. Gives the snapshot that is kept now.
    fn learn(&self, through: Sequence, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        let mut ranges = lock(&self.ranges);
        let (at, used) = (snapshot.sequence, Instant::now());
        let (found, through, passed) = match ranges.remove(&at) {
            None => (snapshot, through, None),
            // Made once more since then: what stands there now is what the agent means.
            Some(before) if before.snapshot.identity != snapshot.identity && !before.snapshot.has_its_name() => {
                (snapshot, before.through.max(through), Some(before.snapshot))
            }
            Some(before) => (before.snapshot, before.through.max(through), Some(snapshot)),
        };
        ranges.insert(at, Range { through, snapshot: Arc::clone(&found), used });
        let oldest = ranges.iter().min_by_key(|(_, range)| range.used).map(|(at, _)| *at);
        let outdated = oldest.filter(|_| ranges.len() > MOST_HELD).and_then(|oldest| ranges.remove(&oldest));
        drop(ranges);
        let_go(passed);
        let_go(outdated);
        found
    }

    /// The follower goes from one snapshot to a newer one.
    pub(in crate::client) fn replaced(&self, held: &Known, snapshot: &Snapshot) {
        let before = &held.snapshot;
        if snapshot.sequence == before.sequence {
            // Made anew: the one that was held is not what stands there now.
            let passed = lock(&self.ranges).remove(&before.sequence);
            return let_go(passed);
        }
        let follows = before.header.commit.is_some() && snapshot.header.parent == before.header.commit;
        let through = if follows { Sequence(snapshot.sequence.0 - 1) } else { held.central };
        self.learn(through, Arc::clone(before));
    }

    /// The follower knows more than before: who waits looks again.
    pub(in crate::client) fn heard(&self) {
        let waiting: Vec<Arc<Event>> =
            lock(&self.questions).values().map(|question| Arc::clone(&question.news)).collect();
        waiting.iter().for_each(|event| wake(event));
        wake(&self.place);
    }

    /// Lets go of what was not asked for in a while.
    pub(in crate::client) fn forget_unused(&self) {
        let mut ranges = lock(&self.ranges);
        let unused: Vec<Sequence> =
            ranges.iter().filter(|(_, range)| range.used.elapsed() >= HELD_IDLE).map(|(at, _)| *at).collect();
        let unused: Vec<Option<Range>> = unused.into_iter().map(|at| ranges.remove(&at)).collect();
        drop(ranges);
        unused.into_iter().for_each(let_go);
    }

    /// No more questions are asked.
    pub(in crate::client) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    fn questions_full(&self) -> bool {
        lock(&self.questions).len() >= MOST_QUESTIONS
    }

    /// The question for `sequence` that is under way, or, where that is wanted, a new one; none when there are too many.
    fn question(self: &Arc<Self>, sequence: Sequence, deadline: Instant, new: bool) -> Option<Arc<Question>> {
        let mut questions = lock(&self.questions);
        if let Some(question) = questions.get(&sequence) {
            let mut state = lock(&question.state);
            state.deadline = state.deadline.max(deadline);
            drop(state);
            return Some(Arc::clone(question));
        }
        if !new || questions.len() >= MOST_QUESTIONS {
            return None;
        }
        let state = Mutex::new(Asking { deadline, missing: None, ended: None });
        let question = Arc::new(Question { state, news: Arc::default() });
        questions.insert(sequence, Arc::clone(&question));
        drop(questions);
        let asking = {
            let (resolver, question) = (Arc::clone(self), Arc::clone(&question));
            // Ended however it comes to an end, also by a runtime that is shut down.
            let unanswered = Unanswered { resolver, sequence, question };
            async move { unanswered.resolver.ask(sequence, &unanswered.question).await }
        };
        #[cfg(feature = "tokio")]
        if let Some(runtime) = &self.runtime {
            drop(runtime.spawn(asking));
            return Some(question);
        }
        // On a thread of ours it blocks instead of waiting, and so is done when it was polled once. Where the system gives
        // no thread it is dropped, and ends the question so.
        let _ = thread::Builder::new().name("libconf-ask".to_owned()).spawn(move || {
            let done = pin!(asking).poll(&mut Context::from_waker(Waker::noop()));
            debug_assert!(done.is_ready(), "a question waited on a thread of its own");
        });
        Some(question)
    }

    /// Asks until there is an answer, or nobody waits any more.
    async fn ask(&self, sequence: Sequence, question: &Question) {
        let mut pause = FIRST_PAUSE;
        loop {
            let deadline = lock(&question.state).deadline;
            let refused = match self.ask_once(sequence, deadline).await {
                Ok(snapshot) => return self.end(sequence, question, Ok(snapshot)),
                Err(Refused::NotNow(missing)) => missing,
                Err(refused) => return self.end(sequence, question, Err(refused)),
            };
            let over = {
                let mut state = lock(&question.state);
                state.missing = Some(refused.clone());
                Instant::now() >= state.deadline || self.stop.load(Ordering::Acquire)
            };
            if over {
                return self.end(sequence, question, Err(Refused::NotNow(refused)));
            }
            self.pause(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    #[cfg_attr(not(feature = "tokio"), expect(clippy::unused_async, reason = "a runtime waits, a thread blocks"))]
    async fn pause(&self, time: Duration) {
        #[cfg(feature = "tokio")]
        if self.runtime.is_some() {
            return tokio::time::sleep(time).await;
        }
        thread::sleep(time);
    }

    #[cfg_attr(not(feature = "tokio"), expect(clippy::unused_async, reason = "a runtime waits, a thread blocks"))]
    async fn exchange(&self, socket: &Path, request: &[u8], deadline: Instant) -> io::Result<Answer> {
        #[cfg(feature = "tokio")]
        if self.runtime.is_some() {
            return agent::ask_in_runtime(socket, request, deadline).await;
        }
        agent::ask(socket, request, deadline)
    }

    async fn ask_once(&self, sequence: Sequence, deadline: Instant) -> Result<Arc<Snapshot>, Refused> {
        let Some(socket) = &self.socket else {
            return Err(Refused::NotNow(
                "it is not among the files kept here, and no agent was named to ask".to_owned(),
            ));
        };
        let answer = self.exchange(socket, &agent::at(sequence, deadline), agent::patience(deadline)).await;
        let at = agent::read_at(sequence, answer)?;
        // Not the directory that the answer names: in a container the export may be somewhere else.
        let dir = self.export_dir.join("snapshots").join(at.sequence.to_string());
        let snapshot = Snapshot::open(at.sequence, dir.clone())
            .map_err(|error: io::Error| Refused::NotNow(format!("cannot open {}: {error}", dir.display())))?;
        if snapshot.header.commit != Some(at.commit) {
            let dir = dir.display();
            return Err(Refused::NotNow(format!("{dir} is not what the agent means; does it export somewhere else?")));
        }
        Ok(self.learn(at.through, Arc::new(snapshot)))
    }

    fn end(&self, sequence: Sequence, question: &Question, with: Result<Arc<Snapshot>, Refused>) {
        // Out of the list first: whoever finds it ended begins another.
        lock(&self.questions).remove(&sequence);
        lock(&question.state).ended.get_or_insert(with);
        wake(&question.news);
        wake(&self.place);
    }
}

/// A question that is being asked; it has ended when this is dropped.
struct Unanswered {
    resolver: Arc<Resolver>,
    sequence: Sequence,
    question: Arc<Question>,
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if lock(&self.question.state).ended.is_none() {
            let why = "it could not be asked for; the system gave no thread, or the program's runtime was shut down";
            self.resolver.end(self.sequence, &self.question, Err(Refused::Never(why.to_owned())));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
