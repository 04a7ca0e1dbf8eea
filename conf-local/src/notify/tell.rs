//! One watcher's task: takes its newest duty, and tells.

use std::{
    error::Error,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use conf_core::daemon::chain;
use libconf::name::{ComponentVersion, Sequence};
use nix::sys::signal::Signal;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    notify::duties::{Duties, Duty, WatcherId},
    process::command::{self, CommandError, Leaves, Occasion, Order, WordsFor},
    state::{Agent, kept},
};
use crate::{
    notify::{WatcherState, now},
    process::handle::{Process, ProcessError, Readiness, of_pidfile},
};

/// Between two looks at a process that cannot be told yet: from the first to the longest, doubling.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// A job that is just being started may not have written its pidfile yet. One that is started later reads the new files.
const PIDFILE_GRACE: Duration = Duration::from_secs(10);

/// Whom a watcher tells.
#[derive(Clone)]
pub(crate) enum Target {
    Process { process: Process, signal: Signal, owner: Option<u32>, name: String },
    Pidfile { path: PathBuf, signal: Signal },
    Command(Vec<String>),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Process { process, signal, name, .. } => write!(f, "{signal} to {} ({name})", process.identity.pid),
            Target::Pidfile { path, signal } => write!(f, "{signal} to {}", path.display()),
            Target::Command(words) => write!(f, "command {}", words.join(" ")),
        }
    }
}

/// How a watcher fares.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) state: WatcherState,
    /// Told of this change, or came when it was exported.
    pub(crate) sequence: Sequence,
    pub(crate) when: String,
    pub(crate) pid: Option<i32>,
    pub(crate) error: Option<String>,
}

impl Report {
    pub(crate) fn new(sequence: Sequence) -> Self {
        Report { state: WatcherState::Idle, sequence, when: now(), pid: None, error: None }
    }
}

/// Where the newest duty comes in.
pub(crate) type Inbox = watch::Receiver<Option<Duty>>;

/// The task of one watcher.
pub(crate) struct Teller {
    pub(crate) id: WatcherId,
    pub(crate) target: Target,
    pub(crate) delay: Duration,
    pub(crate) report: Arc<Mutex<Report>>,
    pub(crate) duties: Arc<Duties>,
    pub(crate) agent: Agent,
    pub(crate) stop: CancellationToken,
}

/// How a telling ended.
enum Outcome {
    /// Told: what was sent is sent, or the command succeeded.
    Told { pid: Option<i32> },
    /// There is nobody to tell, and whoever comes reads the new files.
    Nobody(String),
    /// It went wrong, and trying again would not better it.
    Failed(String),
    /// The process has ended, or is not to be signalled by this registration any more.
    Ended,
    /// The agent stops; the duty stays.
    Stopped,
}

impl Teller {
    /// Tells until the agent stops; or until the process has ended, and then gives back whose task it was.
    pub(crate) async fn run(self, mut inbox: Inbox) -> Option<WatcherId> {
        let pidfd = match &self.target {
            Target::Process { process, .. } => process.until_end().ok(),
            _ => None,
        };
        let ended = async {
            match &pidfd {
                Some(pidfd) => drop(pidfd.readable().await),
                None => std::future::pending().await,
            }
        };
        tokio::pin!(ended);
        loop {
            let mut duty = tokio::select! {
                () = &mut ended => return Some(self.id.clone()),
                () = self.stop.cancelled() => return None,
                next = next(&mut inbox) => next?,
            };
            let outcome = tokio::select! {
                () = &mut ended => Outcome::Ended,
                outcome = self.tell(&mut inbox, &mut duty) => outcome,
            };
            match outcome {
                Outcome::Ended => return Some(self.id.clone()),
                Outcome::Stopped => return None,
                outcome => self.done(&duty, outcome),
            }
        }
    }

    /// Tells of `duty`, or of the newer one that joined it before anything was sent.
    async fn tell(&self, inbox: &mut Inbox, duty: &mut Duty) -> Outcome {
        self.say(WatcherState::Telling, None);
        if !self.delay.is_zero() {
            let delay = self.delay.mul_f64(rand::random::<f64>());
            tokio::select! {
                () = sleep(delay) => {}
                () = self.stop.cancelled() => return Outcome::Stopped,
            }
        }
        let telling = async {
            match &self.target {
                Target::Process { process, signal, owner, .. } => {
                    self.signal(process, *signal, *owner, inbox, duty).await
                }
                Target::Pidfile { path, signal } => self.signal_by_pidfile(path, *signal, inbox, duty).await,
                Target::Command(words) => {
                    refresh(inbox, duty);
                    self.run_command(words, duty).await
                }
            }
        };
        tokio::select! {
            outcome = telling => outcome,
            // A command ends itself first, with what it started.
            () = self.stop.cancelled(), if !matches!(self.target, Target::Command(_)) => Outcome::Stopped,
        }
    }

    /// Signals the process once it can take the signal.
    async fn signal(
        &self,
        process: &Process,
        signal: Signal,
        owner: Option<u32>,
        inbox: &mut Inbox,
        duty: &mut Duty,
    ) -> Outcome {
        let mut look = FIRST_LOOK;
        let mut held_back = false;
        loop {
            let ready =
                owner.map_or(Ok(()), |owner| process.check_owner(owner)).and_then(|()| process.readiness(signal));
            let why = match ready {
                Ok(Readiness::Handled) => break,
                Ok(Readiness::HeldBack) if held_back => break,
                Ok(Readiness::HeldBack) => {
                    held_back = true;
                    format!("process {} holds {signal} back", process.identity.pid)
                }
                Ok(Readiness::Ignored) => format!("process {} ignores {signal}", process.identity.pid),
                Ok(Readiness::Deadly) => {
                    held_back = false;
                    let pid = process.identity.pid;
                    format!(
                        "process {pid} has no handler for {signal} yet, which would end it; it is told when it has one"
                    )
                }
                Err(ProcessError::Gone(_)) => return Outcome::Ended,
                Err(error) => chain(&error),
            };
            self.say(WatcherState::Waiting, Some(why));
            sleep(look).await;
            look = (look * 2).min(LONGEST_LOOK);
        }
        // What comes after this is told by another signal.
        refresh(inbox, duty);
        match process.signal(signal) {
            Ok(()) => Outcome::Told { pid: Some(process.identity.pid) },
            Err(ProcessError::Gone(_)) => Outcome::Ended,
            Err(error) => Outcome::Failed(chain(&error)),
        }
    }

    async fn signal_by_pidfile(&self, path: &Path, signal: Signal, inbox: &mut Inbox, duty: &mut Duty) -> Outcome {
        let since = Instant::now();
        let mut look = FIRST_LOOK;
        loop {
            let error = match of_pidfile(path) {
                Ok(process) => match self.signal(&process, signal, None, inbox, duty).await {
                    // The job was restarted meanwhile; its file may name a new process soon.
                    Outcome::Ended => format!("process {} of {} has ended", process.identity.pid, path.display()),
                    outcome => return outcome,
                },
                Err(error) if error.is_absence() => chain(&error),
                Err(error) => return Outcome::Failed(chain(&error)),
            };
            if since.elapsed() > PIDFILE_GRACE {
                return Outcome::Nobody(error);
            }
            self.say(WatcherState::Waiting, Some(error));
            sleep(look).await;
            look = (look * 2).min(LONGEST_LOOK);
        }
    }

    async fn run_command(&self, words: &[String], duty: &Duty) -> Outcome {
        // Its own snapshot, or, if that is not kept any more, the newer one that replaced it.
        let view = self.agent.view();
        let of_duty = kept(&view.status.export, duty.sequence).map(|export| (duty.sequence, export));
        let newest = || view.exported.as_ref().map(|exported| (exported.sequence, exported.directory.clone()));
        let Some((sequence, export)) = of_duty.or_else(newest) else {
            return Outcome::Failed("nothing is exported any more".to_owned());
        };
        let components: Vec<ComponentVersion> = duty.components.iter().cloned().collect();
        let occasion = Occasion { sequence, export: &export, components: &components };
        let (folder, variables) = (Path::new("/"), occasion.variables());
        let words_for = view.exported.as_ref().map_or(WordsFor::Nobody, |exported| exported.words_for(&components));
        let order = Order { words, folder, variables, limit: command::TIME_LIMIT, leaves: Leaves::Running, words_for };
        match command::run(order, &self.stop).await {
            Ok(()) => Outcome::Told { pid: None },
            Err(CommandError::Stopped) => Outcome::Stopped,
            Err(error) => Outcome::Failed(chain(&error)),
        }
    }

    fn done(&self, duty: &Duty, outcome: Outcome) {
        let (state, pid, error) = match outcome {
            Outcome::Told { pid } => {
                tracing::info!(watcher = %self.id.0, sequence = %duty.sequence, "told");
                (WatcherState::Told, pid, None)
            }
            Outcome::Nobody(why) => {
                tracing::info!(watcher = %self.id.0, sequence = %duty.sequence, why, "nobody to tell");
                (WatcherState::Idle, None, Some(why))
            }
            Outcome::Failed(why) => {
                tracing::warn!(watcher = %self.id.0, sequence = %duty.sequence, error = why, "could not be told");
                (WatcherState::Failed, None, Some(why))
            }
            Outcome::Ended | Outcome::Stopped => return,
        };
        if let Err(error) = self.duties.delivered(&self.id, duty.sequence) {
            let error: &dyn Error = &error;
            tracing::warn!(watcher = %self.id.0, error, "the journal cannot be written; this may be told once more");
        }
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        *report = Report { state, sequence: duty.sequence, when: now(), pid, error };
    }

    fn say(&self, state: WatcherState, error: Option<String>) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        if error.is_some() && error != report.error {
            tracing::warn!(watcher = %self.id.0, reason = error, "cannot be told yet");
        }
        report.state = state;
        report.error = error;
    }
}

/// The next duty; none when the registry is gone.
async fn next(inbox: &mut Inbox) -> Option<Duty> {
    loop {
        inbox.changed().await.ok()?;
        if let Some(duty) = inbox.borrow_and_update().clone() {
            return Some(duty);
        }
    }
}

/// Takes the newest duty, into which the older one was joined.
fn refresh(inbox: &mut Inbox, duty: &mut Duty) {
    if let Some(newest) = inbox.borrow_and_update().clone() {
        *duty = newest;
    }
}
