//! One watcher's task: takes its newest notice, and signals the process or runs the command.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use conf_core::daemon::chain;
use libconf::name::ComponentVersion;
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::{now, random_up_to},
    export::kept,
    notify::{
        outbox::{Notice, Outbox, WatcherId},
        watcher::{Recipient, WatcherState, WatcherStatus},
    },
    process::{
        Children, CommandError, FIRST_LOOK, Invocation, LONGEST_LOOK, Process, ProcessError, TIME_LIMIT, Visibility,
        of_pidfile, run_command, variables_of_change,
    },
    state::{Agent, Changes, Untold},
};

/// 10 s: a job that is just starting may not have written its pidfile yet. One that starts later
/// reads the new files anyway.
const PIDFILE_GRACE: Duration = Duration::from_secs(10);

/// Receives the newest notice.
type Inbox = watch::Receiver<Option<Notice>>;

/// The task of one watcher.
pub(crate) struct Teller {
    pub(crate) id: WatcherId,
    pub(crate) recipient: Recipient,
    pub(crate) delay: Duration,
    pub(crate) status: Arc<Mutex<WatcherStatus>>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) agent: Agent,
    pub(crate) stop: CancellationToken,
}

/// How telling a watcher ended.
enum Outcome {
    /// The signal was sent, or the command succeeded.
    Told { pid: Option<i32> },
    /// There is no process, and one that starts reads the new files.
    Nobody(String),
    /// It failed, and another attempt would not help.
    Failed(String),
    /// The process has ended, or this registration may not signal it any more.
    Ended,
    /// The agent stops; the notice stays.
    Stopped,
}

impl Teller {
    /// Tells until the agent stops. Returns the watcher if its process has ended.
    pub(crate) async fn run(self, mut inbox: Inbox) -> Option<WatcherId> {
        let pidfd = match &self.recipient {
            Recipient::Process { process, .. } => process.until_end().ok(),
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
            let mut notice = tokio::select! {
                () = &mut ended => return Some(self.id.clone()),
                () = self.stop.cancelled() => return None,
                next = next(&mut inbox) => next?,
            };
            let outcome = tokio::select! {
                () = &mut ended => Outcome::Ended,
                outcome = self.tell(&mut inbox, &mut notice) => outcome,
            };
            match outcome {
                Outcome::Ended => return Some(self.id.clone()),
                Outcome::Stopped => return None,
                outcome => self.done(&notice, outcome),
            }
        }
    }

    /// Tells of `notice`, or of a newer one that it joined before anything was sent.
    async fn tell(&self, inbox: &mut Inbox, notice: &mut Notice) -> Outcome {
        self.show(WatcherState::Telling, None);
        if !self.delay.is_zero() {
            tokio::select! {
                () = sleep(random_up_to(self.delay)) => {}
                () = self.stop.cancelled() => return Outcome::Stopped,
            }
        }
        let telling = async {
            match &self.recipient {
                Recipient::Process { process, signal, owner, .. } => {
                    self.signal(process, *signal, *owner, inbox, notice).await
                }
                Recipient::Pidfile { path, signal } => self.signal_by_pidfile(path, *signal, inbox, notice).await,
                Recipient::Command(words) => {
                    refresh(inbox, notice);
                    self.run_command(words, notice).await
                }
            }
        };
        tokio::select! {
            outcome = telling => outcome,
            // A command is ended first, with all that it started.
            () = self.stop.cancelled(), if !matches!(self.recipient, Recipient::Command(_)) => Outcome::Stopped,
        }
    }

    /// Signals the process once it handles the signal.
    async fn signal(
        &self,
        process: &Process,
        signal: Signal,
        owner: Option<u32>,
        inbox: &mut Inbox,
        notice: &mut Notice,
    ) -> Outcome {
        let waiting = |reason, _| self.show(WatcherState::Waiting, Some(reason));
        if process.until_ready(signal, owner, waiting).await.is_err() {
            return Outcome::Ended;
        }
        // A change after this gets a signal of its own.
        refresh(inbox, notice);
        match process.signal(signal) {
            Ok(()) => Outcome::Told { pid: Some(process.identity.pid) },
            Err(ProcessError::Gone(_)) => Outcome::Ended,
            Err(error) => Outcome::Failed(chain(&error)),
        }
    }

    async fn signal_by_pidfile(&self, path: &Path, signal: Signal, inbox: &mut Inbox, notice: &mut Notice) -> Outcome {
        let since = Instant::now();
        let mut pause = FIRST_LOOK;
        loop {
            let error = match of_pidfile(path) {
                Ok(process) => match self.signal(&process, signal, None, inbox, notice).await {
                    // The job was restarted meanwhile, and its file may name a new process soon.
                    Outcome::Ended => format!("process {} of {} has ended", process.identity.pid, path.display()),
                    outcome => return outcome,
                },
                Err(error) if error.is_absence() => format!("{}: {}", path.display(), chain(&error)),
                Err(error) => return Outcome::Failed(format!("{}: {}", path.display(), chain(&error))),
            };
            if since.elapsed() > PIDFILE_GRACE {
                return Outcome::Nobody(error);
            }
            self.show(WatcherState::Waiting, Some(error));
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_LOOK);
        }
    }

    async fn run_command(&self, words: &[String], notice: &Notice) -> Outcome {
        // The notice's own snapshot, or, if that is not kept any more, the newer one that replaced
        // it.
        let view = self.agent.view();
        let own = kept(&view.status.export, notice.sequence).map(|export| (notice.sequence, export));
        let newest = || view.exported.as_ref().map(|exported| (exported.sequence, exported.directory.clone()));
        let Some((sequence, export)) = own.or_else(newest) else {
            return Outcome::Failed("nothing is exported any more".to_owned());
        };
        let components: Vec<ComponentVersion> = notice.components.iter().cloned().collect();
        let invocation = Invocation {
            words,
            folder: Path::new("/"),
            variables: variables_of_change(sequence, &export, &components),
            limit: TIME_LIMIT,
            children: Children::Stay,
            output: view.exported.as_ref().map_or(Visibility::Nobody, |exported| exported.visibility(&components)),
        };
        match run_command(invocation, &self.stop).await {
            Ok(()) => Outcome::Told { pid: None },
            Err(CommandError::Stopped) => Outcome::Stopped,
            Err(error) => Outcome::Failed(chain(&error)),
        }
    }

    fn done(&self, notice: &Notice, outcome: Outcome) {
        let (state, pid, error) = match outcome {
            Outcome::Told { pid } => {
                tracing::info!(watcher = %self.id.0, sequence = notice.sequence.0, "told");
                (WatcherState::Told, pid, None)
            }
            Outcome::Nobody(why) => {
                tracing::info!(watcher = %self.id.0, sequence = notice.sequence.0, why, "no process to tell");
                (WatcherState::Idle, None, Some(why))
            }
            Outcome::Failed(why) => {
                tracing::warn!(watcher = %self.id.0, sequence = notice.sequence.0, error = why, "could not be told");
                (WatcherState::Failed, None, Some(why))
            }
            Outcome::Ended | Outcome::Stopped => return,
        };
        if let Err(error) = self.outbox.delivered(&self.id, notice.sequence) {
            tracing::warn!(watcher = %self.id.0, %error, "the outbox cannot be written; the watcher may be told once more");
        }
        let about = Changes { after: notice.after, through: notice.sequence };
        let untold = error.clone().filter(|_| state == WatcherState::Failed).map(|error| Untold { about, error });
        self.agent.update(|view| match untold {
            Some(untold) => {
                let failed = view.status.untold.get(&self.id.0).map(|failed| failed.about);
                let untold = Untold { about: untold.about.after_failed(failed), ..untold };
                view.status.untold.insert(self.id.0.clone(), untold);
            }
            None => drop(view.status.untold.remove(&self.id.0)),
        });
        let mut status = self.status.lock();
        if !matches!(self.recipient, Recipient::Process { .. }) {
            status.pid = pid;
        }
        (status.state, status.sequence, status.when, status.error) = (state, notice.sequence, now(), error);
    }

    fn show(&self, state: WatcherState, error: Option<String>) {
        let mut status = self.status.lock();
        if error.is_some() && error != status.error {
            tracing::warn!(watcher = %self.id.0, reason = error, "cannot be told yet");
        }
        status.state = state;
        status.error = error;
    }
}

/// Waits for the next notice. `None` if the registry is gone.
async fn next(inbox: &mut Inbox) -> Option<Notice> {
    loop {
        inbox.changed().await.ok()?;
        if let Some(notice) = inbox.borrow_and_update().clone() {
            return Some(notice);
        }
    }
}

/// Takes the newest notice, which the older one has joined.
fn refresh(inbox: &mut Inbox, notice: &mut Notice) {
    if let Some(newest) = inbox.borrow_and_update().clone() {
        *notice = newest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Status, View};
    use conf_core::api::Pointer;
    use libconf::name::{CommitId, Sequence};

    #[test]
    fn a_watcher_that_cannot_be_told_of_the_next_change_either_misses_both() {
        let folder = tempfile::tempdir().unwrap();
        let status = Status::new("dc/v1".parse().unwrap(), "web-1".parse().unwrap(), folder.path());
        let (agent, _requests) = Agent::new(View::new(status), Vec::new());
        let outbox = Arc::new(Outbox::open(folder.path(), Sequence(4)));
        let id = WatcherId("reload".to_owned());
        let status = WatcherStatus {
            id: id.clone(),
            target: String::new(),
            components: [].into(),
            user: None,
            pid: None,
            state: WatcherState::Idle,
            sequence: Sequence(4),
            when: now(),
            error: None,
        };
        let teller = Teller {
            id: id.clone(),
            recipient: Recipient::Command(vec!["/bin/true".to_owned()]),
            delay: Duration::ZERO,
            status: Arc::new(Mutex::new(status)),
            outbox: outbox.clone(),
            agent: agent.clone(),
            stop: CancellationToken::new(),
        };
        for (sequence, works, shown) in [
            (5, true, None),
            (6, false, Some((5, 6))),
            (7, false, Some((5, 7))),
            (8, true, None),
            (9, false, Some((8, 9))),
        ] {
            let at = Pointer { sequence: Sequence(sequence), commit: CommitId::ZERO };
            let web = ["services/web/latest".parse().unwrap()].into();
            outbox.switched(at, Sequence(sequence - 1), [(id.clone(), web)].into());
            let notice = outbox.pending()[&id].clone();
            teller.done(&notice, if works { Outcome::Told { pid: None } } else { Outcome::Failed("no".to_owned()) });
            let about = agent.view().status.untold.get("reload").map(|untold| untold.about);
            assert_eq!(about.map(|about| (about.after.0, about.through.0)), shown, "#{sequence}");
        }
    }
}
