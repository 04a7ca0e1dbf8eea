//! From a pinned change to its snapshot on this host.
//!
//! Looks in memory, then in the folders that the agent keeps, then asks the agent. Concurrent reads
//! of one change share one question.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Waker},
    thread,
    time::{Duration, Instant},
};

use event_listener::{Event, EventListener, Listener};

use crate::client::{
    agent::{self, Agent, Answer, Refused},
    clock::Clock,
    error::Error,
    held::HeldSnapshots,
    known::Known,
    lock::lock,
    release::wake,
    snapshot::Snapshot,
};
use crate::name::Sequence;

/// Concurrent questions to the agent. Later ones wait for a place.
const MOST_QUESTIONS: usize = 32;

/// The waits between two questions while the agent is away or answers "not now": the first one, and
/// the longest after doubling.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Finds snapshots. Each client has one.
#[derive(Debug)]
pub(crate) struct Resolver {
    export_dir: PathBuf,
    socket: Option<PathBuf>,
    pub(crate) held: HeldSnapshots,
    questions: Mutex<HashMap<Sequence, Arc<Question>>>,
    /// Notified when a question ends, and its place is free.
    place: Arc<Event>,
    clock: Arc<Clock>,
    #[cfg(feature = "tokio")]
    runtime: Option<tokio::runtime::Handle>,
    stop: AtomicBool,
}

/// A question to the agent.
#[derive(Debug)]
struct Question {
    state: Mutex<QuestionState>,
    news: Arc<Event>,
}

#[derive(Clone, Debug)]
struct QuestionState {
    /// The latest deadline of the waiting reads.
    deadline: Instant,
    /// The missing part, by the last answer.
    missing: Option<String>,
    outcome: Option<Result<Arc<Snapshot>, Refused>>,
}

/// A read's search for the snapshot of a change.
pub(crate) struct Lookup<'r, K> {
    resolver: &'r Arc<Resolver>,
    known: K,
    sequence: Sequence,
    deadline: Instant,
    /// The question that the read waits for.
    asked: Option<Arc<Question>>,
}

/// The outcome of one look.
enum Look {
    Done(Result<Arc<Snapshot>, Error>),
    /// Look again after this event, or at the deadline.
    Wait(EventListener, Arc<Event>),
}

impl Resolver {
    pub(crate) fn new(export_dir: PathBuf, agent: &Agent) -> Arc<Self> {
        Arc::new(Resolver {
            export_dir,
            socket: agent.socket.clone(),
            #[cfg(feature = "tokio")]
            runtime: agent.runtime.clone(),
            held: HeldSnapshots::default(),
            questions: Mutex::default(),
            place: Arc::default(),
            clock: Arc::default(),
            stop: AtomicBool::new(false),
        })
    }

    /// Looks in memory alone: an atomic load, or one lookup.
    pub(crate) fn at_hand(&self, known: &Known, sequence: Sequence) -> Option<Arc<Snapshot>> {
        if (known.snapshot.sequence..=known.central).contains(&sequence) {
            return Some(Arc::clone(&known.snapshot));
        }
        self.held.get(sequence)
    }

    /// Begins a search for the snapshot of `sequence`, until `deadline`.
    pub(crate) fn lookup<K: Fn() -> Arc<Known>>(
        self: &Arc<Self>,
        known: K,
        sequence: Sequence,
        deadline: Instant,
    ) -> Lookup<'_, K> {
        Lookup { resolver: self, known, sequence, deadline, asked: None }
    }

    async fn wait(&self, news: EventListener, event: Arc<Event>, deadline: Instant) {
        #[cfg(feature = "tokio")]
        if let Some(runtime) = &self.runtime {
            let limited = {
                let _inside = runtime.enter();
                tokio::time::timeout_at(deadline.into(), news)
            };
            let _ = limited.await;
            return;
        }
        let _alarm = self.clock.wake_at(deadline, event);
        news.await;
    }

    /// Has every waiting read look again, since the follower knows more than before.
    pub(crate) fn heard(&self) {
        let waiting: Vec<Arc<Event>> =
            lock(&self.questions).values().map(|question| Arc::clone(&question.news)).collect();
        waiting.iter().for_each(|event| wake(event));
        wake(&self.place);
    }

    /// Ends every question at its next attempt.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Returns the present question for `sequence`, or begins one if `begin` is set and there is a
    /// place.
    fn question(self: &Arc<Self>, sequence: Sequence, deadline: Instant, begin: bool) -> Option<Arc<Question>> {
        let mut questions = lock(&self.questions);
        if let Some(question) = questions.get(&sequence) {
            let mut state = lock(&question.state);
            state.deadline = state.deadline.max(deadline);
            drop(state);
            return Some(Arc::clone(question));
        }
        if !begin || questions.len() >= MOST_QUESTIONS {
            return None;
        }
        let state = Mutex::new(QuestionState { deadline, missing: None, outcome: None });
        let question = Arc::new(Question { state, news: Arc::default() });
        questions.insert(sequence, Arc::clone(&question));
        drop(questions);
        let asking = {
            let (resolver, question) = (Arc::clone(self), Arc::clone(&question));
            // The guard ends the question in any case, also when a runtime is shut down.
            let guard = EndGuard { resolver, sequence, question };
            async move { guard.resolver.ask(sequence, &guard.question).await }
        };
        #[cfg(feature = "tokio")]
        if let Some(runtime) = &self.runtime {
            drop(runtime.spawn(asking));
            return Some(question);
        }
        // On a thread of its own the future blocks instead of waiting, so one poll completes it. If
        // the system gives no thread, the future is dropped, and its guard ends the question.
        let _ = thread::Builder::new().name("libconf-ask".to_owned()).spawn(move || {
            let done = pin!(asking).poll(&mut Context::from_waker(Waker::noop()));
            debug_assert!(done.is_ready(), "a question waited on a thread of its own");
        });
        Some(question)
    }

    /// Asks until there is an answer, or no read waits any more.
    async fn ask(&self, sequence: Sequence, question: &Question) {
        let mut pause = FIRST_PAUSE;
        loop {
            let deadline = lock(&question.state).deadline;
            let missing = match self.ask_once(sequence, deadline).await {
                Err(Refused::NotNow(missing)) => missing,
                outcome => return self.end(sequence, question, outcome),
            };
            let over = {
                let mut state = lock(&question.state);
                state.missing = Some(missing.clone());
                Instant::now() >= state.deadline || self.stop.load(Ordering::Acquire)
            };
            if over {
                return self.end(sequence, question, Err(Refused::NotNow(missing)));
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
        // Not the directory in the answer: a container may have the export elsewhere.
        let dir = self.export_dir.join("snapshots").join(at.sequence.to_string());
        let snapshot = Snapshot::open(at.sequence, dir.clone())
            .map_err(|error| Refused::NotNow(format!("cannot open {}: {error}", dir.display())))?;
        if snapshot.header.commit != Some(at.commit) {
            let dir = dir.display();
            return Err(Refused::NotNow(format!("{dir} is not what the agent means; does it export somewhere else?")));
        }
        Ok(self.held.learn(at.through, Arc::new(snapshot)))
    }

    fn end(&self, sequence: Sequence, question: &Question, outcome: Result<Arc<Snapshot>, Refused>) {
        // Out of the list first: a read that finds it ended begins another.
        lock(&self.questions).remove(&sequence);
        lock(&question.state).outcome.get_or_insert(outcome);
        wake(&question.news);
        wake(&self.place);
    }
}

impl<K: Fn() -> Arc<Known>> Lookup<'_, K> {
    /// Waits for the snapshot.
    ///
    /// Cancel: a question to the agent goes on for other reads of the same change, or until its
    /// deadline.
    pub(crate) async fn wait(mut self) -> Result<Arc<Snapshot>, Error> {
        loop {
            match self.look() {
                Look::Done(found) => return found,
                Look::Wait(news, event) => self.resolver.wait(news, event, self.deadline).await,
            }
        }
    }

    /// As [`Lookup::wait`], on this thread.
    pub(crate) fn block(mut self) -> Result<Arc<Snapshot>, Error> {
        loop {
            match self.look() {
                Look::Done(found) => return found,
                Look::Wait(news, _) => drop(news.wait_deadline(self.deadline)),
            }
        }
    }

    /// Decides what to do next.
    fn look(&mut self) -> Look {
        let (resolver, sequence) = (self.resolver, self.sequence);
        loop {
            if let Some(found) = resolver.at_hand(&(self.known)(), sequence) {
                return Look::Done(Ok(found));
            }
            let in_time = Instant::now() < self.deadline;
            // The read stays with the question it waited for, even after that has left the list.
            let question = match self.asked.take() {
                Some(question) => Some(question),
                None => match resolver.held.find_kept(&resolver.export_dir, sequence) {
                    Some(found) => return Look::Done(Ok(found)),
                    None => resolver.question(sequence, self.deadline, in_time && resolver.socket.is_some()),
                },
            };
            let event = Arc::clone(question.as_ref().map_or(&resolver.place, |question| &question.news));
            let listener = event.listen();
            // Looks once more now that it listens, so that it misses nothing in between.
            let known = (self.known)();
            if let Some(found) = resolver.at_hand(&known, sequence) {
                return Look::Done(Ok(found));
            }
            let state = question.as_ref().map(|question| lock(&question.state).clone());
            let missing = match state {
                Some(QuestionState { outcome: None, missing, .. }) => missing,
                Some(QuestionState { outcome: Some(outcome), .. }) => match outcome {
                    Ok(snapshot) => return Look::Done(Ok(snapshot)),
                    Err(Refused::NoneSoOld) => return Look::Done(Err(Error::NoneSoOld { sequence })),
                    Err(Refused::Replaced(reason)) => return Look::Done(Err(Error::Replaced { sequence, reason })),
                    Err(Refused::Never(missing)) => return Look::Done(Err(Error::NotHere { sequence, missing })),
                    // It ended at an earlier deadline than this read's: asks again.
                    Err(Refused::NotNow(_)) if in_time => continue,
                    Err(Refused::NotNow(missing)) => Some(missing),
                },
                None if resolver.socket.is_none() => Some("no agent was named to ask for it".to_owned()),
                None if in_time && lock(&resolver.questions).len() < MOST_QUESTIONS => continue,
                None => None,
            };
            // Without an agent only the export can bring it, and that only goes forward.
            let hopeless = resolver.socket.is_none() && sequence <= known.central;
            if in_time && !hopeless {
                self.asked = question;
                return Look::Wait(listener, event);
            }
            let missing = missing.unwrap_or_else(|| "the agent of this host has not answered".to_owned());
            let missing = format!(
                "{missing}; the files here are of change {}, known to be the newest up to change {}",
                known.snapshot.sequence, known.central
            );
            return Look::Done(Err(Error::NotHere { sequence, missing }));
        }
    }
}

/// Ends a question when it is dropped, if nothing else has.
struct EndGuard {
    resolver: Arc<Resolver>,
    sequence: Sequence,
    question: Arc<Question>,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        if lock(&self.question.state).outcome.is_none() {
            let why = "it could not be asked for; the system gave no thread, or the program's runtime was shut down";
            self.resolver.end(self.sequence, &self.question, Err(Refused::Never(why.to_owned())));
        }
    }
}
