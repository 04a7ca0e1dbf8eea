//! One watcher's task: takes its newest notice, and signals the process or runs the command.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use conf_core::{
    daemon::{self, chain},
    retry::Backoff,
    suspect::CommandWords,
};
use libconf::name::ComponentVersion;
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{sleep, sleep_until},
};
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
    state::Agent,
};

/// 10 s: a job that is just starting may not have written its pidfile yet. One that starts later
/// reads the new files anyway.
const PIDFILE_GRACE: Duration = Duration::from_secs(10);

/// 1 s after the first failure, doubling up to 60 s: then it is tried again. The next change does
/// not wait for that.
const AGAIN: Duration = Duration::from_secs(1);
const MUCH_LATER: Duration = Duration::from_secs(60);

/// Receives the newest notice.
type Inbox = watch::Receiver<Option<Notice>>;

/// The task of one watcher.
pub(crate) struct Teller {
    pub(crate) id: WatcherId,
    pub(crate) recipient: Recipient,
    pub(crate) delay: Duration,
    /// A failure to tell it counts for this host's reports.
    pub(crate) counts: bool,
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
    /// It failed. Another attempt may help.
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
        let mut backoff = Backoff::new(AGAIN, MUCH_LATER);
        let mut failed: Option<(Notice, tokio::time::Instant)> = None;
        loop {
            let (mut notice, is_retry) = tokio::select! {
                () = &mut ended => return Some(self.id.clone()),
                () = self.stop.cancelled() => return None,
                next = next(&mut inbox) => {
                    backoff.reset();
                    (next?, false)
                }
                notice = due(failed.as_ref()) => (notice, true),
            };
            let outcome = tokio::select! {
                () = &mut ended => Outcome::Ended,
                outcome = self.tell(&mut inbox, &mut notice, is_retry) => outcome,
            };
            failed = None;
            match outcome {
                Outcome::Ended => return Some(self.id.clone()),
                Outcome::Stopped => return None,
                Outcome::Failed(why) => {
                    notice.failed = Some(why.clone());
                    self.fail(why);
                    failed = Some((notice, tokio::time::Instant::now() + backoff.next_wait()));
                }
                outcome => self.done(&notice, outcome),
            }
        }
    }

    /// Tells of `notice`, or of a newer one that it joined before anything was sent.
    async fn tell(&self, inbox: &mut Inbox, notice: &mut Notice, is_retry: bool) -> Outcome {
        // While it is tried again, the reason of the failure stays visible.
        self.show(WatcherState::Telling, notice.failed.clone());
        if !self.delay.is_zero() && !is_retry {
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
        let waiting = |reason: String, pause| {
            // A process that is just starting is no failure.
            if pause == LONGEST_LOOK {
                self.note_failure(&reason);
            }
            self.show(WatcherState::Waiting, Some(reason));
        };
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
            // It may lie on a file system that never answers: that keeps nobody else.
            let file = path.to_owned();
            let named = daemon::blocking(move || of_pidfile(&file)).await;
            let error = match named {
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

    async fn run_command(&self, words: &CommandWords, notice: &Notice) -> Outcome {
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
            user: None,
            output: view.exported.as_ref().map_or(Visibility::Nobody, |exported| exported.visibility(&components)),
        };
        match run_command(invocation, &self.stop).await {
            Ok(()) => Outcome::Told { pid: None },
            Err(CommandError::Stopped) => Outcome::Stopped,
            Err(error) => Outcome::Failed(chain(&error)),
        }
    }

    fn done(&self, notice: &Notice, outcome: Outcome) {
        let (is_told, pid, nobody) = match outcome {
            Outcome::Told { pid } => (true, pid, None),
            Outcome::Nobody(why) => (false, None, Some(why)),
            Outcome::Failed(_) | Outcome::Ended | Outcome::Stopped => return,
        };
        let (sequence, why) = (notice.sequence.0, nobody.as_deref());
        if is_told {
            tracing::info!(watcher = %self.id.0, sequence, "told");
        } else {
            tracing::info!(watcher = %self.id.0, sequence, why, "no process to tell");
        }
        let mut status = self.status.lock();
        if !matches!(self.recipient, Recipient::Process { .. }) {
            status.pid = pid;
        }
        if is_told {
            status.told(notice.sequence);
        } else {
            (status.state, status.sequence, status.when) = (WatcherState::Idle, notice.sequence, now());
            status.error = nobody;
        }
        // What it has to pass on is known before its notice goes.
        self.outbox.relaying(&self.id, status.not_passed_on(notice.sequence));
        drop(status);
        self.outbox.delivered(&self.id, notice);
        self.agent.update(|view| view.status.untold = self.outbox.untold());
    }

    /// Notes that telling failed, and logs a new reason once.
    fn fail(&self, why: String) {
        self.note_failure(&why);
        let mut status = self.status.lock();
        if status.error.as_ref() != Some(&why) {
            tracing::warn!(watcher = %self.id.0, error = why, "could not be told; trying again");
        }
        (status.state, status.when, status.error) = (WatcherState::Failed, now(), Some(why));
    }

    /// Has this host's reports name the failure, also after a restart of the agent.
    fn note_failure(&self, why: &str) {
        if !self.counts {
            return;
        }
        self.outbox.failed(&self.id, why);
        self.agent.update(|view| view.status.untold = self.outbox.untold());
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

/// Returns a notice that failed when it is time to try again.
async fn due(failed: Option<&(Notice, tokio::time::Instant)>) -> Notice {
    match failed {
        Some((notice, at)) => {
            sleep_until(*at).await;
            notice.clone()
        }
        None => std::future::pending().await,
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
    use crate::{
        notify::watcher::Watcher,
        state::{Status, View},
    };
    use conf_core::api::Pointer;
    use libconf::name::{CommitId, Sequence};

    #[test]
    fn a_watcher_that_cannot_be_told_of_the_next_change_either_misses_both() {
        let folder = tempfile::tempdir().unwrap();
        let status = Status::new("dc/v1".parse().unwrap(), "web-1".parse().unwrap(), folder.path());
        let (agent, _requests) = Agent::new(View::new(status), Vec::new());
        let outbox = Arc::new(Outbox::open(folder.path(), Sequence(4)));
        let id = WatcherId("reload".to_owned());
        let recipient = Recipient::Command(vec!["/bin/true".to_owned()].into());
        let watcher = Watcher::new(id.clone(), [].into(), recipient.clone(), Duration::ZERO, Sequence(4));
        let teller = Teller {
            id: id.clone(),
            recipient,
            delay: Duration::ZERO,
            counts: true,
            status: watcher.status,
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
            if works {
                teller.done(&notice, Outcome::Told { pid: None });
            } else {
                teller.fail("no".to_owned());
            }
            let about = agent.view().status.untold.get("reload").map(|untold| untold.about);
            assert_eq!(about.map(|about| (about.after.0, about.through.0)), shown, "#{sequence}");
        }
    }
}
